"""A job that would use io_uring, as liburing's users do: a ring if the kernel gives one, plain calls if it has none."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from parts import LIBC, main, public

if TYPE_CHECKING:
    from collections.abc import Iterator

IO_URING_SETUP = 425


def part_reading() -> Iterator[object]:
    """What liburing does: ENOSYS, and nothing else, means that there is no io_uring here."""
    Path("data").write_bytes(b"content")
    parameters = ctypes.create_string_buffer(120)
    ring = LIBC.syscall(IO_URING_SETUP, 4, parameters)
    assert ring < 0, "a ring"
    assert ctypes.get_errno() == errno.ENOSYS, os.strerror(ctypes.get_errno())
    fd = os.open("data", os.O_RDONLY)
    yield
    ring = LIBC.syscall(IO_URING_SETUP, 4, parameters)
    yield ring, errno.errorcode[ctypes.get_errno()], os.pread(fd, 100, 0)


if __name__ == "__main__":
    main(public(globals()))
