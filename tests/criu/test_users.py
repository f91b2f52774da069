"""Other users than root: an ordinary one in a user namespace, and the one who called sudo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from live import COUNTER, PYTHON, Identity
from support.processes import PATIENCE

from ckptrun.core.model import BytesSource

if TYPE_CHECKING:
    from live import Machine

HERE = Path(__file__).parent
UID = 4710

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become others")


@pytest.mark.slow
def test_an_ordinary_users_job_is_restored_twice_and_its_clock_goes_on(scratch: Path):
    os.chown(scratch, UID, UID)
    as_user = [
        sys.executable,
        str(HERE.parent / "support" / "as_user.py"),
        str(UID),
        str(UID),
        str(scratch),
        "--",
    ]
    done = subprocess.run(
        [*as_user, sys.executable, str(HERE / "as_whom.py")],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
        env=os.environ | {"HOME": str(scratch), "TMPDIR": "/tmp"},
    )
    assert done.stdout.strip() == "fine", done.stdout[-2000:] + done.stderr[-4000:]


def test_under_sudo_the_job_is_the_user_and_criu_is_that_user_with_roots_capabilities(machine: Machine):
    user = Identity(UID, UID, (UID,))
    dumper = Identity(UID, UID, (UID,), keep_capabilities=True)
    code = "import os\nprint('who', os.getuid(), os.getgid(), os.getgroups(), flush=True)\n" + COUNTER
    job = machine.job([PYTHON, "-c", code], identity=user, owner=(UID, UID))
    job.out.find(rf"who {UID} {UID} \[{UID}\]")
    job.out.find("tick 3")
    result = job.dump(machine.slot(), identity=dumper, unprivileged=True)
    images = {name: BytesSource(b"".join(map(bytes, e.pieces()))) for name, e in result.images.items()}
    job.out.goes_on()
    job.capsule.destroy()
    new = machine.job(owner=(UID, UID))
    new.restore(images, job, unprivileged=True)
    new.out.goes_on()
    status = Path(f"/proc/{new.capsule.job_pids()[1]}/status").read_text()
    assert f"Uid:\t{UID}\t{UID}\t{UID}\t{UID}\n" in status
    assert "CapEff:\t0000000000000000" in status
    new.dump(machine.slot(), identity=dumper, unprivileged=True)
    new.out.goes_on()
