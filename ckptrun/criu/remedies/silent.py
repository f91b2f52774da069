"""What CRIU dumps without a word, and restores otherwise or not at all: looked for while the job is stopped.

Called by the supervisor inside the freeze, when nothing changes any more. A checkpoint with such a thing is refused.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import sys
import termios
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptrun.criu.remedies.model import Finding
from ckptrun.criu.remedies.processes import Process, process_of
from ckptrun.criu.remedies.sysv import used_by
from ckptrun.criu.remedies.table import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SEMAPHORE = re.compile(r"^eventfd-semaphore:\s*1$", re.MULTILINE)
_CLOCK = re.compile(r"^ClockID:\s*(-?\d+)$", re.MULTILINE)
_OF_THREAD = 4
"""The kernel's CPUCLOCK_PERTHREAD_MASK: it shows processor clocks as negative numbers of PID and kind."""
_WATCHES = {"anon_inode:inotify", "anon_inode:[fanotify]"}
_PIDFD_GETFD = 438
_KCMP = {"x86_64": 312, "aarch64": 272}
_KCMP_FILE = 0
_LIBC = ctypes.CDLL(None)
_HIGHEST_CODE = 127
"""CRIU's restore_one_zombie() ends a zombie with the lower seven bits of its code."""
_CODE_FIELD = 49
"""Field 52 of /proc/PID/stat, the wait status, counted from the state (field 3)."""


@dataclass(frozen=True, slots=True)
class _Stat:
    """What /proc/PID/stat says, with numbers as this PID namespace counts."""

    host_pid: int
    state: str
    parent: int
    session: int
    status: int


def silent_loss(host_pids: Sequence[int]) -> Finding | None:
    """Return the first thing that would be lost without a word; the first process is the root.

    About 20 microseconds for each process and 3 for each descriptor.
    """
    return next(_losses(host_pids), None)


def _losses(host_pids: Sequence[int]) -> Iterator[Finding]:
    stats = {stat.host_pid: stat for pid in host_pids if (stat := _stat(pid))}
    held: dict[int, list[tuple[int, str]]] = {}
    for pid, stat in stats.items():
        if stat.state == "Z" and os.WIFEXITED(stat.status) and os.WEXITSTATUS(stat.status) > _HIGHEST_CODE:
            yield from _found(pid, host_pids[0], "zombie-status")
        if _lost_session(stat, stats, host_pids[0]):
            yield from _found(pid, host_pids[0], "orphan-below-subreaper")
        if _lost_clock(pid):
            yield from _found(pid, host_pids[0], "thread-clock-timer")
        held[pid] = list(Process(pid, 0, "").descriptors())
        if (lost := _lost_descriptor(pid, held[pid])) is not None:
            yield from _found(pid, host_pids[0], *lost)
    if (terminal := _lost_terminal(stats, held)) is not None:
        yield from _found(terminal[0], host_pids[0], "terminal-inherited", terminal[1])
    for used in used_by(stats):
        yield from _found(used.host_pid, host_pids[0], used.remedy, path=used.label)


def _stat(host_pid: int) -> _Stat | None:
    words = Process(host_pid, 0, "").read("stat").rpartition(")")[2].split()
    if len(words) <= _CODE_FIELD:
        return None
    return _Stat(host_pid, words[0], int(words[1]), int(words[3]), int(words[_CODE_FIELD]))


def _lost_session(stat: _Stat, stats: dict[int, _Stat], root: int) -> bool:
    """Whether no ancestor founded the session, though the parent is not the root (CRIU's prepare_pstree_ids)."""
    parent = stats.get(stat.parent)
    if stat.session == stat.host_pid or parent is None or parent.host_pid == root:
        return False
    above: _Stat | None = parent
    while above is not None:
        if stat.session in (above.host_pid, above.session):
            return False
        above = stats.get(above.parent)
    return True


def _lost_clock(host_pid: int) -> bool:
    """Whether a timer goes by a single thread's processor time: restored, it goes by that of the first thread."""
    clocks = [int(clock) for clock in _CLOCK.findall(Process(host_pid, 0, "").read("timers"))]
    if any(clock < 0 and ~(clock >> 3) for clock in clocks):
        return True  # of a process or thread by its number, which may not be there yet
    if any(clock == time.CLOCK_THREAD_CPUTIME_ID or (clock < 0 and clock & _OF_THREAD) for clock in clocks):
        with contextlib.suppress(OSError):
            return len(os.listdir(f"/proc/{host_pid}/task")) > 1  # noqa: PTH208 -- inside the freeze
    return False


def _lost_descriptor(host_pid: int, held: Sequence[tuple[int, str]]) -> tuple[str, int] | None:
    """Return the entry of a descriptor that is not restored as it is, and its number."""
    process = Process(host_pid, 0, "")
    for fd, link in held:
        if link == "anon_inode:[eventfd]" and _SEMAPHORE.search(process.read(f"fdinfo/{fd}")):
            return "semaphore-eventfd", fd
        if link in _WATCHES and _unread(host_pid, fd):
            return "unread-watch", fd
    return None


def _lost_terminal(stats: dict[int, _Stat], held: dict[int, list[tuple[int, str]]]) -> tuple[int, int] | None:
    """Return who holds a /dev/tty that no leader of a session shares, and the number.

    CRIU gives the controlling terminal back to leaders, once their children are there: these could not open it.
    """
    holding = [(pid, fd) for pid, links in held.items() for fd, link in links if link == "/dev/tty"]
    leading = [(pid, fd) for pid, fd in holding if stats[pid].session == pid]
    for pid, fd in holding:
        if (pid, fd) not in leading and not any(_same_file(pid, fd, *other) for other in leading):
            return pid, fd
    return None


def _same_file(pid: int, fd: int, other_pid: int, other_fd: int) -> bool:
    """Whether two descriptors are of one open file; True where this cannot be told."""
    number = _KCMP.get(os.uname().machine)
    return number is None or _LIBC.syscall(number, pid, other_pid, _KCMP_FILE, fd, other_fd) <= 0


def _unread(host_pid: int, fd: int) -> int:
    """Return how many bytes wait to be read at a descriptor of another process; 0 if that is not permitted."""
    with contextlib.suppress(OSError):
        process = os.pidfd_open(host_pid)
        try:
            same = _LIBC.syscall(_PIDFD_GETFD, process, fd, 0)
        finally:
            os.close(process)
        if same >= 0:
            try:
                return int.from_bytes(fcntl.ioctl(same, termios.FIONREAD, bytes(4)), sys.byteorder)
            finally:
                os.close(same)
    return 0


def _found(host_pid: int, root: int, name: str, fd: int = -1, path: str = "") -> Iterator[Finding]:
    process = process_of(host_pid, root)
    if process is not None:
        yield Finding(BY_NAME[name], "", process.pid, host_pid, process.program, fd, path)
