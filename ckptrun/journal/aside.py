"""Keeps what a rollback removes: a bounded folder with an index, listed by ``ckptrun files``.

Layout: one file (or folder) for each thing kept, named by its id, and ``index.jsonl``, one `SetAside` a line,
oldest first. A line is written after what it names is complete; the same thing kept again after a crash is
found by its id.
"""

# Names are strings with surrogates here, next to descriptors and raw calls; Path would add nothing.
# ruff: noqa: PTH102, PTH104, PTH108, PTH115, PTH123, PTH211

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from blake3 import blake3

from ckptrun.journal.contents import read_runs
from ckptrun.journal.filling import room_for
from ckptrun.journal.mounts import Mounted
from ckptrun.journal.record import name_from_json, name_to_json, printable
from ckptrun.journal.trees import walk

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ckptrun.journal.trees import Entry

ASIDE_LIMIT = 1 << 30
"""Bytes kept aside unless told otherwise: 1 GiB."""

_INDEX = "index.jsonl"


@dataclass(frozen=True, slots=True)
class SetAside:
    """One thing kept: a line of ``index.jsonl``.

    Args:
        id: name of what is kept in the folder.
        path: where it was, in the job's eyes.
        reason: why it was removed: ``cut back``, ``replaced``, ``not in the checkpoint``, ``created after the
            checkpoint``.
        offset: where in the file the kept bytes began; 0 unless cut back.
        bytes: how many bytes are kept.
        time: seconds since the epoch.
    """

    id: str
    path: str
    reason: str
    offset: int
    bytes: int
    time: float


def listed(folder: Path) -> tuple[SetAside, ...]:
    """Return what the folder keeps, oldest first: nothing if there is none. Torn lines are passed over."""
    try:
        lines = (folder / _INDEX).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return ()
    found = []
    for line in lines:
        try:
            value = json.loads(line)
            entry = SetAside(
                value["id"],
                name_from_json(value["path"]),
                value["reason"],
                value["offset"],
                value["bytes"],
                value["time"],
            )
        except (ValueError, KeyError, TypeError):
            continue
        if os.path.lexists(folder / entry.id):  # else a crash came between
            found.append(entry)
    return tuple(found)


class Aside:
    """The folder, open for keeping more.

    Args:
        folder: made if missing, 0700: what is kept may be secret.
        limit: bytes to keep; the oldest go first, the newest is kept even if it is larger by itself.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._index = folder / _INDEX
        self.limit = limit
        with room_for(os.fspath(folder)):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._entries = list(listed(folder))
        self._total = sum(entry.bytes for entry in self._entries)
        self._write_index()  # without the line a crash may have torn

    def keep(self, full: str, path: str, reason: str, *, copy: bool = False) -> SetAside:
        """Keep a file, whatever its kind, that is about to be replaced or removed; it stays where it is.

        Args:
            full: where it is for us.
            path: its name in the job's eyes.
            reason: for the index.
            copy: its content will be overwritten in place, so that a hard link would not do.

        Raises:
            StoreFullError: there is no room to keep it.
        """
        status = os.lstat(full)
        regular = stat.S_ISREG(status.st_mode)
        entry = _entry(
            path, reason, status, status.st_ctime_ns if copy else 0, status.st_size if regular else 0
        )
        if (known := self._kept(entry)) is not None:
            return known
        place = os.fspath(self._folder / entry.id)
        with self._room_for(path):
            if stat.S_ISLNK(status.st_mode):
                if not os.path.lexists(place):
                    os.symlink(os.readlink(full), place)
            elif regular and (copy or not _linked(full, place)):
                self._copy_file(full, place)
        return self._add(entry)

    def links_to(self, full: str, path: str, reason: str) -> bool:
        """Say whether the file that stands there is already kept by a hard link: a rollback was interrupted."""
        status = os.lstat(full)
        place = self._folder / _entry(path, reason, status, 0, status.st_size).id
        return os.path.lexists(place) and os.path.samestat(os.lstat(place), status)

    def keep_tail(self, fd: int, path: str, size: int) -> SetAside:
        """Keep what a file holds past ``size`` bytes.

        Raises:
            StoreFullError: there is no room to keep it.
        """
        status = os.fstat(fd)
        entry = replace(_entry(path, "cut back", status, size, status.st_size - size), offset=size)
        if (known := self._kept(entry)) is not None:
            return known
        with self._room_for(path):
            self._copy(fd, os.fspath(self._folder / entry.id), size, entry.bytes)
        return self._add(entry)

    def move_folder(self, full: str, path: str, reason: str) -> SetAside:
        """Move a whole folder here that stands where a file must; a copy, and then the folder goes, if need be.

        Raises:
            StoreFullError: there is no room to keep it.
            OSError: EBUSY, and nothing has changed: a filesystem is mounted in it.
        """
        if point := Mounted.of("/").inside(full):
            why = f"a filesystem is mounted at {printable(point)}; unmount it and run the same command again"
            raise OSError(errno.EBUSY, why, point)
        status = os.lstat(full)
        within = list(walk("", full, (), []))[1:]
        size = sum(entry.status.st_size for entry in within if stat.S_ISREG(entry.status.st_mode))
        entry = _entry(path, reason, status, 0, size)
        place = os.fspath(self._folder / entry.id)
        kept = self._kept(entry) or self._add(entry)  # before it is there: so nothing is ever there unlisted
        with self._room_for(path):
            if not _renamed(full, place):
                if not os.path.lexists(place):  # else a crash came while the rest was removed
                    self._copy_folder(full, place, within)
                shutil.rmtree(full)
        return kept

    def _copy_folder(self, full: str, place: str, within: Sequence[Entry]) -> None:
        """Copy a folder to another filesystem, complete or not at all: the last step is a rename."""
        partial = f"{place}.part"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            os.mkdir(partial, 0o700)
            for entry in within:
                there = partial + entry.path.removeprefix(full)
                if stat.S_ISDIR(entry.status.st_mode):
                    os.mkdir(there, 0o700)
                elif stat.S_ISLNK(entry.status.st_mode):
                    os.symlink(os.readlink(entry.path), there)
                elif stat.S_ISREG(entry.status.st_mode):
                    self._copy_file(entry.path, there)
                else:
                    os.mknod(there, entry.status.st_mode, entry.status.st_rdev)
            os.rename(partial, place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    @contextmanager
    def _room_for(self, path: str) -> Iterator[None]:
        with room_for(path, os.fspath(self._folder)):
            yield

    def _kept(self, entry: SetAside) -> SetAside | None:
        return next((known for known in self._entries if known.id == entry.id), None)

    def _copy_file(self, full: str, place: str) -> None:
        fd = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self._copy(fd, place, 0, os.fstat(fd).st_size)
        finally:
            os.close(fd)

    def _copy(self, fd: int, place: str, offset: int, length: int) -> None:
        """Copy a run of a file, complete or not at all: the last step is a rename."""
        partial = f"{place}.part"
        try:
            with open(partial, "wb", buffering=0) as out:
                for piece in read_runs(fd, [(offset, length)]):
                    view = memoryview(piece)
                    while view:
                        view = view[out.write(view) :]
            os.rename(partial, place)
        except BaseException:
            if os.path.lexists(partial):
                os.unlink(partial)
            raise

    def _add(self, entry: SetAside) -> SetAside:
        entry = replace(entry, time=time.time())
        self._entries.append(entry)
        self._total += entry.bytes
        with room_for(os.fspath(self._index)), self._index.open("a", encoding="utf-8") as index:
            index.write(_line(entry))
        if self._total > self.limit and len(self._entries) > 1:
            while self._total > self.limit and len(self._entries) > 1:
                oldest = self._entries.pop(0)
                self._total -= oldest.bytes
                self._remove(oldest)
            self._write_index()
        return entry

    def _remove(self, entry: SetAside) -> None:
        place = self._folder / entry.id
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)

    def _write_index(self) -> None:
        partial = self._index.with_suffix(".part")
        with room_for(os.fspath(self._index)):
            partial.write_text("".join(map(_line, self._entries)), encoding="utf-8")
            partial.replace(self._index)


def _line(entry: SetAside) -> str:
    value = {
        "id": entry.id,
        "path": name_to_json(entry.path),
        "reason": entry.reason,
        "offset": entry.offset,
        "bytes": entry.bytes,
        "time": entry.time,
    }
    return json.dumps(value) + "\n"


def _entry(path: str, reason: str, status: os.stat_result, more: int, size: int) -> SetAside:
    """Return an entry whose id is the same for the same file in the same state: a retry finds it."""
    facts = f"{reason} {status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns} {more} "
    name = blake3(facts.encode() + os.fsencode(path)).hexdigest(10)
    return SetAside(name, path, reason, 0, size, 0.0)


def _linked(full: str, place: str) -> bool:
    """Hard-link a file, which keeps it at no cost; false if it is elsewhere or not ours to link."""
    try:
        os.link(full, place, follow_symlinks=False)
    except FileExistsError:
        return True
    except OSError as error:
        if error.errno in {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES}:
            return False
        raise
    return True


def _renamed(full: str, place: str) -> bool:
    """Rename a folder; false if it is elsewhere."""
    try:
        os.rename(full, place)
    except OSError as error:
        if error.errno == errno.EXDEV:
            return False
        raise
    return True
