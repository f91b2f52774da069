"""Checkpoints that a lineage does not go on from: of branches that were left, and poisoned ones."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from storekit import RUNNING, Place, Wrapped, acquire, commit, image, snapshot

from ckptrun.core.model import Exit, RunState
from ckptrun.errors import StoreUnreachableError
from ckptrun.store import head as heads
from ckptrun.store.repository import Keep, Lineage
from ckptrun.supervisor import vault as vaults
from ckptrun.supervisor.vault import Vault

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from ckptrun.core.model import CheckpointRecord, Snapshot
    from ckptrun.store.repository import Writer


def small(name: str) -> Snapshot:
    return snapshot(name, image("inventory.img", name.encode()))


def begun(place: Place, *names: str, keep: int = 9) -> tuple[Lineage, Writer]:
    """Return a lineage with these checkpoints, oldest first."""
    lineage = Lineage(place.open(), "train", None)
    writer = acquire(lineage)
    writer.set_run(RUNNING, fresh=True)
    for name in names:
        commit(writer, small(name), keep=keep)
    return lineage, writer


def ids(records: tuple[CheckpointRecord, ...]) -> list[str]:
    return [record.id for record in records]


def test_what_is_newer_than_the_checkpoint_gone_back_to_is_set_aside_and_stays_so(place: Place):
    lineage, writer = begun(place, "a", "b", "c")
    writer.go_on_from("a")
    assert (ids(lineage.live()), ids(lineage.checkpoints())) == (["a"], ["c", "b", "a"])
    commit(writer, small("d"), keep=9)
    writer.close(replace(RUNNING, state=RunState.FAILED, exit=Exit("job", 3), ended=2000.0))
    assert ids(lineage.live()) == ["d", "a"]
    again = acquire(Lineage(place.open(), "train", None))
    again.set_run(replace(RUNNING, started=3000.0))
    assert ids(lineage.live()) == ["d", "a"]


def test_who_goes_back_to_what_was_set_aside_has_that_again(directory: Place):
    lineage, writer = begun(directory, "a", "b", "c")
    writer.go_on_from("a")
    commit(writer, small("d"), keep=9)
    writer.go_on_from("c")
    assert ids(lineage.live()) == ["c", "a"], "b and d are no ancestors that one could be sure of"


def test_going_on_from_the_newest_or_from_what_is_in_memory_only_writes_nothing(directory: Place):
    lineage, writer = begun(directory, "a", "b")
    before = lineage.head()
    writer.go_on_from("b")
    writer.go_on_from("not-committed-yet")
    assert lineage.head() == before


def test_a_run_that_begins_anew_sets_everything_aside(directory: Place):
    lineage, writer = begun(directory, "a", "b")
    writer.close(replace(RUNNING, state=RunState.FINISHED, exit=Exit("job", 0), ended=2000.0))
    again = acquire(Lineage(directory.open(), "train", None))
    again.set_run(RUNNING, fresh=True)
    assert lineage.live() == ()
    commit(again, small("c"), keep=9)
    assert ids(lineage.live()) == ["c"]


def test_one_may_be_set_aside_before_it_is_committed(directory: Place):
    lineage, writer = begun(directory, "a")
    prepared = writer.put(small("poisoned"), frozen_seconds=0)
    writer.set_aside(["poisoned"])
    writer.commit(prepared, keep=Keep(9))
    assert ids(lineage.live()) == ["a"]


def test_what_retention_takes_is_not_remembered_as_set_aside(directory: Place):
    lineage, writer = begun(directory, "a", "b", keep=2)
    writer.go_on_from("a")
    for name in ("c", "d"):
        commit(writer, small(name), keep=2)
    head = lineage.head()
    assert head is not None
    assert (ids(head.checkpoints), head.run.set_aside) == (["d", "c"], ())


def test_a_head_of_before_there_was_such_a_thing_has_nothing_set_aside(directory: Place):
    lineage, _ = begun(directory, "a")
    head = lineage.head()
    assert head is not None
    old = json.loads(heads.encode(head))
    del old["run"]["set_aside"]
    assert ids(heads.decode(json.dumps(old).encode()).live) == ["a"]


class Away:
    """A store whose HEAD cannot be written while it is `away`."""

    def __init__(self, place: Place) -> None:
        self.away = False
        self.refused = threading.Event()
        self.backend = Wrapped(place.open(), self._hook)

    def _hook(self, _operation: str, name: str, when: str) -> None:
        if self.away and when == "before" and name.endswith("HEAD"):
            self.refused.set()
            raise StoreUnreachableError("away")


def vault(lineage: Lineage, writer: Writer | None, connect: Callable[[], Writer]) -> Vault:
    return Vault(lineage, writer, connect, Keep(9), lambda _event: None, lambda _text: None)


def connected() -> Writer:
    raise AssertionError("it is connected")


def test_a_store_out_of_reach_is_told_before_the_next_commit(
    directory: Place, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(vaults, "RENEW_SECONDS", 3600.0)
    store = Away(directory)
    lineage = Lineage(store.backend, "train", None)  # type: ignore[arg-type]
    writer = acquire(lineage)
    found = vault(lineage, writer, connected)
    found.start(RUNNING, fresh=True)
    for name in ("a", "b", "c"):
        commit(writer, small(name), keep=9)
    store.away = True
    found.branches.set_aside(["c"])
    found.branches.go_on_from("a")
    assert store.refused.is_set()
    assert ids(lineage.live()) == ["c", "b", "a"]
    store.away = False
    found.close(RUNNING)
    assert ids(lineage.live()) == ["a"]


def test_a_store_that_hangs_holds_no_restore_of_the_newest_checkpoint_up(directory: Place):
    lineage, writer = begun(directory, "a", "b")
    found = vault(lineage, writer, connected)
    with writer._queue._lock:  # as while a renewal waits for a store that does not answer
        found.branches.go_on_from("b")
        found.branches.go_on_from("in memory only")
        assert not [thread for thread in threading.enumerate() if thread.name == "branch"]
    assert ids(lineage.live()) == ["b", "a"]


def test_a_run_that_could_not_ask_its_store_sets_aside_what_it_finds_there(directory: Place):
    lineage, writer = begun(directory, "a", "b")
    writer.close(replace(RUNNING, state=RunState.FINISHED, exit=Exit("job", 0), ended=2000.0))
    found = vault(lineage, None, lambda: acquire(lineage))
    found.start(RUNNING, fresh=True)
    found.branches.set_aside(["mine"])
    found._connected()
    assert lineage.live() == ()
    found.close(RUNNING)
