"""A job whose parts are memory of every kind, and files that have lost their names."""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import platform
import random
import tempfile
from multiprocessing import shared_memory
from pathlib import Path
from typing import TYPE_CHECKING

from parts import LIBC, checked, ended, forked, main, public

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = mmap.PAGESIZE
MEGABYTE = 1 << 20
ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
LIBC.mmap.restype = ctypes.c_void_p


def address(area: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(area))


def flags_of(start: int) -> set[str]:
    """Return the kernel's flags of the mapping that holds an address."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            low, _, high = words[0].partition("-")
            inside = int(low, 16) <= start < int(high, 16)
        elif inside and words[0] == "VmFlags:":
            return set(words[1:])
    return set()


def digest(data: object) -> str:
    return hashlib.sha256(data).hexdigest()[:12]  # type: ignore[arg-type]


def part_protection() -> Iterator[object]:
    area = mmap.mmap(-1, 4 * PAGE, flags=ANONYMOUS)
    area[:] = bytes(range(256)) * (4 * PAGE // 256)
    start = address(area)
    checked(LIBC.mprotect(ctypes.c_void_p(start + PAGE), PAGE, 0))
    checked(LIBC.mprotect(ctypes.c_void_p(start + 2 * PAGE), PAGE, 1))
    yield
    kinds = [{"rd", "wr"} & flags_of(start + page * PAGE) for page in range(4)]
    checked(LIBC.mprotect(ctypes.c_void_p(start + PAGE), 2 * PAGE, 3))
    yield [sorted(kind) for kind in kinds], digest(area)


def part_locked_huge_and_sparse() -> Iterator[object]:
    locked = mmap.mmap(-1, 4 * PAGE, flags=ANONYMOUS)
    checked(LIBC.mlock(ctypes.c_void_p(address(locked)), 4 * PAGE))
    huge = mmap.mmap(-1, 8 * MEGABYTE, flags=ANONYMOUS)
    huge.madvise(mmap.MADV_HUGEPAGE)
    huge[:] = random.Random(1).randbytes(8 * MEGABYTE)
    sparse = mmap.mmap(-1, 1 << 36, flags=ANONYMOUS | 0x4000)  # MAP_NORESERVE
    for place in range(0, 1 << 36, 1 << 32):
        sparse[place : place + 5] = b"there"
    secret = mmap.mmap(-1, PAGE, flags=ANONYMOUS)
    secret.madvise(mmap.MADV_DONTDUMP)
    secret.madvise(mmap.MADV_DONTFORK)
    yield
    there = {bytes(sparse[place : place + 6]) for place in range(0, 1 << 36, 1 << 32)}
    found = (
        "lo" in flags_of(address(locked)),
        "hg" in flags_of(address(huge)),
        {"dd", "dc"} <= flags_of(address(secret)),
    )
    yield found, digest(huge), there, sparse[12345]


def part_shared_between_processes() -> Iterator[object]:
    shared = mmap.mmap(-1, 4 * PAGE)
    private = mmap.mmap(-1, PAGE, flags=ANONYMOUS)
    private[:4] = b"born"
    zero = os.open("/dev/zero", os.O_RDWR)
    device = mmap.mmap(zero, PAGE)
    question, answer = os.pipe(), os.pipe()

    def work() -> None:
        private[:5] = b"child"
        shared[:5] = b"child"
        while os.read(question[0], 1):
            shared[5:10] = b"again"
            device[:5] = b"child"
            os.write(answer[1], bytes(private[:5]))

    child = forked(work)
    yield
    shared[PAGE : PAGE + 6] = b"parent"
    os.write(question[1], b"x")
    theirs = os.read(answer[0], 5)
    found = bytes(shared[:10]), bytes(device[:5]), bytes(private[:5]), theirs
    os.kill(child, 9)
    yield *found, ended(child)


def part_shared_memory() -> Iterator[object]:
    segment = shared_memory.SharedMemory(create=True, size=3 * MEGABYTE)
    segment.buf[:] = random.Random(2).randbytes(3 * MEGABYTE)
    yield
    with_name = shared_memory.SharedMemory(segment.name)
    segment.buf[:4] = b"seen"
    found = bytes(with_name.buf[:4]), digest(with_name.buf)
    with_name.close()
    segment.close()
    segment.unlink()
    yield *found, Path(f"/dev/shm/{segment.name}").exists()


def part_code_made_at_run_time() -> Iterator[object]:
    code = {"x86_64": bytes.fromhex("b82a000000c3"), "aarch64": bytes.fromhex("40058052c0035fd6")}
    area = mmap.mmap(-1, PAGE, flags=ANONYMOUS, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    area[:8] = code[platform.machine()].ljust(8, b"\0")
    start = address(area)
    checked(LIBC.mprotect(ctypes.c_void_p(start), PAGE, 5))
    yield
    yield ctypes.CFUNCTYPE(ctypes.c_int)(start)()


def part_memfd_mappings() -> Iterator[object]:
    fd = os.memfd_create("mapped")
    os.ftruncate(fd, 4 * MEGABYTE)
    area = mmap.mmap(fd, 4 * MEGABYTE)
    area[MEGABYTE : MEGABYTE + 6] = b"mapped"
    yield
    os.pwrite(fd, b"through the file", 0)
    yield bytes(area[:16]), os.pread(fd, 6, MEGABYTE), os.fstat(fd).st_blocks < 1000


def part_unlinked_files() -> Iterator[object]:
    small = Path("small").open("wb+")  # noqa: SIM115
    small.write(b"small content")
    small.flush()
    large = os.open("large", os.O_RDWR | os.O_CREAT)
    os.ftruncate(large, 64 * MEGABYTE)
    for place in (0, 10, 63):
        os.pwrite(large, random.Random(place).randbytes(MEGABYTE), place * MEGABYTE)
    mapped = mmap.mmap(large, 64 * MEGABYTE)
    nameless = tempfile.TemporaryFile()  # noqa: SIM115
    nameless.write(b"nameless")
    nameless.flush()
    for name in ("small", "large"):
        Path(name).unlink()
    yield
    small.write(b" and more")
    small.flush()
    small.seek(0)
    mapped[5:12] = b"changed"
    sparse = os.fstat(large).st_blocks * 512 < 32 * MEGABYTE
    nameless.seek(0)
    yield (
        small.read(),
        digest(mapped),
        os.pread(large, 7, 5),
        sparse,
        nameless.read(),
        Path("small").exists(),
    )


def part_removed_name_of_a_file_with_another() -> Iterator[object]:
    folder = Path(tempfile.mkdtemp())
    file = (folder / "one").open("wb+")
    file.write(b"content")
    file.flush()
    (folder / "two").hardlink_to(folder / "one")
    (folder / "one").unlink()
    yield
    file.write(b" and more")
    file.flush()
    names = [path.name for path in folder.iterdir()]
    yield (
        names,
        (folder / "two").read_bytes(),
        os.path.samestat(os.fstat(file.fileno()), (folder / "two").stat()),
    )


def part_unlinked_folder() -> Iterator[object]:
    Path("gone").mkdir()
    fd = os.open("gone", os.O_DIRECTORY)
    Path("gone").rmdir()
    yield
    yield os.listdir(fd), os.fstat(fd).st_nlink  # noqa: PTH208 - a folder without a path


if __name__ == "__main__":
    main(public(globals()))
