"""A job whose parts are watches: on filesystems of several kinds, for files and folders, with masks and cookies."""

from __future__ import annotations

import os
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from parts import LIBC, checked, main, public

if TYPE_CHECKING:
    from collections.abc import Iterator

CREATE, MODIFY, MOVED = 0x100, 0x2, 0xC0


def events(fd: int) -> list[tuple[int, str, bytes]]:
    """Read all events: watch, mask, name."""
    data = os.read(fd, 65536)
    found = []
    while data:
        watch, mask, _, length = struct.unpack_from("iIII", data)
        found.append((watch, hex(mask), data[16 : 16 + length].rstrip(b"\0")))
        data = data[16 + length :]
    return found


def watched(folder: str) -> Iterator[object]:
    file = Path(folder, "file")
    file.touch()
    fd = checked(LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    one = checked(LIBC.inotify_add_watch(fd, os.fsencode(folder), CREATE | MOVED))
    gone = checked(LIBC.inotify_add_watch(fd, b"/", CREATE))
    checked(LIBC.inotify_rm_watch(fd, gone))
    other = checked(LIBC.inotify_add_watch(fd, os.fsencode(file), MODIFY))
    events(fd)
    yield
    Path(folder, "new").touch()
    Path(folder, "new").rename(Path(folder, "newer"))
    file.write_text("x")
    seen = events(fd)
    again = checked(LIBC.inotify_add_watch(fd, os.fsencode(Path(folder, "newer")), MODIFY))
    yield one, other, again, seen


def part_private() -> Iterator[object]:
    yield from watched(tempfile.mkdtemp())


def part_ordinary() -> Iterator[object]:
    folder = os.environ.get("WATCHED", "folder")
    Path(folder).mkdir(exist_ok=True)
    yield from watched(folder)


if __name__ == "__main__":
    main(public(globals()))
