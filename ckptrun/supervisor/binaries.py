"""Which files a job has mapped, and which build of each: executables, libraries, and data mapped for reading.

Called around a dump with the job running, and before a restore. CRIU saves no page that still is what its file has:
restored over another build of a library, a process runs code that does not fit its data.

A build is known by its build-id, which the linker makes from the content; where there is none, by the content itself.
What has been read once is not read again while device, inode, size and times are the same.
"""

# Names are strings with surrogates here, next to descriptors and raw calls; Path would add nothing.
# ruff: noqa: PTH116, PTH123

from __future__ import annotations

import os
import re
import stat
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blake3 import blake3

from ckptrun.cuda import finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DATA_LIMIT = 16 << 20
"""Bytes up to which mapped data that is no program is known by its content; beyond, by its size: weights, tables."""

_LINE = re.compile(rb"^[0-9a-f]+-[0-9a-f]+ ..(.)(.) [0-9a-f]+ [0-9a-f]+:[0-9a-f]+ \d+ +(/.*)$", re.MULTILINE)
_DELETED = b" (deleted)"
_LIBC = re.compile(r"/(?:libc\.so\.6|libc-2\.\d+\.so)$")
_MUSL = re.compile(r"/(?:ld-musl-[^/]*|libc\.musl-[^/]*)\.so\.1$")
_GLIBC_VERSION = re.compile(rb"GNU C Library [^\n]*version (\d+\.\d+)")
_GPU = b"/dev/nvidia"
_NOTE_SEGMENT, _BUILD_ID_NOTE = 4, 3
_NOTES_LIMIT = _HEADERS_LIMIT = 1 << 16


@dataclass(frozen=True, slots=True)
class Build:
    """One build of a file.

    Args:
        size: bytes.
        identity: ``build-id:…``, ``blake3:…``, or empty if only its size is known.
        libc: of a C library, its name and version.
    """

    size: int
    identity: str
    libc: str = ""


@dataclass(frozen=True, slots=True)
class Mapped:
    """What processes have mapped: path in the job's eyes -> build; and whether any has a GPU's device, or had it."""

    files: dict[str, Build]
    gpu: bool

    def __or__(self, other: Mapped) -> Mapped:
        """Return both together."""
        return Mapped(self.files | other.files, self.gpu or other.gpu)


class Binaries:
    """Knows builds by what it has read; one per run.

    Args:
        ignore: folders of the job's whose files travel with the checkpoint.
        devices: the folder of the GPUs' device files.
    """

    def __init__(self, ignore: Sequence[str] = (), devices: str = finding.DEVICES) -> None:
        self._ignore = tuple(os.fsencode(folder).rstrip(b"/") + b"/" for folder in (*ignore, "/dev"))
        self._known: dict[tuple[int, ...], Build] = {}
        self._devices = devices
        self._gpu_in_use = False

    def look_for_gpus(self, pids: Iterable[int]) -> None:
        """Note whether any of these processes uses a GPU, before hooks take it out of their hands."""
        self._gpu_in_use = finding.in_use(pids, self._devices)

    def mapped(self, pids: Iterable[int]) -> Mapped:
        """Return what these processes have mapped from files with a name; one that is gone has nothing."""
        found: dict[bytes, tuple[int, bool]] = {}
        gpu = False
        for pid in pids:
            for path, program in _mappings(pid):
                gpu = gpu or path.startswith(_GPU)
                if not path.startswith(self._ignore):
                    owner, known = found.get(path, (pid, False))
                    found[path] = owner, known or program
        builds = {}
        for path, (pid, program) in found.items():
            name = os.fsdecode(path.replace(rb"\012", b"\n"))
            if build := self.look(name, root=f"/proc/{pid}/root", program=program):
                builds[name] = build
        return Mapped(builds, gpu or self._gpu_in_use)

    def look(self, path: str, *, root: str = "", program: bool = False) -> Build | None:
        """Return which build a file is; None if it is not there or no regular file.

        Args:
            path: absolute.
            root: prefix under which the job's paths are found.
            program: its code is executed: it is known by its content, however large it is.
        """
        try:
            status = os.stat(root + path)
            if not stat.S_ISREG(status.st_mode):
                return None
            times = status.st_mtime_ns, status.st_ctime_ns
            key = status.st_dev, status.st_ino, status.st_size, *times, int(program)
            build = self._known.get(key)
            if build is None:
                build = self._known[key] = _read(root + path, path, status.st_size, program=program)
        except OSError:
            return None
        return build


def _mappings(pid: int) -> Iterable[tuple[bytes, bool]]:
    """Yield path and whether it is executed of the files a process has mapped; data shared with others is theirs."""
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            text = file.read()
    except OSError:
        return
    for execute, sharing, path in set(_LINE.findall(text)):
        program = execute == b"x"
        if not path.endswith(_DELETED) and (program or sharing == b"p" or path.startswith(_GPU)):
            yield path, program


def _read(full: str, path: str, size: int, *, program: bool) -> Build:
    with open(full, "rb") as file:
        if identity := build_id(file.fileno()):
            identity = f"build-id:{identity}"
        elif program or size <= DATA_LIMIT:
            identity = f"blake3:{blake3().update_mmap(full).hexdigest(16) if size else ''}"
        return Build(size, identity, _libc(path, file.read() if _LIBC.search(path) else b""))


def _libc(path: str, content: bytes) -> str:
    if _MUSL.search(path):
        return "musl"
    version = _GLIBC_VERSION.search(content)
    return f"glibc {version[1].decode()}" if version else ""


def build_id(fd: int) -> str:
    """Return the build-id of an ELF file in hexadecimal; empty if it has none, or is no whole ELF file."""
    head = os.pread(fd, 64, 0)
    if head[:4] != b"\x7fELF" or len(head) < 64:
        return ""
    try:
        return _from_notes(fd, head)
    except (struct.error, OverflowError):  # offsets that lead nowhere
        return ""


def _from_notes(fd: int, head: bytes) -> str:
    order = "<" if head[5] == 1 else ">"
    wide = head[4] == 2
    at, table, fields = ("Q", 32, "HH") if wide else ("I", 28, "HH")
    (offset,) = struct.unpack_from(order + at, head, table)
    entry, count = struct.unpack_from(order + fields, head, 54 if wide else 42)
    segments = os.pread(fd, min(entry * count, _HEADERS_LIMIT), offset)
    for start in range(0, len(segments) - entry + 1, entry or 1):
        (kind,) = struct.unpack_from(order + "I", segments, start)
        if kind == _NOTE_SEGMENT:
            (where,) = struct.unpack_from(order + at, segments, start + (8 if wide else 4))
            (length,) = struct.unpack_from(order + at, segments, start + (32 if wide else 16))
            (align,) = struct.unpack_from(order + at, segments, start + (48 if wide else 28))
            notes = os.pread(fd, min(length, _NOTES_LIMIT), where)
            if found := _in_notes(notes, order, 8 if align == 8 else 4):
                return found
    return ""


def _in_notes(notes: bytes, order: str, align: int) -> str:
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from(order + "III", notes, at)
        name = notes[at + 12 : at + 12 + name_size]
        start = at + 12 + (name_size + align - 1) // align * align
        if kind == _BUILD_ID_NOTE and name == b"GNU\0":
            return notes[start : start + size].hex()
        at = start + (size + align - 1) // align * align
    return ""
