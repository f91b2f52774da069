"""SIGKILL for a sidecar at every step of a first incarnation, of its checkpoints, and of being taken over.

The next sidecar goes on with the job as it is, or restores it, or starts it anew: the result is exact, no line of
output is missing, and what the job has done to files meanwhile is known.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from injected import Fault
from support.pod import Pod

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

STEPS = 80
JOB = """
import hashlib, os, pathlib, time
value = ""
for step in range(1, 81):
    while step == 80 and pathlib.Path("hold").exists():
        time.sleep(0.01)
    value = hashlib.sha256(f"{value} {step}".encode()).hexdigest()[:16]
    pathlib.Path("new").write_text(value)
    os.rename("new", f"value-{step}")
    pathlib.Path(f"value-{step - 2}").unlink(missing_ok=True)
    assert pathlib.Path(f"value-{step}").read_text() == value
    print(step, value, flush=True)
    pathlib.Path("log.txt").open("a").write("x\\n")
    time.sleep(0.02)
print("end", sorted(path.name for path in pathlib.Path().glob("value-*")), flush=True)
"""
"""A chain of hashes, the newest two in files that are closed at every checkpoint."""

OFTEN = ("--interval", "0.3s")
SUPERVISOR = "ckptrun.supervisor"
STANDING = f"{SUPERVISOR}.handover:Standing"
STARTING = [
    Fault("ckptrun.capsule.shim:Shim.start", commits=0),
    Fault("ckptrun.capsule.shim:Shim.start", "after", commits=0),
    Fault(f"{SUPERVISOR}.incarnation:Incarnation.make_live", commits=0),
    Fault(f"{STANDING}._leave", commits=0),
    Fault(f"{STANDING}._leave", "after", commits=0),
]
CHECKPOINT = [
    Fault(f"{STANDING}.withdraw"),
    Fault(f"{STANDING}.withdraw", "after"),
    Fault("ckptrun.criu.dumping:dump"),
    Fault("ckptrun.capsule.streams:Streams.freeze", "after"),
    Fault("ckptrun.journal:Journal.capture", "after"),
    Fault(f"{SUPERVISOR}.attempt:Attempt._staged", "after"),
    Fault(f"{SUPERVISOR}.staged:LocalCopies.add", "after"),
    Fault(f"{STANDING}._leave", "after"),
    Fault("ckptrun.store.writer:Writer.commit"),
    Fault("ckptrun.store.writer:Writer.commit", "after"),
]
TAKING_OVER = [
    Fault("ckptrun.app.beginning:Beginning.go_on", commits=0),
    Fault("ckptrun.capsule.container:ContainerCapsule.start", commits=0),
    Fault("ckptrun.capsule.container:ContainerCapsule.start", "after", commits=0),
    Fault("ckptrun.capsule.container:ContainerCapsule.watch", "after", commits=0),
    Fault("ckptrun.capsule.streams:Streams.take_over", "after", commits=0),
    Fault("ckptrun.capsule.container:ContainerCapsule.follow", "after", commits=0),
]


@pytest.fixture
def pod() -> Iterator[Pod]:
    with Pod() as pod:
        (pod.volume / "chained.py").write_text(JOB)
        pod.hold()
        yield pod
        pod.close()


def ends_exactly(pod: Pod) -> None:
    """Have the next sidecar come, and the job end: every line is right, and none is missing."""
    sidecar = pod.sidecar("--interval", "off", once=True)
    (job,) = [one for one in pod.containers if "ckptrun-shim" in " ".join(map(str, one.process.args))]
    pod.release()
    ended = job.wait()
    assert ended.code == 0, ended
    *lines, end = ended.out.splitlines()
    assert end == f"end ['value-{STEPS - 1}', 'value-{STEPS}']"
    numbers = [int(line.split()[0]) for line in lines]
    assert numbers[-1] == STEPS
    assert all(after <= before + 1 for before, after in pairwise(numbers)), numbers
    assert len(set(lines)) == STEPS, "the same step has the same value, whenever it is done"
    assert sidecar.wait().code == 0
    pod.expect_nothing_left()


@pytest.mark.parametrize("fault", [*STARTING, *CHECKPOINT], ids=str)
def test_a_sidecar_killed_anywhere_is_followed_by_one_that_ends_the_job_exactly(pod: Pod, fault: Fault):
    sidecar = pod.sidecar(*OFTEN, once=True, program=fault.program()[1:])
    pod.job(sys.executable, "chained.py")
    pod.until("the fault", lambda: not sidecar.alive())
    ends_exactly(pod)


@pytest.mark.parametrize("fault", TAKING_OVER, ids=str)
def test_one_killed_while_it_takes_over_is_followed_by_one_that_ends_the_job_exactly(pod: Pod, fault: Fault):
    sidecar = pod.sidecar(*OFTEN, once=True)
    pod.job(sys.executable, "chained.py")
    pod.event("checkpoint-committed")
    pod.until("handover", (pod.run_dir / "handover.json").exists)
    sidecar.kill()
    second = pod.sidecar(*OFTEN, once=True, program=fault.program()[1:])
    pod.until("the fault", lambda: not second.alive())
    ends_exactly(pod)
