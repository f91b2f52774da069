"""A sidecar that is killed, and the next one, which goes on with the job as it is, if nothing of it would be lost."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from jobs import count

if TYPE_CHECKING:
    from support.pod import Pod

pytestmark = pytest.mark.slow

QUIET = ("--interval", "off")
STEPS = 60
COMMAND = ("count.py", "--steps", str(STEPS), "--talk")

FLOOD = """
import pathlib, sys
number = 0
while number < 100_000 or pathlib.Path("hold").exists():
    number += 1
    print(number)
print("end")
"""
"""A job whose pipe is never empty."""

MAKER = """
import os, pathlib, time
step = 0
done = pathlib.Path("done.txt")
while step < 10 or pathlib.Path("hold").exists():
    step += 1
    pathlib.Path(f"made-{step}").write_text(str(step))
    os.rename(f"made-{step}", f"kept-{step}")
    pathlib.Path(f"kept-{step - 3}").unlink(missing_ok=True)
    if step % 2:
        pathlib.Path("changed").write_text(str(step))
    done.write_text(str(step))
    time.sleep(0.02)
    found = sorted(int(path.name[5:]) for path in pathlib.Path().glob("kept-*"))
    assert found == list(range(max(step - 2, 1), step + 1)), (found, step)
    assert all(pathlib.Path(f"kept-{one}").read_text() == str(one) for one in found)
    assert int(pathlib.Path("changed").read_text()) == step - (step % 2 == 0)
print("made")
"""
"""A job that makes, renames, changes and removes files, none open at a checkpoint, and looks at them all."""

SPEAKER = """
import pathlib, time
from ckptrun import job
job.heartbeat()
step = 0
while step < 10 or pathlib.Path("hold").exists():
    step += 1
    pathlib.Path("seen").write_text(str(step))
    time.sleep(0.02)
print("spoken")
"""


def expected() -> str:
    return "\n".join([*count.lines(STEPS), count.result(STEPS), ""])


def handed_over(pod: Pod) -> None:
    """Wait until the sidecar has left what the next one needs."""
    pod.until("handover", (pod.run_dir / "handover.json").exists)


def more(pod: Pod, name: str, steps: int = 5) -> None:
    """Wait until the job has come so many steps further."""
    path = pod.volume / name

    def now() -> int:
        return int(path.read_text() or 0) if path.exists() else 0

    before = now()
    pod.until("more steps", lambda: now() > before + steps)


def test_the_job_goes_on_as_it_is(pod: Pod) -> None:
    sidecar = pod.sidecar(*QUIET, once=True)
    job = pod.job(*COMMAND)
    pod.lines(10)
    first = pod.job_pid()
    for times in (1, 2):
        handed_over(pod)
        sidecar.kill()
        pod.lines(10 + 10 * times)
        sidecar = pod.sidecar(*QUIET, once=True)
        pod.event("job-resumed", times)
        sidecar.says("the job has run on meanwhile")
        pod.checkpoint()
        assert pod.job_pid() == first
    assert pod.events("job-restored") == []
    pod.release()
    ended = job.wait()
    assert (ended.code, ended.out, ended.err) == (0, expected(), "")
    assert (pod.volume / "log.txt").read_text().splitlines() == count.lines(STEPS)
    assert sidecar.wait().code == 0
    pod.expect_nothing_left()


def test_it_is_restored_afterwards_as_ever(pod: Pod) -> None:
    sidecar = pod.sidecar(*QUIET, once=True)
    job = pod.job(*COMMAND)
    pod.lines(10)
    older = pod.checkpoint()
    pod.lines(20)
    handed_over(pod)
    sidecar.kill()
    sidecar = pod.sidecar(*QUIET, once=True)
    pod.event("job-resumed")
    os.kill(pod.job_pid(), signal.SIGKILL)
    assert pod.event("job-restored")["checkpoint"] == older, (
        "the checkpoints of the sidecar before are the job's"
    )
    newer = pod.checkpoint()
    os.kill(pod.job_pid(), signal.SIGKILL)
    assert pod.event("job-restored", 2)["checkpoint"] == newer
    pod.release()
    ended = job.wait()
    assert ended.code == 0
    assert ended.out.splitlines()[-1] == count.result(STEPS)
    assert (pod.volume / "log.txt").read_text().splitlines() == count.lines(STEPS)
    assert sidecar.wait().code == 0
    pod.expect_nothing_left()


def test_no_byte_of_its_output_is_lost_or_comes_twice(pod: Pod) -> None:
    (pod.volume / "flood.py").write_text(FLOOD)
    sidecar = pod.sidecar(*QUIET, once=True)
    job = pod.job("flood.py")
    for times in range(1, 6):
        size = len(job.stdout.data)
        pod.until("more output", lambda size=size: len(job.stdout.data) > size + 50_000)  # type: ignore[misc]
        handed_over(pod)
        sidecar.kill()
        sidecar = pod.sidecar(*QUIET, once=True)
        pod.event("job-resumed", times)
        if times == 3:
            pod.checkpoint()
    pod.release()
    *lines, end = job.wait().out.splitlines()
    assert end == "end"
    assert lines == [str(number) for number in range(1, len(lines) + 1)]
    assert pod.events("job-restored") == []


def test_what_it_does_to_files_meanwhile_is_brought_back(pod: Pod) -> None:
    (pod.volume / "maker.py").write_text(MAKER)
    sidecar = pod.sidecar(*QUIET, once=True)
    job = pod.job("maker.py")
    more(pod, "done.txt")
    pod.checkpoint()
    for times in (1, 2):
        more(pod, "done.txt")
        handed_over(pod)
        sidecar.kill()
        more(pod, "done.txt")
        sidecar = pod.sidecar(*QUIET, once=True)
        pod.event("job-resumed", times)
        more(pod, "done.txt")
    for times in (1, 2):  # to the checkpoint from before, and to one from after
        os.kill(pod.job_pid(), signal.SIGKILL)
        pod.event("job-restored", times)
        more(pod, "done.txt")
        if times == 1:
            pod.release()
            ended = job.wait()
            break
    assert (ended.code, ended.out, ended.err) == (0, "made\n", "")
    assert "cannot" not in sidecar.wait().err
    assert "no longer" not in sidecar.stderr.data.decode()


def test_a_checkpoint_taken_afterwards_has_every_file(pod: Pod) -> None:
    (pod.volume / "maker.py").write_text(MAKER)
    sidecar = pod.sidecar(*QUIET, once=True)
    job = pod.job("maker.py")
    more(pod, "done.txt")
    handed_over(pod)
    sidecar.kill()
    more(pod, "done.txt")
    sidecar = pod.sidecar(*QUIET, once=True)
    pod.event("job-resumed")
    pod.checkpoint()
    more(pod, "done.txt")
    os.kill(pod.job_pid(), signal.SIGKILL)
    pod.event("job-restored")
    more(pod, "done.txt")
    pod.release()
    ended = job.wait()
    assert (ended.code, ended.out, ended.err) == (0, "made\n", "")
    assert sidecar.wait().code == 0


def test_a_job_that_fails_without_a_sidecar_ends_with_its_code_and_all_its_output(pod: Pod) -> None:
    sidecar = pod.sidecar(*QUIET, once=True)
    job = pod.job("count.py", "--steps", "20", "--talk", "--fail-at", "20")
    pod.lines(19)
    handed_over(pod)
    sidecar.kill()
    pod.release()
    pod.lines(20)
    sidecar = pod.sidecar(*QUIET, once=True)
    ended = job.wait()
    assert (ended.code, ended.out, ended.err) == (3, "\n".join([*count.lines(20), ""]), "the job fails\n")
    assert sidecar.wait().code == 3


def test_a_job_that_ends_well_without_a_sidecar_has_ended(pod: Pod) -> None:
    sidecar = pod.sidecar(*QUIET, once=True)
    job = pod.job(*COMMAND)
    pod.lines(STEPS - 1)
    pod.checkpoint()
    handed_over(pod)
    sidecar.kill()
    pod.release()
    pod.lines(STEPS)
    sidecar = pod.sidecar(*QUIET, once=True)
    ended = job.wait()
    assert (ended.code, ended.out, ended.err) == (0, expected(), "")
    assert sidecar.wait().code == 0
    assert pod.events("job-restored") == []
    again = pod.sidecar(*QUIET, once=True)  # what was finished is begun anew
    assert pod.job(*COMMAND).wait().out == expected()
    assert again.wait().code == 0


def test_a_stop_that_comes_meanwhile_is_taken_by_the_next_sidecar(pod: Pod) -> None:
    sidecar = pod.sidecar(*QUIET, once=True)
    job = pod.job(*COMMAND)
    pod.lines(10)
    handed_over(pod)
    sidecar.kill()
    job.send_signal(signal.SIGTERM)
    sidecar = pod.sidecar(*QUIET, once=True)
    assert job.wait().code == 75
    assert sidecar.wait().code == 75
    assert pod.events("checkpoint-committed") != []


def test_a_job_that_has_spoken_with_ckptrun_is_restored(pod: Pod) -> None:
    (pod.volume / "speaker.py").write_text(SPEAKER)
    sidecar = pod.sidecar(*QUIET, once=True)
    job = pod.job("speaker.py")
    more(pod, "seen")
    pod.checkpoint()
    assert not (pod.run_dir / "handover.json").exists()
    sidecar.kill()
    sidecar = pod.sidecar(*QUIET, once=True)
    sidecar.says("cannot be gone on with as it is")
    pod.event("job-restored")
    pod.release()
    ended = job.wait()
    assert (ended.code, ended.out, ended.err) == (0, "spoken\n", "")
    assert sidecar.wait().code == 0


def test_a_job_whose_dump_was_cut_short_is_restored(pod: Pod) -> None:
    entered = pod.folder / "entered"
    hook = pod.folder / "hook.sh"
    hook.write_text(
        f'#!/bin/sh\n[ "$CKPTRUN_PHASE" = pre-checkpoint ] && [ -e {pod.folder}/wait ] || exit 0\n'
        f"touch {entered}; exec sleep 600\n"
    )
    hook.chmod(0o755)
    options = (*QUIET, "--hook", str(hook))
    sidecar = pod.sidecar(*options, once=True)
    job = pod.job(*COMMAND)
    pod.lines(10)
    pod.checkpoint()
    handed_over(pod)
    (pod.folder / "wait").touch()
    os.kill(sidecar.pid, signal.SIGUSR1)
    pod.until("hook", entered.exists)
    assert not (pod.run_dir / "handover.json").exists()
    sidecar.kill()
    (pod.folder / "wait").unlink()
    sidecar = pod.sidecar(*options, once=True)
    pod.event("job-restored")
    pod.release()
    ended = job.wait()
    assert ended.code == 0
    assert ended.out.splitlines()[-1] == count.result(STEPS)
    assert (pod.volume / "log.txt").read_text().splitlines() == count.lines(STEPS)
    assert sidecar.wait().code == 0
