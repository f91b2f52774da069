"""A job whose parts are huge pages, reserved by the machine: mapped for itself, shared by fork, and as a memfd."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

from parts import ended, forked, main, public

if TYPE_CHECKING:
    from collections.abc import Iterator

MAP_HUGETLB, MFD_HUGETLB = 0x40000, 0x4
SIZE = 2 << 20


def part_private() -> Iterator[object]:
    memory = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_HUGETLB)
    memory[:6] = b"before"
    memory[-1] = 7
    yield
    memory[100:105] = b"after"
    yield memory[:6], memory[-1], memory[100:105], sum(memory[:])


def part_shared() -> Iterator[object]:
    memory = mmap.mmap(-1, SIZE, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | MAP_HUGETLB)
    memory[:6] = b"before"
    yield

    def work() -> None:
        memory[100:105] = b"child"

    ended(forked(work))
    yield memory[:6], memory[100:105]


def part_memfd() -> Iterator[object]:
    fd = os.memfd_create("huge", MFD_HUGETLB)
    os.ftruncate(fd, SIZE)
    memory = mmap.mmap(fd, SIZE)
    memory[:6] = b"before"
    yield
    other = mmap.mmap(fd, SIZE)
    other[100:105] = b"after"
    yield memory[:6], memory[100:105], os.fstat(fd).st_size, os.fstat(fd).st_blksize


def part_private_memfd() -> Iterator[object]:
    fd = os.memfd_create("huge", MFD_HUGETLB)
    os.ftruncate(fd, SIZE)
    memory = mmap.mmap(fd, SIZE, flags=mmap.MAP_PRIVATE)
    memory[:6] = b"before"
    yield
    yield memory[:6]


if __name__ == "__main__":
    main(public(globals()))
