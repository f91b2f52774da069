"""A sidecar that cannot serve its job says why in both containers; neither waits for ever, and no job is harmed."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from jobs import count
from support.pod import _SIDECAR, REPOSITORY, Pod
from support.processes import PATIENCE

from ckptrun import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

QUIET = ("--interval", "off")
USAGE = 64
CONFIGURATION = 78
PERMISSION = 77


@pytest.fixture
def pod() -> Iterator[Pod]:
    with Pod() as pod:
        pod.hold()
        yield pod


def installed(pod: Pod, version: str) -> None:
    """Have the init container's image be of this version."""
    (pod.shared / "VERSION").write_text(f"{version}\n")


@pytest.mark.parametrize("version", ["0.0.1", "99.0"])
def test_a_shim_of_another_version_ends_with_the_reason_before_anything_of_the_job_is_touched(
    pod: Pod, version: str
):
    installed(pod, version)
    sidecar = pod.sidecar(*QUIET, once=True)
    job = pod.job("count.py", "--steps", "1")
    for container in (job, sidecar):
        done = container.wait()
        assert done.code == CONFIGURATION
        assert f"the shim of ckptrun {version}" in done.err
        assert f"the sidecar is ckptrun {__version__}" in done.err
        assert "the same image" in done.err
    assert not (pod.volume / "log.txt").exists()
    assert not (pod.folder / "store").exists()


def test_a_sidecar_of_another_version_leaves_a_running_job_alone_and_the_right_one_goes_on(
    pod: Pod, tmp_path: Path
):
    steps = 60
    installed(pod, __version__)
    first = pod.sidecar(*QUIET)
    job = pod.job("count.py", "--steps", str(steps))
    pod.lines(10)
    pod.checkpoint()
    first.kill()
    (tmp_path / "sitecustomize.py").write_text('import ckptrun\nckptrun.__version__ = "99.0"\n')
    newer = pod.sidecar(*QUIET, prefix=("env", f"PYTHONPATH={tmp_path}:{REPOSITORY}", *_SIDECAR)).wait()
    assert newer.code == CONFIGURATION
    assert "its job is left alone" in newer.err
    assert "delete the pod" in newer.err
    pod.sidecar(*QUIET)
    pod.until("a run", lambda: pod.status()["job_pid"])
    pod.release()
    done = job.wait()
    assert done.code == 0, pod.story()
    assert (pod.volume / "log.txt").read_text().splitlines() == count.lines(steps)


def test_a_sidecar_that_is_told_to_end_as_its_job_does_is_not_kept(pod: Pod):
    sidecar = pod.sidecar("--interval", "often")
    assert pod.job("count.py", "--steps", "1").process.wait(PATIENCE) == USAGE
    sidecar.send_signal(signal.SIGTERM)
    done = sidecar.wait()
    assert done.code in {0, 128 + signal.SIGTERM}
    assert "'often' is no interval" in done.err


def test_a_sidecar_beside_the_jobs_container_tells_it_why_it_cannot_serve(pod: Pod):
    alone = ("setpriv", "--bounding-set=-sys_time", "--inh-caps=-all")
    sidecar = pod.sidecar(once=True, prefix=alone)
    sidecar.says("SYS_TIME to securityContext.capabilities")
    job = pod.job("count.py", "--steps", "1").wait()
    assert job.code == CONFIGURATION
    assert "SYS_TIME to securityContext.capabilities" in job.err
    assert sidecar.wait().code == PERMISSION
    waiting = pod.sidecar(once=True, prefix=alone)
    waiting.says("SYS_TIME")
    waiting.send_signal(signal.SIGTERM)
    assert waiting.wait().code == -signal.SIGTERM
