"""MLflow's file store: a folder, ``mlruns``; one file per metric, to which points are appended."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from tracking import TAG, Kept, Run, StepError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

RUNNING = "1"
"""As ``meta.yaml`` has a run's status."""


class Folder:
    """See `tracking.Store`.

    Args:
        uri: ``file:`` URI or path.
    """

    def __init__(self, uri: str) -> None:
        self._root = Path(unquote(urlsplit(uri).path) if uri.startswith("file:") else uri)

    def _metas(self) -> Iterator[Path]:
        yield from self._root.glob("*/*/meta.yaml")

    def _folder(self, run: str) -> Path:
        found = next(iter(self._root.glob(f"*/{run}")), None)
        if found is None:
            raise StepError(f"there is no run {run} in {self._root}")
        return found

    def runs(self, ids: Iterable[str]) -> list[Run]:
        """Return runs; see `Store`."""
        wanted = set(ids)
        return [_run(meta) for meta in self._metas() if meta.parent.name in wanted]

    def tagged(self, lineage: str) -> list[Run]:
        """Return runs; see `Store`."""
        return [
            _run(meta)
            for meta in self._metas()
            if _text(meta.parent / "tags" / TAG) == lineage and _field(meta, "lifecycle_stage") == "active"
        ]

    def in_experiment(self, name: str) -> list[Run]:
        """Return runs; see `Store`."""
        return [
            _run(meta)
            for experiment in self._root.glob("*/meta.yaml")
            if _field(experiment, "name") == name
            for meta in experiment.parent.glob("*/meta.yaml")
            if _field(meta, "lifecycle_stage") == "active"
        ]

    def counts(self, run: str) -> dict[str, int]:
        """Return counts; see `Store`."""
        return {key: len(path.read_bytes().splitlines()) for key, path in self._metrics(run)}

    def _metrics(self, run: str) -> Iterator[tuple[str, Path]]:
        metrics = self._folder(run) / "metrics"
        for path in sorted(metrics.rglob("*")):
            if path.is_file():
                yield str(path.relative_to(metrics)), path

    def cut(self, run: str, kept: Mapping[str, Kept], *, dry_run: bool) -> int:
        """Remove points, each metric's at once; see `Store`."""
        count = 0
        for key, path in self._metrics(run):
            lines = path.read_bytes().splitlines(keepends=True)
            late = set(kept[key].cut([int(line.split(b" ", 1)[0]) for line in lines], 0))
            count += len(late)
            if late and not dry_run:
                left = b"".join(line for index, line in enumerate(lines) if index not in late)
                if not left:
                    path.unlink()  # MLflow takes an empty one for damaged
                elif b"".join(lines).startswith(left):
                    os.truncate(path, len(left))
                else:
                    _replace(path, left, beside=self._folder(run))
        return count

    def reopen(self, run: str) -> None:
        """Have a run be open again; see `Store`."""
        _change(self._folder(run) / "meta.yaml", status=RUNNING, end_time="null")

    def discard(self, run: str, moment: int) -> None:
        """Delete a run; see `Store`."""
        _change(self._folder(run) / "meta.yaml", lifecycle_stage="deleted", deleted_time=str(moment))


def _run(meta: Path) -> Run:
    began, ended = _field(meta, "start_time"), _field(meta, "end_time")
    return Run(
        meta.parent.name,
        _field(meta, "status") == RUNNING,
        int(began) if began.isdigit() else 0,
        int(ended) if ended.isdigit() else None,
    )


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError:
        return ""


def _field(path: Path, name: str) -> str:
    """Return a field of a flat YAML file as it is written, without quotes."""
    found = re.search(rf"^{name}: *(.*)$", _text(path), re.MULTILINE)
    return found.group(1).strip().strip("'\"") if found else ""


def _change(path: Path, **fields: str) -> None:
    text = path.read_text("utf-8")
    for name, value in fields.items():
        text, count = re.subn(rf"^{name}:.*$", f"{name}: {value}", text, flags=re.MULTILINE)
        if not count:
            text = f"{text.rstrip()}\n{name}: {value}\n"
    _replace(path, text.encode(), beside=path.parent)


def _replace(path: Path, content: bytes, beside: Path) -> None:
    """Replace a file at once: killed at any moment, the old one or the new one is there."""
    fresh = beside / f".{path.name}.ckptrun"
    fresh.write_bytes(content)
    was = path.stat()
    fresh.chmod(was.st_mode & 0o7777)
    os.chown(fresh, was.st_uid, was.st_gid)
    fresh.replace(path)
