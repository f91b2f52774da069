"""Output redirected to files, over restores: every line once, whoever else writes there, wherever the file lies."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from jobs import count

from ckptrun.journal import listed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.run import Lab, Run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("held")]

OFTEN = ("--interval", "0.4s")
STEPS = 120
JOB = (
    sys.executable,
    Path(__file__).parent / "jobs" / "count.py",
    "--steps",
    STEPS,
    "--talk",
    "--pause",
    0.05,
)
EVERY_LINE = [*count.lines(STEPS), count.result(STEPS)]


def of_the_job(path: Path) -> list[str]:
    """Return the lines that are neither ckptrun's nor the test's own."""
    return [line for line in path.read_text().splitlines() if not line.startswith(("ckptrun: ", "theirs "))]


def checkpoint_amid(run: Run, path: Path) -> None:
    """Have a checkpoint taken after some lines of the job's, and more lines written after it."""
    run.until("lines", lambda: len(of_the_job(path)) > 5)
    run.checkpoint()
    lines = len(of_the_job(path))
    run.until("more lines", lambda: len(of_the_job(path)) > lines)


@contextlib.contextmanager
def somebody_appending(path: Path) -> Iterator[list[str]]:
    """Append lines to a file all the time, by a descriptor of our own; yields those written so far."""
    stop = threading.Event()
    written: list[str] = []

    def work() -> None:
        with path.open("a", encoding="ascii", buffering=1) as file:
            while not stop.wait(0.005):
                written.append(f"theirs {len(written)}")
                file.write(written[-1] + "\n")

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield written
    finally:
        stop.set()
        thread.join()


def test_what_others_append_to_the_same_file_is_all_there(lab: Lab):
    log = lab.work / "shared.txt"
    with log.open("ab") as target, somebody_appending(log) as theirs:
        run = lab.start(*JOB, options=OFTEN, stdout=target, stderr=subprocess.STDOUT)
        for _ in range(2):
            run.commit(1)
            run.restored(run.kill_job)
        assert run.finish().code == 0
    lines = log.read_text().splitlines()
    assert of_the_job(log) == EVERY_LINE
    assert [line for line in lines if line.startswith("theirs ")] == theirs
    assert sum("the job runs again" in line for line in lines) == 2


def test_what_others_appended_between_two_runs_is_kept_aside(lab: Lab):
    log = lab.work / "shared.txt"
    with log.open("ab") as target:
        run = lab.start(*JOB, stdout=target)
        checkpoint_amid(run, log)
        run.kill_supervisor()
        with log.open("a") as other:
            other.write("theirs, while nobody ran\n")
        result = lab.run(*JOB, options=OFTEN, stdout=target)
    assert result.code == 0, result.err
    assert of_the_job(log) == EVERY_LINE
    assert "bytes of output are written anew" in result.err
    kept = [entry for entry in listed(lab.run_dir / "aside") if entry.path == str(log)]
    assert b"theirs, while nobody ran\n" in (lab.run_dir / "aside" / kept[-1].id).read_bytes()


@pytest.mark.parametrize("mode", ["wb", "ab"])
def test_both_streams_in_one_file_survive_the_death_of_ckptrun(lab: Lab, mode: str):
    both = lab.work / "both.txt"
    with both.open(mode) as target:
        run = lab.start(*JOB, stdout=target, stderr=subprocess.STDOUT)
        checkpoint_amid(run, both)
        run.kill_supervisor()
        again = lab.start(*JOB, options=OFTEN, stdout=target, stderr=subprocess.STDOUT)
        assert again.finish().code == 0
    lines = both.read_text().splitlines()
    assert of_the_job(both) == EVERY_LINE
    assert any("was interrupted; going on from its checkpoint" in line for line in lines)
    assert any("bytes of output are written anew" in line for line in lines)


@pytest.mark.parametrize("mode", ["wb", "ab"])
def test_a_file_on_another_mount_is_cut_back_too(lab: Lab, mode: str):
    if Path("/dev/shm").stat().st_dev == lab.work.stat().st_dev:
        pytest.skip("there is no other mount to write to")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        out = Path(folder) / "out.txt"
        with out.open(mode) as target:
            run = lab.start(*JOB, options=OFTEN, stdout=target)
            run.commit(2)
            run.restored(run.kill_job)
            run.commit(1)
            run.kill_supervisor()
            result = lab.run(*JOB, options=OFTEN, stdout=target)
        assert result.code == 0, result.err
        assert of_the_job(out) == EVERY_LINE


def test_a_file_that_is_deleted_meanwhile_takes_nothing_from_the_job(lab: Lab):
    out = lab.work / "out.txt"
    with out.open("w+b") as target:
        run = lab.start(*JOB, stdout=target)
        checkpoint_amid(run, out)
        out.unlink()
        run.restored(run.kill_job)
        result = run.finish()
        assert result.code == 0, result.err
        target.seek(0)
        assert target.read().decode().splitlines() == EVERY_LINE
    assert not out.exists()


def test_a_file_that_was_put_back_from_a_copy_is_known_by_its_content(lab: Lab):
    out = lab.work / "out.txt"
    with out.open("ab") as target:
        run = lab.start(*JOB, stdout=target)
        checkpoint_amid(run, out)
        run.kill_supervisor()
    shutil.copy(out, lab.work / "copy.txt")
    (lab.work / "copy.txt").replace(out)
    with out.open("ab") as target:
        result = lab.run(*JOB, options=OFTEN, stdout=target)
    assert result.code == 0, result.err
    assert of_the_job(out) == EVERY_LINE


def test_a_file_that_was_replaced_by_another_is_left_alone_and_said(lab: Lab):
    out = lab.work / "out.txt"
    with out.open("ab") as target:
        run = lab.start(*JOB, stdout=target)
        checkpoint_amid(run, out)
        run.kill_supervisor()
    out.unlink()
    other = "something else\n" * 5000
    out.write_text(other)
    with out.open("ab") as target:
        result = lab.run(*JOB, options=OFTEN, stdout=target)
    assert result.code == 0, result.err
    assert f"{out} does not hold what it held at the checkpoint" in result.err
    assert out.read_text().startswith(other)
    assert out.read_text().splitlines()[-1] == EVERY_LINE[-1]


def test_a_file_that_the_second_run_empties_is_said(lab: Lab):
    out = lab.work / "out.txt"
    with out.open("wb") as target:
        run = lab.start(*JOB, stdout=target)
        checkpoint_amid(run, out)
        run.kill_supervisor()
    with out.open("wb") as target:
        result = lab.run(*JOB, options=OFTEN, stdout=target)
    assert result.code == 0, result.err
    assert "bytes shorter than at the checkpoint" in result.err
    assert "'>>' keeps it" in result.err
    lines = of_the_job(out)
    assert 0 < len(lines) < len(EVERY_LINE)
    assert lines == EVERY_LINE[-len(lines) :]


@pytest.mark.parametrize("other", [b"something else\n" * 100, b"line 0\n"], ids=["another", "shorter"])
def test_another_piped_input_is_refused_and_the_right_one_goes_on(lab: Lab, other: bytes):
    lines = "".join(f"line {number}\n" for number in range(100))
    command = (sys.executable, Path(__file__).parent / "jobs" / "lines.py", 0.06)
    run = lab.start(*command, stdin=subprocess.PIPE)
    run.stdin.write(lines.encode())
    run.stdin.close()
    run.until(
        "some lines", lambda: (lab.work / "done.txt").exists() and (lab.work / "done.txt").stat().st_size
    )
    run.checkpoint()
    run.kill_supervisor()
    done = (lab.work / "done.txt").read_text()
    for text in (other, lines.encode()):
        again = lab.start(*command, options=OFTEN, stdin=subprocess.PIPE)
        again.stdin.write(text)
        again.stdin.close()
        result = again.finish()
        if text == other:
            assert result.code == 74, result.err
            assert "standard input" in result.err
            assert "give it the same input again" in result.err
            assert (lab.work / "done.txt").read_text() == done
    assert result.code == 0, result.err
    assert (lab.work / "done.txt").read_text() == lines
