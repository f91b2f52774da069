"""The kernel's OOM killer takes the job: it is told from any other SIGKILL, and the job is restored."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from jobs import count
from support.processes import PATIENCE
from support.run import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

LIMIT = 600 << 20
JOINED = 'echo $$ > "$0" && exec "$@"'
"""A script of sh: join the cgroup whose list of processes is $0, become the rest."""
HOG = f"hog = [bytearray(b'x' * (20 << 20)) for _ in range({LIMIT >> 20} // 10)]"
GREEDY = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(count.__file__).parent)!r})
import count
value = ""
for step in range(1, 121):
    value = count.link(value, step)
    while step == 80 and Path("hold").exists():
        time.sleep(0.01)
    if step == 80 and Path("trouble").exists():
        Path("trouble").unlink()
        {HOG}
    time.sleep(0.02)
print("result", step, value)
"""


@contextlib.contextmanager
def memory_group() -> Iterator[Path]:
    """Make a memory cgroup with a limit; yield its list of processes."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = next((line.split(":", 2)[2] for line in lines if "memory" in line.split(":")[1].split(",")), None)
    name = f"ckptrun-test-{secrets.token_hex(4)}"
    if own is not None:
        group, limit = Path(f"/sys/fs/cgroup/memory{own}") / name, "memory.limit_in_bytes"
    else:
        group, limit = Path("/sys/fs/cgroup") / name, "memory.max"
    try:
        if own is None:
            Path("/sys/fs/cgroup/cgroup.subtree_control").write_text("+memory")
        group.mkdir()
        (group / limit).write_text(str(LIMIT))
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    try:
        yield group / "cgroup.procs"
    finally:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                group.rmdir()
            except OSError:
                assert time.monotonic() < deadline, f"processes are left in {group}"
                time.sleep(0.05)
            else:
                break


def test_a_job_that_ran_out_of_memory_is_restored_and_it_is_said(tmp_path: Path):
    with (
        memory_group() as processes,
        Lab(tmp_path, prefix=("sh", "-c", JOINED, str(processes)), options=("--staging", "32M")) as lab,
    ):
        (lab.work / "trouble").touch()
        lab.hold()
        run = lab.start(sys.executable, "-c", GREEDY, options=("--interval", "off"))
        run.checkpoint()
        lab.release()
        ended = run.event("job-ended")
        assert (ended["signal"], ended["oom"]) == (9, True)
        result = run.wait()
        assert (result.code, result.out) == (0, f"{count.result(120)}\n"), result.err
        assert "the OOM killer: memory ran out" in result.err


def test_another_program_that_ran_out_of_memory_has_nothing_to_do_with_it(lab: Lab):
    lab.hold()
    run = lab.start(sys.executable, "-c", GREEDY, options=("--interval", "off"))
    run.checkpoint()
    with memory_group() as processes:
        argv = ["sh", "-c", JOINED, str(processes), sys.executable, "-c", HOG]
        assert subprocess.run(argv, check=False, capture_output=True).returncode in {-9, 137}
    run.restored(run.kill_job)
    assert run.event("job-ended")["oom"] is False
    assert run.finish().code == 0
