"""A job under control: a real Python process that executes what the test tells it, and is stopped for the freeze."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ckptrun.core.model import BytesSource
from ckptrun.journal import Journal, records_from_json, records_to_json, rollback, taking

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ckptrun.core.model import Source
    from ckptrun.journal import Capture, FileRecord, RollbackReport

LOOP = """
import sys, os, mmap
for line in sys.stdin:
    exec(line.encode("latin-1").decode("unicode_escape"), globals())
    print("done", flush=True)
"""
CONTENT = b"recorded " * 1000
"""Of the file in the fixture `checkpoint`."""


class Job:
    """A process that runs statements one by one."""

    def __init__(self, cwd: Path, prefix: tuple[str, ...] = ()) -> None:
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-c", LOOP],
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.do("pass")
        self.pids = [self._process.pid]

    def do(self, *statements: str) -> None:
        assert self._process.stdin
        assert self._process.stdout
        for statement in statements:
            self._process.stdin.write(statement.encode("unicode_escape") + b"\n")
            self._process.stdin.flush()
            assert self._process.stdout.readline() == b"done\n", statement

    def freeze(self) -> None:
        os.kill(self._process.pid, signal.SIGSTOP)
        while " T " not in Path(f"/proc/{self._process.pid}/stat").read_text():
            time.sleep(0.001)

    def thaw(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@dataclass
class Checkpoint:
    """A capture as another process would see it: records through JSON, contents by key."""

    capture: Capture
    records: tuple[FileRecord, ...]
    contents: dict[str, Source]

    def record(self, path: Path) -> FileRecord:
        return next(record for record in self.records if record.path == str(path))

    def rollback(self, aside: Path, **options: object) -> RollbackReport:
        return rollback(self.records, self.contents.__getitem__, aside=aside, **options)  # type: ignore[arg-type]


@dataclass
class Keeper:
    """Takes checkpoints of processes; of those, only the files below ``top`` count."""

    top: Path
    journal: Journal
    previous: dict[str, Source] = field(default_factory=dict)
    put_bytes: int = 0

    def put(self, pieces: Iterable[bytes]) -> Source:
        data = b"".join(pieces)
        self.put_bytes += len(data)
        return BytesSource(data)

    def take(self, job: Job, between: Callable[[], None] = lambda: None) -> Checkpoint:
        prepared = self.journal.prepare(job.pids, self.put, self.previous)
        between()
        job.freeze()
        frozen = self.journal.capture(prepared, job.pids, self.put)
        job.thaw()
        return self.keep(self.journal.seal(frozen))

    def keep(self, capture: Capture) -> Checkpoint:
        contents = {content.key: content.data for content in capture.contents}
        named = {part.key for record in capture.records for part in record.parts}
        assert named == contents.keys()
        self.previous = contents
        records = records_from_json(json.loads(json.dumps(records_to_json(capture.records))))
        assert records == capture.records
        mine = tuple(record for record in records if Path(record.path).is_relative_to(self.top))
        return Checkpoint(capture, mine, contents)


def picture(top: Path) -> dict[str, object]:
    """Return everything below a folder: contents, targets, modes, times of files."""
    found: dict[str, object] = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        if path.is_symlink():
            found[str(path)] = str(path.readlink())
        elif path.is_file():
            found[str(path)] = (path.read_bytes(), status.st_mode, status.st_mtime_ns)
        else:
            found[str(path)] = status.st_mode
    return found


def age(*paths: Path) -> None:
    """Wait until the times of the files prove them unchanged."""
    for path in paths:
        left = path.lstat().st_ctime + taking.SETTLED_NS / 1e9 + 0.01 - time.time()
        if left > 0:
            time.sleep(left)


@contextlib.contextmanager
def mounted(place: Path, *how: str) -> Iterator[Path]:
    """Mount something for a while: ``how`` are mount's words but for the place."""
    if not place.exists():
        place.mkdir()
    done = subprocess.run(["mount", *how, place], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"mount is not possible here: {done.stderr.decode()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)
