"""What the kernel tells of changes to files: fanotify groups, their events, and file handles.

A file is known here by its `Handle`, which it keeps under every name; a name by its `Place`, which stays right when
folders above are renamed. Used by the attribution and the rollback; knows nothing of checkpoints.
"""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

MODIFY, ATTRIB, CLOSE_WRITE, CREATE, DELETE = 0x2, 0x4, 0x8, 0x100, 0x200
OVERFLOW, RENAME, ONDIR = 0x4000, 0x10000000, 0x40000000
"""Kinds of events, ``fanotify_mark(2)``."""

_GROUP = 0x1 | 0x2 | 0x10 | 0x20 | 0x200 | 0x400 | 0x800 | 0x1000
"""CLOEXEC, NONBLOCK, an unlimited queue (init always reads it) and unlimited marks; report the file, its folder and
name. Needs Linux 5.17, and CAP_SYS_ADMIN in the first user namespace."""

_MARK_ADD, _MARK_MOUNT, _MARK_FILESYSTEM = 0x1, 0x10, 0x100
_FID, _DFID_NAME, _OLD, _NEW = 1, 2, 10, 12
_EVENT = struct.Struct("=IBBHQii")
_INFO = struct.Struct("=BBH8sIi")
_HANDLE = struct.Struct("=Ii")
_LARGEST_HANDLE = 128
_AT_FDCWD = -100

Handle: TypeAlias = bytes
"""A file: its filesystem's id (8 bytes), and what ``name_to_handle_at(2)`` says of it."""


class Place(NamedTuple):
    """A name in a folder."""

    folder: Handle
    name: bytes


@dataclass(frozen=True, slots=True)
class Event:
    """One change, or several of the same kind that the kernel has merged.

    Args:
        mask: what happened.
        file: to which file; empty after an overflow.
        place: under which name; None for a change of attributes that was made without one.
        old: of a rename: the name before.
    """

    mask: int
    file: Handle
    place: Place | None
    old: Place | None = None


_libc = ctypes.CDLL(None, use_errno=True)


def group() -> int:
    """Return a new group's descriptor. Raises OSError."""
    return _checked(_libc.fanotify_init(_GROUP, os.O_RDONLY), "fanotify_init")


def watch_mount(fd: int, path: str) -> None:
    """Watch contents changed through a mount. Raises OSError."""
    _mark(fd, _MARK_ADD | _MARK_MOUNT, MODIFY | CLOSE_WRITE, path)


def watch_filesystem(fd: int, path: str) -> None:
    """Watch names and attributes of a whole filesystem. Raises OSError."""
    _mark(fd, _MARK_ADD | _MARK_FILESYSTEM, CREATE | DELETE | RENAME | ATTRIB | ONDIR, path)


def _mark(fd: int, flags: int, mask: int, path: str) -> None:
    _checked(_libc.fanotify_mark(fd, flags, ctypes.c_uint64(mask), _AT_FDCWD, os.fsencode(path)), path)


def parse(data: bytes) -> Iterator[Event]:
    """Yield the events of a log; one that was not written completely ends it."""
    at = 0
    while at + _EVENT.size <= len(data):
        length, _version, _, start, mask, _fd, _pid = _EVENT.unpack_from(data, at)
        end = at + length
        if length < _EVENT.size or end > len(data):
            return
        file, place, old = b"", None, None
        at += start
        while at < end:
            kind, _pad, size, fsid, handle_bytes, _type = _INFO.unpack_from(data, at)
            name_at = at + _INFO.size + handle_bytes
            handle = fsid + data[at + 12 : name_at]
            if kind == _FID:
                file = handle
            elif kind in {_DFID_NAME, _OLD, _NEW}:
                named = Place(handle, data[name_at : at + size].split(b"\0", 1)[0])
                if kind == _OLD:
                    old = named
                else:
                    place = named
            at += size
        at = end
        yield Event(mask, file, place, old)


def handle_of(path: str) -> Handle:
    """Return the handle of what stands at a path; a symlink is not followed. Raises OSError."""
    buffer = ctypes.create_string_buffer(_HANDLE.size + _LARGEST_HANDLE)
    _HANDLE.pack_into(buffer, 0, _LARGEST_HANDLE, 0)
    mount = ctypes.c_int()
    _checked(
        _libc.name_to_handle_at(_AT_FDCWD, os.fsencode(path), buffer, ctypes.byref(mount), 0),
        path,
    )
    length, _ = _HANDLE.unpack_from(buffer, 0)
    return filesystem_of(path) + buffer.raw[: _HANDLE.size + length]


def filesystem_of(path: str) -> bytes:
    """Return the id of the filesystem a path is on, as handles begin with it. Raises OSError."""
    folder = os.path.dirname(path) if os.path.islink(path) else path  # noqa: PTH114, PTH120 - names may be bytes
    return (os.statvfs(folder).f_fsid & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "little")


def open_handle(mount: int, handle: Handle) -> int:
    """Open a file by its handle, to look where it is; ``mount`` is any descriptor on its filesystem.

    Raises:
        OSError: ESTALE: it is gone.
    """
    buffer = ctypes.create_string_buffer(handle[8:], len(handle) - 8)
    return _checked(_libc.open_by_handle_at(mount, buffer, os.O_PATH | os.O_CLOEXEC), "open_by_handle_at")


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result
