"""Another user's rights to files, for one thread of this process: `make_files_as`, `Modest`.

By the raw calls: the library's change every thread. What a thread is in other respects (signals, /proc) stays.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckptrun.capsule.spec import Identity

_CAPABILITIES = 0x20080522
_SETGROUPS = {"x86_64": 116, "aarch64": 159}
_EFFECTIVE, _PERMITTED = (0, 3), (1, 4)
"""Where ``capget(2)`` has the lower and the upper half of a set."""
_DAC_OVERRIDE, _DAC_READ_SEARCH = 1 << 1, 1 << 2

_NOBODY = -1
"""No user and no group: to change to it changes nothing, and tells who it is now."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.setfsuid.restype = _libc.setfsgid.restype = ctypes.c_uint32


def make_files_as(uid: int, gid: int, groups: Sequence[int]) -> None:
    """Have this thread make files as another user, with every capability it had. Raises OSError."""
    _become(uid, gid, groups)
    sets = _capabilities()
    for effective, permitted in zip(_EFFECTIVE, _PERMITTED, strict=True):
        sets[effective] = sets[permitted]  # becoming another user has taken those of files
    _have(sets)


@dataclass(frozen=True, slots=True)
class Modest:
    """A user; called: a context in which this thread has that user's rights to files, and no more.

    Whatever is looked up in it is what the user could look up, and whatever a descriptor is made of it, the user may
    have: nobody who changes paths meanwhile gets us to open more.
    """

    identity: Identity

    @property
    def uid(self) -> int:
        """The user's id."""
        return self.identity.uid

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """See the class. Raises OSError if the thread may not become that user."""
        before = _libc.setfsuid(_NOBODY), _libc.setfsgid(_NOBODY), os.getgroups()
        sets = _capabilities()
        try:
            _become(self.identity.uid, self.identity.gid, self.identity.groups)
            less = _capabilities()
            less[0] &= ~(_DAC_OVERRIDE | _DAC_READ_SEARCH)
            _have(less)
            yield
        finally:
            _become(*before)
            _have(sets)


def _become(uid: int, gid: int, groups: Sequence[int]) -> None:
    """Change this thread's user, group and groups for files."""
    array = (ctypes.c_uint32 * max(len(groups), 1))(*groups)
    _check("setgroups", _libc.syscall(_SETGROUPS[platform.machine()], len(groups), array))
    _libc.setfsgid(gid)
    _libc.setfsuid(uid)
    if (_libc.setfsuid(_NOBODY), _libc.setfsgid(_NOBODY)) != (uid, gid):  # neither says that it was refused
        raise PermissionError(errno.EPERM, f"this thread may not act as user {uid}, group {gid}")


def _capabilities() -> ctypes.Array[ctypes.c_uint32]:
    data = (ctypes.c_uint32 * 6)()
    _check("capget", _libc.capget(_head(), data))
    return data


def _have(sets: ctypes.Array[ctypes.c_uint32]) -> None:
    _check("capset", _libc.capset(_head(), sets))


def _head() -> ctypes.Array[ctypes.c_uint32]:
    return (ctypes.c_uint32 * 2)(_CAPABILITIES, 0)


def _check(what: str, result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
