"""Standard streams that are pipes and files: exact, replayed, and gone when their reader goes."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from jobs import count
from jobs.hurried import HURRY

if TYPE_CHECKING:
    from support.run import Lab

pytestmark = pytest.mark.usefixtures("held")

JOBS = Path(__file__).parent / "jobs"
OFTEN = ("--interval", "0.4s")


def test_both_output_pipes_are_exact_and_apart(lab: Lab):
    script = "import sys; sys.stdout.write('out\\n' * 3); sys.stderr.write('err\\n' * 2)"
    result = lab.run(sys.executable, "-c", script)
    assert (result.stdout, result.stderr) == (b"out\n" * 3, b"err\n" * 2)


def test_bytes_pass_through_unchanged(lab: Lab):
    script = "import os; [os.write(1, os.urandom(0) + bytes(range(256)) * 4096) for _ in range(8)]"
    result = lab.run(sys.executable, "-c", script)
    assert hashlib.sha256(result.stdout).digest() == hashlib.sha256(bytes(range(256)) * 4096 * 8).digest()


def test_output_without_a_line_end_arrives(lab: Lab):
    assert lab.run("printf", "no newline").stdout == b"no newline"


def test_tee_gets_everything(lab: Lab):
    result = lab.shell("set -o pipefail; ckptrun seq 1 20000 | tee copy.txt | tail -1")
    assert (result.code, result.out) == (0, "20000\n"), result.err
    assert (lab.work / "copy.txt").read_text() == "".join(f"{n}\n" for n in range(1, 20001))


def test_a_reader_that_goes_away_ends_the_job_as_it_would_without_ckptrun(lab: Lab):
    result = lab.shell("ckptrun yes | head -1; echo ${PIPESTATUS[0]}")
    assert result.out.splitlines() == ["y", "141"], result.err  # 128 + SIGPIPE


def test_a_python_job_learns_of_a_reader_that_went_away(lab: Lab):
    script = (
        "import sys\ntry:\n while True: print('y' * 100)\nexcept BrokenPipeError: sys.stderr.write('told')"
    )
    result = lab.shell(f'ckptrun {sys.executable} -c "{script}" | head -1')
    assert "told" in result.err


def test_output_redirected_to_a_file_is_all_there(lab: Lab):
    result = lab.shell("ckptrun seq 1 5000 > out.txt 2> err.txt")
    assert result.code == 0
    assert (lab.work / "out.txt").read_text() == "".join(f"{n}\n" for n in range(1, 5001))
    assert (lab.work / "err.txt").read_text() == ""


def test_appending_to_a_file_keeps_what_was_there(lab: Lab):
    (lab.work / "out.txt").write_text("before\n")
    lab.shell("ckptrun echo after >> out.txt")
    assert (lab.work / "out.txt").read_text() == "before\nafter\n"


def test_standard_input_from_a_pipe_reaches_the_job(lab: Lab):
    result = lab.shell("seq 1 30000 | ckptrun sha256sum")
    expected = hashlib.sha256("".join(f"{n}\n" for n in range(1, 30001)).encode()).hexdigest()
    assert result.out.split()[0] == expected, result.err


def test_standard_input_from_a_file_reaches_the_job(lab: Lab):
    (lab.work / "in.txt").write_text("one\ntwo\n")
    assert lab.shell("ckptrun cat < in.txt").out == "one\ntwo\n"


def test_a_job_that_leaves_its_input_unread_still_ends(lab: Lab):
    assert lab.shell("yes | ckptrun head -1").out == "y\n"


def test_a_closed_standard_input_is_the_end_of_input(lab: Lab):
    assert lab.shell("ckptrun sh -c 'cat; echo end' <&-").out == "end\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_is_taken_for_nothing_else(lab: Lab, closed: str):
    script = "import sys; print(len(sys.stdin.read())); sys.stderr.write('mar' + 'ker'); print('mar' + 'ker')"
    result = lab.shell(f"ckptrun {sys.executable} -c \"{script}; open('done', 'w')\" {closed}")
    assert result.code == 0, result.err
    assert (lab.work / "done").exists()
    if closed == "<&-":
        assert result.out == "0\nmarker\n"
    files = [path for path in lab.folder.rglob("*") if path.is_file()]
    assert not [path for path in files if b"marker" in path.read_bytes()]


def test_dev_null_as_input_is_the_end_of_input(lab: Lab):
    assert lab.run("sh", "-c", "cat; echo end").out == "end\n"


@pytest.mark.slow
def test_output_goes_on_after_a_restore_and_repeats_only_what_followed_the_checkpoint(lab: Lab):
    job = (JOBS / "hurried.py", JOBS / "count.py", "--steps", 150, "--talk", "--pause", 0.1)
    run = lab.start(sys.executable, *job)
    run.prints("\n")
    run.checkpoint()
    assert run.stdout is not None
    output, printed = run.stdout, len(run.stdout.data)
    run.until("more lines", lambda: output.data.count(b"\n", printed) > 1)
    run.restored(run.kill_job)
    (lab.work / HURRY).touch()
    result = run.finish()
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[-1].startswith("result")
    assert set(lines[:-1]) == set(count.lines(150))
    steps = [int(line.split()[0]) for line in lines[:-1]]
    (back,) = [at for at in range(1, len(steps)) if steps[at] <= steps[at - 1]]  # one jump, to the checkpoint
    assert steps == [*range(1, steps[back - 1] + 1), *range(steps[back], 151)]


@pytest.mark.slow
def test_a_job_whose_reader_went_away_for_good_is_not_restored_for_ever(lab: Lab):
    reader, writer = os.pipe()
    run = lab.start(
        sys.executable, JOBS / "count.py", "--steps", 100000, "--talk", options=OFTEN, stdout=writer
    )
    os.close(writer)
    run.commit(1)
    os.close(reader)
    assert run.wait().code in {
        1,
        120,
    }  # BrokenPipeError, now or when Python flushes, each time it is restored


@pytest.mark.slow
def test_piped_input_is_replayed_every_line_once(lab: Lab):
    lines = [f"line {number}\n" for number in range(120)]
    run = lab.start(sys.executable, JOBS / "lines.py", 0.03, options=OFTEN, stdin=subprocess.PIPE)
    run.stdin.write("".join(lines).encode())
    run.stdin.close()
    run.commit(2)
    run.restored(run.kill_job)
    run.commit(1)
    run.restored(run.kill_job)
    result = run.finish()
    assert result.code == 0, result.err
    assert (lab.work / "done.txt").read_text() == "".join(lines)
    assert result.out == "120 lines\n"


@pytest.mark.slow
def test_input_that_comes_slowly_is_not_lost_between_two_incarnations(lab: Lab):
    run = lab.start(sys.executable, "-u", JOBS / "lines.py", 0, options=OFTEN, stdin=subprocess.PIPE)
    sent = []

    def send(count_: int) -> None:
        for _ in range(count_):
            sent.append(f"line {len(sent)}\n")
            run.stdin.write(sent[-1].encode())
            run.stdin.flush()

    send(10)
    run.commit(2)
    send(10)
    done = lab.work / "done.txt"
    run.until("twenty lines", lambda: done.exists() and done.read_text().count("\n") == 20)
    run.restored(run.kill_job)
    send(10)
    run.stdin.close()
    assert run.finish().code == 0
    assert done.read_text() == "".join(sent)


@pytest.mark.slow
def test_the_same_input_is_given_again_to_a_new_run_that_resumes(lab: Lab):
    (lab.work / "in.txt").write_text("".join(f"line {number}\n" for number in range(100)))
    command = (sys.executable, JOBS / "lines.py", 0.03)
    with (lab.work / "in.txt").open("rb") as source:
        run = lab.start(*command, options=OFTEN, stdin=source)
        run.commit(2)
        run.kill_supervisor()
    with (lab.work / "in.txt").open("rb") as source:
        again = lab.run(*command, options=OFTEN, stdin=source)
    assert again.code == 0, again.err
    assert (lab.work / "done.txt").read_text() == (lab.work / "in.txt").read_text()


@pytest.mark.slow
def test_a_redirected_output_survives_the_death_of_ckptrun(lab: Lab):
    command = (sys.executable, JOBS / "count.py", "--steps", 120, "--talk", "--pause", 0.05)
    with (lab.work / "out.txt").open("ab") as target:
        run = lab.start(*command, options=OFTEN, stdout=target)
        run.commit(2)
        run.kill_supervisor()
        result = lab.run(*command, options=OFTEN, stdout=target)
    assert result.code == 0, result.err
    printed = (lab.work / "out.txt").read_text().splitlines()
    assert printed == [*count.lines(120), count.result(120)]


@pytest.mark.slow
def test_a_flood_of_input_is_replayed_exactly(lab: Lab):
    flood = "".join(f"{number:063d}\n" for number in range(250_000)).encode()  # 16 MB
    (lab.work / "in.bin").write_bytes(flood)
    script = (
        "import hashlib, os, time\n"
        "digest = hashlib.sha256()\n"
        "while data := os.read(0, 50_000): digest.update(data); time.sleep(0.01)\n"
        "while os.path.exists('hold'): time.sleep(0.01)\n"
        "print(digest.hexdigest())\n"
    )
    feeder = subprocess.Popen(["cat", lab.work / "in.bin"], stdout=subprocess.PIPE)
    run = lab.start(sys.executable, "-c", script, options=OFTEN, stdin=feeder.stdout)
    for _ in range(3):
        run.commit()
        run.restored(run.kill_job)
    result = run.finish()
    feeder.wait()
    assert (result.code, result.out.strip()) == (0, hashlib.sha256(flood).hexdigest()), result.err


@pytest.mark.slow
def test_a_flood_of_output_is_exact_while_checkpoints_are_taken(lab: Lab):
    script = "import os\nfor n in range(3000): os.write(1, b'%08d' % n * 1000)\n"
    result = lab.shell(
        f'set -o pipefail; ckptrun {sys.executable} -c "{script}" | (sleep 1; sha256sum)', options=OFTEN
    )
    expected = hashlib.sha256(b"".join(b"%08d" % n * 1000 for n in range(3000))).hexdigest()
    assert (result.code, result.out.split()[0]) == (0, expected), result.err


@pytest.mark.slow
def test_a_pipeline_inside_the_job_survives_a_kill(lab: Lab):
    stage = "import sys, time\nfor line in sys.stdin: print(int(line) * 2, flush=True); time.sleep(0.01)"
    (lab.work / "stage.py").write_text(stage)
    run = lab.start(
        "bash",
        "-c",
        "(seq 1 199; while [ -e hold ]; do sleep 0.05; done; echo 200) | "
        f"{sys.executable} stage.py | {sys.executable} stage.py > out.txt; tail -1 out.txt",
        options=OFTEN,
    )
    for _ in range(2):
        run.commit()
        run.restored(run.kill_job)
    result = run.finish()
    assert (result.code, result.out) == (0, "800\n"), result.err
    assert (lab.work / "out.txt").read_text() == "".join(f"{n * 4}\n" for n in range(1, 201))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["wb", "ab"])
def test_a_redirected_output_has_every_line_once_after_a_kill(lab: Lab, mode: str):
    both = lab.work / "both.txt"
    both.write_text("before\n")
    with both.open(mode) as target:
        command = (sys.executable, JOBS / "count.py", "--steps", 120, "--talk", "--pause", 0.05)
        run = lab.start(*command, stdout=target, stderr=subprocess.STDOUT)
        run.checkpoint()
        run.checkpoint()
        size = both.stat().st_size
        run.until("more output", lambda: both.stat().st_size > size)
        run.restored(run.kill_job)
        assert run.finish().code == 0
    printed = both.read_text().splitlines()
    own = [line for line in printed if line.startswith("ckptrun: ")]
    lines = ["before"] if mode == "ab" else []
    assert [line for line in printed if line not in own] == [*lines, *count.lines(120), count.result(120)]
    assert any("the job ended with SIGKILL" in line for line in own)
    assert any(re.search(r"taken \d+ s ago; \d+ bytes of output are written anew", line) for line in own)
