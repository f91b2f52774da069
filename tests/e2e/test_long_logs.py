"""A long file that only grows costs its new tail: at the next checkpoint, after a restore, and for the next run."""

from __future__ import annotations

import hashlib
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.run import Lab, Run

pytestmark = pytest.mark.slow

LOG_BYTES = 200 << 20
LITTLE = 60 << 20
"""Bytes: the memory of a small job, and no log."""
JOB = f"""
import hashlib, random, time
from pathlib import Path
log = Path("log").open("ab")
noise = random.Random(1).randbytes(1 << 20)
for number in range({LOG_BYTES >> 20}):
    log.write(number.to_bytes(4, "little") + noise[4:])
log.flush()
Path("ready").touch()
step = 0
while not Path("enough").exists():
    step += 1
    log.write(b"%d\\n" % step)
    log.flush()
    time.sleep(0.02)
log.close()
digest = hashlib.sha256()
with open("log", "rb") as file:
    while piece := file.read(1 << 20):
        digest.update(piece)
print(step, digest.hexdigest())
"""


def result(steps: int) -> str:

    noise = random.Random(1).randbytes(1 << 20)
    digest = hashlib.sha256()
    for number in range(LOG_BYTES >> 20):
        digest.update(number.to_bytes(4, "little") + noise[4:])
    digest.update(b"".join(b"%d\n" % step for step in range(1, steps + 1)))
    return f"{steps} {digest.hexdigest()}\n"


def read_by(run: Run) -> int:
    """Return the bytes that ckptrun itself has read so far, from files and pipes."""
    fields = dict(line.split(": ") for line in Path(f"/proc/{run.process.pid}/io").read_text().splitlines())
    return int(fields["rchar"])


def checkpoint(run: Run) -> tuple[int, int]:
    """Take a checkpoint; return the bytes ckptrun has read meanwhile, and the new bytes in it."""
    before = read_by(run)
    name = run.checkpoint()
    record = next(record for record in run.lab.checkpoints() if record["id"] == name)
    return read_by(run) - before, record["new_bytes"]


def test_a_long_log_is_read_and_stored_once(lab: Lab):
    run = lab.start(sys.executable, "-c", JOB, options=("--interval", "off"))
    run.until("ready", (lab.work / "ready").exists)
    assert min(checkpoint(run)) > LOG_BYTES
    assert max(checkpoint(run)) < LITTLE
    run.restored(run.kill_job)
    assert max(checkpoint(run)) < LITTLE
    run.kill_supervisor()
    before = len(lab.events())
    run = lab.start(sys.executable, "-c", JOB, options=("--interval", "off"))
    run.event("job-restored", after=before)
    assert max(checkpoint(run)) < LITTLE
    (lab.work / "enough").touch()
    ended = run.wait()
    assert ended.code == 0, ended.err
    assert ended.out == result(int(ended.out.split()[0]))
