"""The end of a run over a real store: the job's state, an upload that is under way, a store that does not answer."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest
from storekit import RUNNING, Place, Wrapped, acquire, noise, snapshot

from ckptrun.core.events import CommitFailed
from ckptrun.core.model import Exit, ImageStream, RunState
from ckptrun.store.repository import Keep, Lineage
from ckptrun.supervisor import recording
from ckptrun.supervisor.staged import Staged
from ckptrun.supervisor.vault import Vault

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

ENDED = replace(RUNNING, state=RunState.FINISHED, exit=Exit("job", 0), ended=2000.0)
STATE = snapshot("state-1", files=[("state-a-0-9", noise(300_000))], state={"generation": "a", "bytes": 9})


class Slow:
    """A source that goes on only when it may."""

    size = 24 << 20

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def read(self, offset: int, length: int) -> bytes:
        self.begun.set()
        assert self.go_on.wait(30)
        return noise(length, offset)

    def pieces(self) -> Iterator[bytes]:
        for offset in range(0, self.size, 1 << 20):
            yield self.read(offset, 1 << 20)


class Ending:
    """A vault, and what it says."""

    def __init__(self, lineage: Lineage) -> None:
        self.posted: list[Any] = []
        self.notes: list[str] = []
        self.vault = Vault(
            lineage,
            acquire(lineage),
            lambda: pytest.fail("it has a writer"),
            Keep(3),
            self.posted.append,
            self.notes.append,
        )
        self.vault.start(RUNNING, fresh=True)


@pytest.mark.slow
def test_an_upload_that_is_under_way_is_given_up_for_the_state(place: Place):
    lineage = Lineage(place.open(), "train", None)
    ending, slow = Ending(lineage), Slow()
    what = snapshot("c1")
    what = replace(what, streams=(ImageStream("pages.img", slow),))
    ending.vault.upload(Staged(what, cast("Any", None), cast("Any", None), 0.1))
    assert slow.begun.wait(30)
    stop = ending.vault._stop.set

    def stopped() -> None:
        stop()
        slow.go_on.set()

    ending.vault._stop.set = stopped  # type: ignore[method-assign]
    assert ending.vault.close(ENDED, lambda: STATE)
    ending.vault._uploads.shutdown(wait=True)
    head = lineage.head()
    assert head is not None
    assert (head.owner, head.run.state, head.checkpoints) == (None, RunState.FINISHED, ())
    assert head.state is not None
    assert head.state.id == "state-1"
    assert ending.notes == []
    (failed,) = ending.posted
    assert isinstance(failed, CommitFailed)


def test_a_store_that_does_not_take_the_state_in_time_has_the_end_of_the_run(
    directory: Place, monkeypatch: pytest.MonkeyPatch
):
    stuck, going_on = threading.Event(), threading.Event()

    def hook(operation: str, name: str, when: str) -> None:
        if "/packs/" in name and (operation, when) == ("put_if_absent", "before"):
            stuck.set()
            going_on.wait(30)

    wait = recording.Closing.wait

    def wait_longer(closing: recording.Closing) -> None:
        assert stuck.wait(30)
        wait(closing)

    lineage = Lineage(cast("Any", Wrapped(directory.open(), hook)), "train", None)
    ending = Ending(lineage)
    monkeypatch.setattr(recording, "CLOSE_SECONDS", 0.1)
    monkeypatch.setattr(recording.Closing, "wait", wait_longer)
    assert not ending.vault.close(ENDED, lambda: STATE)
    assert ending.notes == ["the job's state could not be stored: the store does not answer"]
    head = lineage.head()
    assert head is not None
    assert (head.run.state, head.state) == (RunState.FINISHED, None)
    going_on.set()


def test_a_state_that_cannot_be_had_does_not_keep_the_end_from_being_recorded(directory: Place):
    lineage = Lineage(directory.open(), "train", None)
    ending = Ending(lineage)

    def broken() -> Any:
        raise OSError(5, "Input/output error")

    assert not ending.vault.close(ENDED, broken)
    assert "the job's state could not be stored" in ending.notes[0]
    assert lineage.head().run.state is RunState.FINISHED  # type: ignore[union-attr]
