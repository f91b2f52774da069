"""Writes the table as ``docs/remedies.md``: ``python -m ckptrun.criu.remedies.document > docs/remedies.md``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ckptrun.criu.remedies.model import During, Finding
from ckptrun.criu.remedies.table import TABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptrun.criu.remedies.model import Remedy

_HEAD = """\
# What cannot be checkpointed or restored, and what to do

This page is made from the table in `ckptrun/criu/remedies/`, by which ckptrun explains every checkpoint or restore
that failed, naming process, descriptor and path: in its messages, in `ckptrun explain LOG`, and, beforehand and
without stopping anything, in `ckptrun doctor --pid P`. A checkpoint that fails leaves the job running.

*tried again*: ckptrun tries once more by itself, if need be with the option of CRIU's that is named; `ckptrun events`
tells. *refused*: ckptrun sees it in /proc and does not even stop the job. *by /proc*: CRIU does not say it,
`doctor --pid` does.
"""

_TITLES = {During.DUMP: "At a checkpoint", During.RESTORE: "At a restore"}


def markdown() -> str:
    """Return the page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _HEAD
    for during, title in _TITLES.items():
        yield f"## {title}\n"
        yield "| name | cause | remedy | |"
        yield "|---|---|---|---|"
        for remedy in TABLE:
            if remedy.during is during:
                yield f"| `{remedy.name}` | {Finding(remedy).cause} | {remedy.remedy} | {_what_ckptrun_does(remedy)} |"
        yield ""


def _what_ckptrun_does(remedy: Remedy) -> str:
    words = []
    if remedy.refused:
        words.append("refused")
    if remedy.retry is not None:
        words.append("tried again" + (f": `{' '.join(remedy.retry.flags)}`" if remedy.retry.flags else ""))
    if remedy.log is None:
        words.append("by /proc")
    return ", ".join(words)


if __name__ == "__main__":
    sys.stdout.write(markdown().rstrip("\n") + "\n")
