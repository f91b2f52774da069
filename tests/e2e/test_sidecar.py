"""The sidecar mode without a kubelet: see `support.pod`."""

from __future__ import annotations

import json
import os
import signal
import sys

import psutil
import pytest
from jobs import count
from support.pod import UID, Pod

pytestmark = pytest.mark.slow

STEPS = 60
COMMAND = ("count.py", "--steps", str(STEPS), "--talk")
QUIET = ("--interval", "off")


KEEPER = """
import os, pathlib, tempfile, time
gone = open("gone.txt", "w+")
os.unlink("gone.txt")
places = [pathlib.Path("closed.txt"), pathlib.Path("/dev/shm/memory"), pathlib.Path(tempfile.mkdtemp(), "file")]
step = 0
while step < 10 or pathlib.Path("hold").exists():
    step += 1
    for place in places:
        place.write_text(str(step))
    gone.seek(0)
    gone.write(str(step))
    gone.flush()
    pathlib.Path("seen.tmp").write_text(str(step))
    os.rename("seen.tmp", "seen.txt")
    time.sleep(0.02)
    gone.seek(0)
    found = [gone.read(), *(place.read_text() for place in places)]
    assert found == [str(step)] * 4, (found, step)
print("kept", [(place.stat().st_uid, os.getuid()) for place in places], flush=True)
"""
"""A job that keeps a number in a deleted file, a closed one, in /dev/shm and in TMPDIR, and reads them back."""


def expected() -> str:
    return "\n".join([*count.lines(STEPS), count.result(STEPS), ""])


def test_a_job_runs_to_its_end_and_the_container_ends_with_its_code(pod: Pod) -> None:
    sidecar = pod.sidecar(*QUIET, once=True)
    job = pod.job("count.py", "--steps", "20", "--talk", "--fail-at", "20")
    pod.release()
    ended = job.wait()
    assert (ended.code, ended.out) == (3, "\n".join([*count.lines(20), ""]))
    assert ended.err == "the job fails\n"
    assert sidecar.wait().code == 3, "where the job's container is started again, so is an ordinary sidecar"
    pod.expect_nothing_left()


def test_a_killed_job_is_restored_in_place(pod: Pod) -> None:
    sidecar = pod.sidecar(*QUIET, once=True)
    job = pod.job(*COMMAND)
    pod.lines(10)
    pod.checkpoint()
    first = pod.job_pid()
    pod.lines(20)
    os.kill(first, signal.SIGKILL)
    pod.event("job-restored")
    pod.checkpoint()
    os.kill(pod.job_pid(), signal.SIGKILL)
    pod.event("job-restored", 2)
    pod.release()
    ended = job.wait()
    assert (ended.code, ended.err) == (0, "")
    log = pod.volume / "log.txt"
    assert log.read_text().splitlines() == count.lines(STEPS)
    assert log.stat().st_uid == UID
    assert ended.out.splitlines()[-1] == count.result(STEPS)
    assert sidecar.wait().code == 0
    pod.expect_nothing_left()


def test_a_container_that_is_killed_as_a_whole_gets_its_job_back_when_it_is_started_again(pod: Pod) -> None:
    sidecar = pod.sidecar(*QUIET, once=True)
    first = pod.job(*COMMAND)
    pod.lines(10)
    pod.checkpoint()
    for times in (1, 2):  # the first incarnation, and a restored one
        first.kill()
        sidecar.says("the job goes on once it was started again")
        first = pod.job(*COMMAND)
        pod.event("job-restored", times)
    pod.release()
    ended = first.wait()
    assert ended.code == 0
    assert ended.out.splitlines()[-1] == count.result(STEPS)
    assert (pod.volume / "log.txt").read_text().splitlines() == count.lines(STEPS)
    assert sidecar.wait().code == 0
    pod.expect_nothing_left()


def test_a_sidecar_killed_beside_a_restored_job_is_followed_by_one_that_restores_it(pod: Pod) -> None:
    sidecar = pod.sidecar(*QUIET, once=True)
    job = pod.job(*COMMAND)
    pod.lines(10)
    pod.checkpoint()
    pod.lines(20)
    os.kill(pod.job_pid(), signal.SIGKILL)
    for times in (1, 2, 3):  # a first incarnation outlasts its sidecar: see test_killed_sidecar.py
        pod.event("job-restored", times)
        if times < 3:
            sidecar.kill()
            sidecar = pod.sidecar(*QUIET, once=True)
    pod.release()
    ended = job.wait()
    assert ended.code == 0
    assert ended.out.splitlines()[-1] == count.result(STEPS)
    assert (pod.volume / "log.txt").read_text().splitlines() == count.lines(STEPS)
    assert sidecar.wait().code == 0
    pod.expect_nothing_left()


def test_a_job_that_ends_well_beside_no_sidecar_has_all_that_follows_its_end(pod: Pod) -> None:
    hook = pod.folder / "hook"
    hook.write_text('#!/bin/sh\ncat >> "$0".told\n')
    hook.chmod(0o755)
    options = (*QUIET, "--fresh", "--hook", f"{hook}?phases=on-exit")
    sidecar = pod.sidecar(*options, once=True)
    job = pod.job("sh", "-c", f"exec {sys.executable} count.py --steps {STEPS} > out.txt")
    pod.lines(10)
    pod.checkpoint()
    sidecar.kill()
    pod.release()
    pod.until("the job's end", lambda: not psutil.Process(job.pid).children())
    again = pod.sidecar(*options, once=True)
    assert job.wait().code == 0
    assert again.wait().code == 0, pod.story()
    told = json.loads(hook.with_name("hook.told").read_text())
    assert told["exit"] == {"by": "job", "code": 0, "final": True}
    assert len(pod.events("job-started")) == 1, pod.story()
    pod.expect_nothing_left()


def test_the_pods_end_takes_a_last_checkpoint_from_which_the_next_pod_goes_on(pod: Pod) -> None:
    sidecar = pod.sidecar(*QUIET, once=True)
    job = pod.job(*COMMAND)
    pod.lines(10)
    pod.status()
    job.send_signal(signal.SIGTERM)
    assert job.wait().code == 75
    assert sidecar.wait().code == 75
    before = (pod.volume / "log.txt").read_text().splitlines()
    pod.lose()
    sidecar, job = pod.sidecar(*QUIET, once=True), pod.job(*COMMAND)
    pod.event("job-restored")
    pod.release()
    ended = job.wait()
    assert ended.code == 0
    assert ended.out.splitlines() == [*count.lines(STEPS)[len(before) :], count.result(STEPS)]
    assert (pod.volume / "log.txt").read_text().splitlines() == count.lines(STEPS)
    assert sidecar.wait().code == 0
    pod.expect_nothing_left()


def test_a_pod_that_is_lost_goes_on_in_the_next_one(pod: Pod) -> None:
    pod.sidecar(*QUIET)
    pod.job(*COMMAND)
    pod.lines(10)
    pod.checkpoint()
    pod.lines(30)
    pod.lose()
    sidecar, job = pod.sidecar(*QUIET, "--take-over"), pod.job(*COMMAND)
    pod.event("job-restored")
    pod.release()
    assert job.wait().code == 0
    assert (pod.volume / "log.txt").read_text().splitlines() == count.lines(STEPS)
    ended = pod.job(*COMMAND).wait()  # the sidecar waits for the next container, and the job was finished
    assert (ended.code, ended.out) == (0, expected())
    assert sidecar.alive()


def test_a_sidecar_told_to_end_while_it_waits_for_a_dead_container_ends(pod: Pod) -> None:
    """A kubelet starts no container again in a pod that ends, and sends one SIGTERM; the next pod waits for the end."""
    sidecar = pod.sidecar(*QUIET)
    job = pod.job(*COMMAND)
    pod.lines(10)
    pod.checkpoint()
    pod.lines(20)
    job.kill()
    sidecar.says("the job goes on once it was started again")
    sidecar.send_signal(signal.SIGTERM)
    assert sidecar.wait().code == 0
    pod.lose()
    pod.sidecar(*QUIET)
    job = pod.job(*COMMAND)
    pod.event("job-restored")
    pod.release()
    ended = job.wait()
    assert (ended.code, ended.out.splitlines()[-1]) == (0, count.result(STEPS))
    assert (pod.volume / "log.txt").read_text().splitlines() == count.lines(STEPS)


def test_a_sidecar_that_has_no_container_to_serve_ends_when_it_is_told_to(pod: Pod) -> None:
    sidecar = pod.sidecar(*QUIET)
    pod.until("socket", (pod.shared / "run" / "shim.sock").exists)
    sidecar.send_signal(signal.SIGTERM)
    assert sidecar.wait().code == 0


def test_a_sidecar_told_to_end_when_its_container_has_ended_waits_for_no_other(pod: Pod) -> None:
    """Also while it becomes a new program."""
    sidecar = pod.sidecar(*QUIET)
    pod.release()
    assert pod.job("count.py", "--steps", "1").wait().code == 0
    sidecar.send_signal(signal.SIGTERM)
    assert sidecar.wait().code == 0
    pod.expect_nothing_left()


def test_a_sidecar_that_lacks_a_capability_names_it_and_the_field(pod: Pod) -> None:
    few = pod.sidecar(prefix=("setpriv", "--bounding-set=-sys_ptrace,-sys_admin", "--inh-caps=-all")).wait()
    assert few.code == 77
    assert "the sidecar lacks SYS_PTRACE, SYS_ADMIN" in few.err
    assert "securityContext.capabilities" in few.err


def test_every_kind_of_file_of_the_jobs_is_brought_back(pod: Pod) -> None:
    (pod.volume / "keeper.py").write_text(KEEPER)
    sidecar = pod.sidecar(*QUIET, once=True)
    job = pod.job("keeper.py")
    seen = pod.volume / "seen.txt"

    def later() -> None:
        now = int(seen.read_text()) if seen.exists() else 0
        pod.until("more steps", lambda: seen.exists() and int(seen.read_text()) > now + 5)

    later()
    for times in (1, 2):
        pod.checkpoint()
        later()
        os.kill(pod.job_pid(), signal.SIGKILL)
        pod.event("job-restored", times)
        later()
    pod.release()
    ended = job.wait()
    assert (ended.code, ended.out, ended.err) == (0, f"kept {[(UID, UID)] * 3}\n", "")
    assert "cannot" not in sidecar.wait().err


def test_the_command_is_looked_for_in_the_jobs_container(pod: Pod) -> None:
    """Neither is in the sidecar: the volume lies elsewhere there."""
    script = pod.volume / "only-there"
    script.write_text("#!/bin/sh\necho here\n")
    script.chmod(0o755)
    sidecar = pod.sidecar(*QUIET)
    missing = pod.job("./nowhere").wait()
    assert missing.code == 127
    sidecar.says("there is no command ./nowhere")
    found = pod.job("./only-there").wait()
    assert (found.code, found.out) == (0, "here\n")


def test_a_changed_script_is_noticed_in_the_jobs_container(pod: Pod) -> None:
    sidecar = pod.sidecar(*QUIET)
    job = pod.job(*COMMAND)
    pod.lines(5)
    pod.status()
    job.send_signal(signal.SIGTERM)
    assert job.wait().code == 75
    with (pod.volume / "count.py").open("a") as file:
        file.write("# changed\n")
    assert pod.job(*COMMAND).wait().code == 78
    sidecar.says("count.py")
    sidecar.says("--resume")
