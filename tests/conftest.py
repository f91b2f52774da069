"""Its place makes `tests/` a place to import from: ``from support.run import Lab``."""

from __future__ import annotations

import compileall
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.s3 import S3Server

LONGEST = ("e2e", "containers", "zoo", "provision", "packaging", "faults")
"""Folders whose files take minutes: of processes side by side none then has one left when the others are done."""

ALL_SLOW = re.compile(r"^pytestmark = (?:\[\s*)?pytest\.mark\.slow\b", re.MULTILINE)


def pytest_configure(config: pytest.Config) -> None:
    """Have what tests start heed all signals, also where this was started by ``nohup`` or in a shell's background.

    And have ckptrun and the tests compiled only once, also where PYTHONDONTWRITEBYTECODE is set: ckptrun is started
    thousands of times, and to rewrite the tests' assertions takes seconds.
    """
    sys.dont_write_bytecode = False
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(Path(__file__).parents[1] / "ckptrun", quiet=2)
    for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, lambda *_: None)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import what ``-m 'not slow'`` would leave out as a whole: every worker would."""
    if config.option.markexpr != "not slow" or collection_path.suffix != ".py":
        return None
    return bool(ALL_SLOW.search(collection_path.read_text(encoding="utf-8"))) or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes long first, in the order of `LONGEST`."""
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    folder = item.path.relative_to(Path(__file__).parent).parts[0]
    return LONGEST.index(folder) if folder in LONGEST else len(LONGEST)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One server for all tests of this process; each takes a prefix of its own, and a relay where it is to go away."""
    from support.s3 import S3Server  # noqa: PLC0415 - boto3 is slow to import

    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server
