"""What the sidecar needs each of its capabilities for: what fails, and with which words, where one is taken away."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.careless import CARELESS
from support.pod import CAPABILITIES, UID, Pod, with_capabilities

if TYPE_CHECKING:
    from support.pod import Container

pytestmark = pytest.mark.slow

FAILS = {
    "sys_admin": ("start", 77, "the job's container cannot be entered: Operation not permitted"),
    "sys_ptrace": ("start", 77, "the job's container cannot be entered: Permission denied"),
    "sys_chroot": ("start", 77, "the job's container cannot be entered: Operation not permitted"),
    "sys_time": ("restore", 74, "the capsule cannot be made: timens offsets: Operation not permitted"),
    "setuid": ("start", 70, f"this thread may not act as user {UID}"),
    "setgid": ("start", 70, "Operation not permitted: 'setgroups'"),
    "setpcap": ("confinement", 75, ""),
    "dac_override": ("start", 70, "Permission denied: "),
    "dac_read_search": ("", 75, "cannot be watched (folders cannot be opened by handle)"),
    "kill": ("signal", 75, ""),
}
"""The step that fails, what the job's container ends with then, and what the sidecar says."""
BOUNDING = "CapBnd:\t0000000000000000"


def failed_step(pod: Pod, sidecar: Container, job: Container, missing: str) -> str:
    """Take a job from its start to its end; return the first step that is not done, and nothing if all are."""
    log = pod.volume / "log.txt"
    pod.until("a job, or its end", lambda: log.exists() or not job.alive())
    if not log.exists():
        return "start"
    pod.checkpoint()
    os.kill(pod.job_pid(), signal.SIGKILL)
    pod.until("a restore, or its end", lambda: pod.events("job-restored") or not job.alive())
    if not pod.events("job-restored"):
        return "restore"
    confined = BOUNDING in Path(f"/proc/{pod.job_pid()}/status").read_text().splitlines()
    sidecar.send_signal(signal.SIGUSR2)  # for the job, which dies of it
    if missing == "kill":
        sidecar.send_signal(signal.SIGTERM)  # taken after the one before, which has a lower number
        job.wait()
    else:
        pod.event("job-restored", 2)
        sidecar.send_signal(signal.SIGTERM)
    if not any(one["signal"] == signal.SIGUSR2 for one in pod.events("job-ended")):
        return "signal"
    return "" if confined else "confinement"


@pytest.mark.parametrize("missing", ["", *CAPABILITIES])
def test_each_capability_is_needed(pod: Pod, missing: str) -> None:
    """Without it a sidecar that does not look fails at one step and says why; with all of them at none."""
    prefix = with_capabilities(name for name in CAPABILITIES if name != missing)
    sidecar = pod.sidecar("--interval", "off", prefix=prefix, program=("-c", CARELESS))
    job = pod.job("count.py", "--steps", "20", "--talk")
    step, code, words = FAILS[missing] if missing else ("", 75, "")
    assert failed_step(pod, sidecar, job, missing) == step, pod.story()
    assert job.wait().code == code, pod.story()
    assert words in sidecar.stderr.data.decode(), pod.story()
