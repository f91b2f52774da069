"""Which state a run begins with, and what it leaves in the store: `JobState` over a real store."""

from __future__ import annotations

import base64
import itertools
from typing import TYPE_CHECKING, Any, cast

import pytest
from storekit import Place, acquire, noise

from ckptrun.core.model import Snapshot, Trigger
from ckptrun.errors import StoreRefusedError
from ckptrun.job._state_batch import batch
from ckptrun.store.repository import Keep, Lineage
from ckptrun.supervisor.jobstate import JobState

if TYPE_CHECKING:
    from pathlib import Path

    from ckptrun.core.model import CheckpointRecord
    from ckptrun.store.repository import Writer

_numbers = itertools.count(1)


class Machine:
    """A machine that runs one lineage's job, over and over."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.lineage = Lineage(place.open(), "train", None)
        self.folder = folder
        self.notes: list[str] = []
        self.state: JobState
        self.writer: Writer

    def begin(self, *, fresh: bool = True, store: bool = True) -> dict[str, bytes]:
        """Start a run; return what its job finds."""
        self.state = JobState(self.folder, cast("Any", None), self.notes.append)
        if store:
            self.writer = acquire(self.lineage, take_over=True)
        self.state.begin(self.lineage if store else None, fresh=fresh)
        return self.entries

    @property
    def entries(self) -> dict[str, bytes]:
        log = self.state._log
        return {key: log.read(entry, 0, entry.size) for key, entry in log.index.entries.items()}

    def put(self, **values: bytes) -> None:
        data = base64.b64encode(b"".join(batch(values, ()))).decode()
        self.state._desk.answer({"op": "put", "id": f"r{next(_numbers)}", "data": data})
        self.state._kept.note(self.state._committed)

    def checkpoint(self, name: str) -> CheckpointRecord:
        frozen = self.state.freeze()
        facts = {"state": frozen.mark.to_json()}
        snapshot = Snapshot(name, Trigger.INTERVAL, 1.0, (), frozen.contents, facts)
        record = self.writer.commit(self.writer.put(snapshot, frozen_seconds=0.1), keep=Keep(3))
        self.state._committed = frozen.mark
        self.state._kept.note(self.state._committed)
        return record

    def restore(self, record: CheckpointRecord) -> None:
        stored = self.lineage.load(record)
        files = {file.key: file.data for file in stored.files}
        self.state.restoring(1, record.id, stored.facts["state"], files)

    def end(self) -> bool:
        """End a run as `Vault.close` does; return whether there was something to store."""
        snapshot = self.state.end(self.lineage)
        if snapshot:
            self.writer.keep_state(self.writer.put(snapshot, frozen_seconds=0.0))
        self.writer.release()
        self.state.close(stored=True)
        return snapshot is not None


@pytest.fixture
def here(directory: Place, tmp_path: Path) -> Machine:
    return Machine(directory, tmp_path / "here")


@pytest.fixture
def elsewhere(directory: Place, tmp_path: Path) -> Machine:
    return Machine(directory, tmp_path / "elsewhere")


def test_a_run_that_starts_anew_finds_what_the_last_one_left_wherever_it_was(
    here: Machine, elsewhere: Machine
):
    large = noise(300_000)
    assert here.begin() == {}
    here.put(a=b"1", large=large)
    here.checkpoint("c1")
    here.put(a=b"2")
    assert here.end()
    for machine in (elsewhere, here, elsewhere):
        assert machine.begin() == {"a": b"2", "large": large}
        assert not machine.end()  # nothing was put
    elsewhere.begin()
    elsewhere.put(b=b"3")
    elsewhere.checkpoint("c2")
    assert not elsewhere.end()
    assert here.begin() == {"a": b"2", "large": large, "b": b"3"}
    assert here.notes == elsewhere.notes == []


def test_a_run_without_a_state_leaves_none(here: Machine):
    here.begin()
    here.checkpoint("c1")
    assert not here.end()
    assert here.begin() == {}
    assert not here.folder.exists()


def test_a_run_that_was_put_back_to_an_older_checkpoint_leaves_its_state(here: Machine, elsewhere: Machine):
    here.begin()
    here.put(a=b"1")
    older = here.checkpoint("c1")
    here.put(a=b"2")
    here.checkpoint("c2")
    assert here.begin(fresh=False) == {"a": b"2"}  # until the restore
    here.restore(older)
    assert here.entries == {"a": b"1"}
    assert here.end()
    assert elsewhere.begin() == {"a": b"1"}


def test_a_state_that_was_emptied_elsewhere_is_not_missed_here(here: Machine, elsewhere: Machine):
    elsewhere.begin()
    empty = elsewhere.checkpoint("c1")
    elsewhere.end()
    here.begin()
    here.put(a=b"1")
    assert here.end()
    elsewhere.begin(fresh=False)
    elsewhere.restore(empty)
    assert elsewhere.end()
    assert here.begin() == {}
    assert here.begin(store=False) == {}  # as far as this machine knows there is none to miss


def test_what_a_killed_run_had_put_is_there_for_the_next_one_here_but_not_over_a_newer_state(
    here: Machine, elsewhere: Machine
):
    here.begin()
    here.put(a=b"1")
    here.checkpoint("c1")
    here.put(a=b"2")
    assert here.begin() == {"a": b"2"}
    assert elsewhere.begin() == {"a": b"1"}
    elsewhere.put(a=b"3")
    elsewhere.end()
    assert here.begin() == {"a": b"3"}
    assert "is dropped: there is a newer one" in here.notes[-1]
    assert here.begin() == {"a": b"3"}
    assert len(here.notes) == 1


def test_a_log_that_somebody_has_cut_is_not_taken_for_the_newer_state(here: Machine):
    here.begin()
    here.put(a=b"1")
    here.put(b=b"2")
    here.checkpoint("c1")
    (log,) = here.folder.glob("*.log")
    with log.open("r+b") as file:
        file.truncate(log.stat().st_size - 1)
    assert here.begin() == {"a": b"1", "b": b"2"}
    (log,) = here.folder.glob("*.log")  # another one, with the same beginning
    with log.open("r+b") as file:
        file.truncate(log.stat().st_size - 1)
    assert here.begin() == {"a": b"1", "b": b"2"}


def test_a_state_that_is_damaged_is_said_and_an_older_one_taken(
    directory: Place, here: Machine, elsewhere: Machine
):
    here.begin()
    here.put(a=noise(200_000))
    here.checkpoint("c1")
    here.put(b=noise(200_000, 2))
    here.end()
    head = here.lineage.head()
    assert head is not None
    assert head.state is not None
    directory.open().delete(f"train/manifests/{head.state.seq:08d}-{head.state.id}")
    assert set(elsewhere.begin()) == {"a"}
    assert "an older one is taken" in elsewhere.notes[-1]
    assert elsewhere.end()  # the next run finds this one at once
    assert set(here.begin()) == {"a"}
    assert here.notes == []


def test_a_store_that_comes_late_must_not_have_a_state_that_the_run_lacks(here: Machine, elsewhere: Machine):
    elsewhere.begin(store=False)
    elsewhere.state.fits(elsewhere.lineage)
    here.begin()
    here.put(a=b"1")
    here.checkpoint("c1")
    with pytest.raises(StoreRefusedError, match="this run began without it"):
        elsewhere.state.fits(elsewhere.lineage)
    here.put(a=b"2")
    here.begin(store=False)
    assert here.entries == {"a": b"2"}
    here.state.fits(here.lineage)  # what is there is what its own state has come from
