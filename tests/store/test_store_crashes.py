"""A writer killed at every step: the next one goes on from the newest committed checkpoint.

The writer is a forked child that kills itself before its n-th step; n grows until it survives.
"""

from __future__ import annotations

import os
import signal
import traceback
from typing import TYPE_CHECKING, Any

import pytest
from storekit import RUNNING, Place, Wrapped, acquire, commit, contents, expected, key_file, sample

from ckptrun.store import localfs
from ckptrun.store.repository import Lineage

pytestmark = pytest.mark.slow


if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckptrun.store.repository import Backend, KeySource

SYSTEM_CALLS = ("open", "write", "fsync", "link", "mkdir")


class Steps:
    """Kills this process before its n-th step."""

    def __init__(self, last: int) -> None:
        self.left = last

    def step(self, *_: Any) -> None:
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)


def killed(work: Callable[[Steps], None], last: int) -> bool:
    """Do ``work`` in a child that dies before step ``last``; say whether it did."""
    pid = os.fork()
    if pid == 0:
        try:
            work(Steps(last))
            os._exit(0)
        except BaseException:  # noqa: BLE001 - a child must never return into pytest
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert status in (0, signal.SIGKILL), "the child failed by itself"
    return status != 0


def every_kill(work: Callable[[Steps], None], check: Callable[[bool], None]) -> int:
    """Kill the work at each step and check what is left; return how many steps there were."""
    for last in range(400):
        died = killed(work, last)
        check(died)
        if not died:
            return last
    raise AssertionError("the work never ends")


def check_all_sound(lineage: Lineage, committed: set[str], maybe: str) -> None:
    """Check that what was committed is there and exact, and that ``maybe`` is exact if it is there."""
    found = {record.id: record for record in lineage.checkpoints()}
    assert committed <= set(found) <= committed | {maybe}
    for name, record in list(found.items())[:3]:
        assert contents(lineage.load(record)) == expected(sample(name, len(name)))


def write(backend: Backend, key: KeySource | None, name: str) -> None:
    writer = acquire(Lineage(backend, "train", key))
    writer.set_run(RUNNING)
    commit(writer, sample(name, len(name)), keep=100)
    writer.close(RUNNING)


def test_killed_at_every_system_call_of_a_directory(directory: Place, tmp_path: Path):
    key = key_file(tmp_path)
    write(directory.open(), key, "first")
    committed = {"first"}
    names = iter(f"c{'x' * n}" for n in range(400))
    name = next(names)

    def work(steps: Steps) -> None:
        for call in SYSTEM_CALLS:
            setattr(localfs.os, call, counted(getattr(os, call), steps))
        write(directory.open(), key, name)

    def check(died: bool) -> None:
        nonlocal name
        lineage = Lineage(directory.open(), "train", key, tmp_path / "seen")
        check_all_sound(lineage, committed, name)
        writer = acquire(lineage)  # at once: the child is dead
        record = commit(writer, sample("next", 4), keep=100)
        assert contents(lineage.load(record)) == expected(sample("next", 4))
        writer.drop(["next"], "it was a test")
        writer.release()
        committed.update(record.id for record in lineage.checkpoints())
        assert died or name in committed
        name = next(names)

    assert every_kill(work, check) > 25


def counted(call: Callable[..., Any], steps: Steps) -> Callable[..., Any]:
    def counting(*args: Any, **named: Any) -> Any:
        steps.step()
        return call(*args, **named)

    return counting


def test_killed_at_every_system_call_of_a_lineages_first_writer(tmp_path: Path):
    key = key_file(tmp_path)
    last = 0

    def place() -> Place:
        return Place(f"file://{tmp_path}/{last}", None, tmp_path / str(last))

    def work(steps: Steps) -> None:
        for call in SYSTEM_CALLS:
            setattr(localfs.os, call, counted(getattr(os, call), steps))
        write(place().open(), key, "first")

    def check(died: bool) -> None:
        nonlocal last
        lineage = Lineage(place().open(), "train", key)
        if lineage.exists():
            writer = acquire(lineage)
            check_all_sound(lineage, set() if died else {"first"}, "first")
            writer.release()
        write(place().open(), key, "second")
        last += 1

    assert every_kill(work, check) > 25


def test_killed_before_and_after_every_write_to_a_store(place: Place):
    committed: set[str] = set()
    names = iter(f"c{'x' * n}" for n in range(100))
    name = next(names)

    def work(steps: Steps) -> None:
        write(Wrapped(place.open(), steps.step), None, name)  # type: ignore[arg-type]

    def check(died: bool) -> None:
        nonlocal name
        lineage = Lineage(place.open(), "train", None)
        check_all_sound(lineage, committed, name)
        committed.update(record.id for record in lineage.checkpoints())
        assert died or name in committed
        name = next(names)

    assert every_kill(work, check) > 15


def test_what_killed_writers_left_is_swept_when_it_is_old(directory: Place):
    write(directory.open(), None, "first")
    assert directory.folder is not None
    old, new = (directory.folder / "train" / "packs" / f".tmp-1-{age}" for age in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (1, 1))
    acquire(Lineage(directory.open(), "train", None))
    assert not old.exists()
    assert new.exists()
    assert [name for name, _ in directory.open().names("train/packs") if "tmp" in name] == []
