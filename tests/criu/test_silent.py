"""What CRIU would lose without a word is known beforehand; what passes by itself is waited for."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from provocations import DumpCase
from provoking import Outside, started

from ckptrun.criu import dumping, remedies
from ckptrun.criu.connections import KEEP_FLAGS
from ckptrun.criu.remedies.procfacts import findings

if TYPE_CHECKING:
    from live import Machine

    from ckptrun.criu.staging import Extents

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's CRIU cannot save a watch")

PASSING = DumpCase(
    "fd = libc.inotify_init(); assert libc.inotify_add_watch(fd, b'/dev/shm', 0x100) == 1\n"
    "open('/dev/shm/new', 'w').close()\n"
    "signal.signal(signal.SIGUSR1, lambda *_: print(len(os.read(fd, 4096)), 'bytes read', flush=True))"
)


LOST = {
    "semaphore-eventfd": "fd = libc.eventfd(2, 1)",
    "sysv-semaphores": "number = libc.semget(0, 1, 0o600); check(libc.semop(number, struct.pack('hhh', 0, 1, 0), 1))\n"
    "signal.signal(signal.SIGTERM, lambda *_: libc.semctl(number, 0, 0) or print('removed', flush=True))",
    "unread-watch": PASSING.code,
    "zombie-status": "if os.fork() == 0: os._exit(200)\nos.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)",
}


@pytest.mark.parametrize("name", LOST)
def test_doctor_tells_of_it_beforehand(machine: Machine, name: str):
    outside = Outside(machine)
    job = started(machine, DumpCase(LOST[name]), outside)
    found = findings(job.capsule.job_pids())
    outside.close()
    if "removed" in LOST[name]:
        os.kill(job.capsule.host_pid(1001) or 0, signal.SIGTERM)
        job.out.find("removed")
    assert [finding.remedy.name for finding in found] == [name]
    assert found[0].pid >= 1001
    assert found[0].host_pid in job.capsule.job_pids()


def test_a_dump_is_tried_again_when_events_are_read_meanwhile(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
):
    outside = Outside(machine)
    job = started(machine, PASSING, outside)
    retried: list[str] = []

    def frozen(_: dict[str, Extents]) -> None:
        if (loss := remedies.silent_loss(job.capsule.job_pids())) is not None:
            raise dumping.KnownDumpError(loss)

    def pause(_: float) -> None:
        os.kill(job.capsule.host_pid(1001) or 0, signal.SIGUSR1)
        job.out.find("bytes read")

    monkeypatch.setattr(dumping.time, "sleep", pause)
    request = dumping.DumpRequest(
        1000, machine.slot(), [job.pipe], 20.0, frozen, flags=KEEP_FLAGS, retrying=retried.append
    )
    dumping.dump(job.place(), request, job.spawn_criu())
    outside.close()
    assert len(retried) == 1
    assert "has not read all events of an inotify or fanotify descriptor (fd " in retried[0]
