"""Failures provoked with a real CRIU: each is named, with its process, and what passes is tried again."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from provocations import DUMPS, PASSING, RESTORES, DumpCase
from provoking import Dump, NotPossibleError, Outside, Restore, started

from ckptrun.criu import dumping, remedies
from ckptrun.criu.remedies.procfacts import findings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from live import Job, Machine

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="jobs are made that only root can make")
pytestmark = [root_only]

QUICK = {"io-uring", "unix-stream-outside", "ghost-limit", "file-mode"}


def named(cases: dict[str, object]) -> list[object]:
    """Return a parameter for each case; all but a few are slow, as there are many."""
    return [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in cases]


def entry_of(name: str) -> str:
    return name.partition(".")[0]


@pytest.fixture
def outside(machine: Machine) -> Iterator[Outside]:
    outside = Outside(machine)
    yield outside
    outside.close()


def begun(machine: Machine, case: DumpCase, outside: Outside) -> Job:
    try:
        return started(machine, case, outside)
    except NotPossibleError as error:
        pytest.skip(f"this machine does not let it happen: {error}")


def expect_evidence(finding: remedies.Finding, wanted: tuple[str, ...], host_pids: list[int]) -> None:
    if "pid" in wanted:
        assert finding.pid >= 1000
        if host_pids:
            assert finding.program
            assert finding.host_pid in host_pids
        assert f"process {finding.pid}" in finding.sentence
    if "fd" in wanted:
        assert finding.fd > 2
        assert f"fd {finding.fd}" in finding.sentence
    if "path" in wanted:
        assert finding.path.startswith("/")
        assert finding.path in finding.sentence


@pytest.mark.parametrize("name", named({**DUMPS, **PASSING}))
def test_what_cannot_be_dumped_is_named(
    machine: Machine, outside: Outside, name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(dumping, "GHOST_LIMIT", 1 << 20)
    case = DUMPS.get(name) or PASSING[name]
    job = begun(machine, case, outside)
    dump = Dump(machine, job, case)
    finding = dump.finding("dump-first.log" if dump.retried else "dump.log")
    assert finding is not None
    assert finding.remedy.name == entry_of(name)
    assert bool(dump.retried) == (name in PASSING)
    if dump.error is not None:
        assert str(dump.error) == finding.sentence
    if not {"main-thread-ended", "seccomp-suspend"} & {name}:  # CRIU does not say which process it was
        expect_evidence(finding, case.who, job.capsule.job_pids())


@pytest.mark.parametrize("name", named(RESTORES))
def test_what_cannot_be_restored_is_named(machine: Machine, outside: Outside, name: str):
    case = RESTORES[name]
    restore = Restore(machine, case, outside)
    finding = restore.finding("restore-first.log" if restore.retried else "restore.log")
    assert finding is not None
    assert finding.remedy.name == entry_of(name)
    assert (restore.error is None) == bool(restore.retried)
    expect_evidence(finding, case.who, [])


SEEN_IN_PROC = [
    *(
        "io-uring",
        "userfaultfd",
        "perf-event",
        "perf-event.mapped",
        "bpf",
        "landlock",
        "fuse",
        "device",
        "tun",
    ),
    *(
        "packet-pipe",
        "pidfd-outside",
        "memfd-secret",
        "memfd-secret.mapped",
        "terminal-outside",
        "other-mount",
    ),
    *("other-mount.gone", "sysv-shm", "unix-stream-outside", "mptcp", "vsock", "socket-family", "traced"),
    *("main-thread-ended", "nested-namespace", "nested-namespace.user", "nested-namespace.pid"),
]


@pytest.mark.parametrize("name", named(dict.fromkeys(SEEN_IN_PROC)))
def test_proc_shows_beforehand_what_criu_stumbles_over(machine: Machine, outside: Outside, name: str):
    case = DUMPS[name]
    job = begun(machine, case, outside)
    found = findings(job.capsule.job_pids())
    assert {finding.remedy.name for finding in found} == {entry_of(name)}
    for finding in found:
        expect_evidence(finding, case.who, job.capsule.job_pids())


@pytest.mark.parametrize(
    "name", named(dict.fromkeys(["io-uring", "userfaultfd", "perf-event", "memfd-secret"]))
)
def test_what_links_betray_is_refused_before_anything_is_stopped(
    machine: Machine, outside: Outside, name: str
):
    job = begun(machine, DUMPS[name], outside)
    refused = remedies.refusal(job.capsule.job_pids())
    assert refused is not None
    assert refused.remedy.name == name
    expect_evidence(refused, ("pid", "fd"), job.capsule.job_pids())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["own-namespace", "own-namespace.mnt"])
def test_a_namespace_that_could_never_be_restored_is_refused(machine: Machine, outside: Outside, name: str):
    job = begun(machine, DumpCase(RESTORES[name].code), outside)
    refused = remedies.refusal(job.capsule.job_pids())
    assert refused is not None
    assert refused.remedy.name == "nested-namespace"


def test_nothing_is_found_about_a_job_that_can_be_dumped(machine: Machine, outside: Outside):
    case = DumpCase(
        "f = open('/dev/shm/file', 'w'); s = socket.create_server(('127.0.0.1', 0)); a, b = socket.socketpair()\n"
        "child(lambda: None); pair = os.openpty(); null = open('/dev/null'); r = open('/dev/urandom', 'rb')\n"
        "fd = libc.memfd_create(b'x', 0); e = select.epoll(); u = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "p = os.pidfd_open(os.getpid()); n = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)"
    )
    job = begun(machine, case, outside)
    assert remedies.refusal(job.capsule.job_pids()) is None
    assert findings(job.capsule.job_pids()) == []
    dump = Dump(machine, job, case)
    assert dump.error is None
    assert dump.retried == []
    assert dump.finding() is None, "harmless complaints are no cause"


WAITING = DumpCase(
    "l = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(l.getsockname()); kept = []\n"
    "def accept(*_):\n    kept.append(l.accept()); print('accepted', flush=True)\n"
    "signal.signal(signal.SIGUSR1, accept)"
)


def test_what_passes_by_itself_is_tried_again(
    machine: Machine, outside: Outside, monkeypatch: pytest.MonkeyPatch
):
    job = begun(machine, WAITING, outside)

    slept = dumping.time.sleep

    def pause(_: float) -> None:
        monkeypatch.setattr(dumping.time, "sleep", slept)  # whoever waits for output sleeps, too
        os.kill(job.capsule.host_pid(1001) or 0, signal.SIGUSR1)
        job.out.find("accepted")

    monkeypatch.setattr(dumping.time, "sleep", pause)
    dump = Dump(machine, job, WAITING)
    assert dump.error is None
    assert len(dump.retried) == 1
    assert "a connection waits to be accepted; it was tried again as it was" in dump.retried[0]


def test_a_large_removed_file_is_dumped_at_the_second_try(
    machine: Machine, outside: Outside, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(dumping, "GHOST_LIMIT", 1 << 20)
    case = PASSING["ghost-limit"]
    dump = Dump(machine, begun(machine, case, outside), case)
    assert dump.error is None
    assert dump.retried[0].endswith("it was tried again with --ghost-limit 1000G")
    assert any(name.startswith("ghost-file-") for name in dump.result.images)


def test_a_failed_try_leaves_nothing_in_staging(
    machine: Machine, outside: Outside, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(dumping, "GHOST_LIMIT", 1 << 20)
    case = PASSING["ghost-limit"]
    job = begun(machine, case, outside)
    dump = Dump(machine, job, case)
    total = sum(extents.size for extents in dump.result.images.values())
    assert dump.slot.used == total
