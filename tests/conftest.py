"""Its place makes `tests/` a place to import from: ``from support.run import Lab``."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

LONGEST = ("e2e", "zoo", "provision", "packaging", "faults")
"""Folders whose files take minutes: of processes side by side none then has one left when the others are done."""


def pytest_configure() -> None:
    """Have what tests start heed all signals, also where this was started by ``nohup`` or in a shell's background."""
    for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, lambda *_: None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes long first, in the order of `LONGEST`."""
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    folder = item.path.relative_to(Path(__file__).parent).parts[0]
    return LONGEST.index(folder) if folder in LONGEST else len(LONGEST)
