"""Effects that several threads, tasks and the supervisor's own hands are at, and what a job passes in that is odd."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from effectkit import Supervisor, under

from ckptrun.effects.calls import Call, Do
from ckptrun.effects.ledger import open_ledger
from ckptrun.effects.model import Kind
from ckptrun.effects.settling import carry_out
from ckptrun.job import _effect_steps, effects
from ckptrun.job._errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ckptrun.effects.plan import Step


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    supervisor = Supervisor(open_ledger(f"sqlite://{tmp_path}/effects.sqlite", "train"), 1)
    supervisor.book.fresh()
    monkeypatch.setattr(_effect_steps, "AGAIN_SECONDS", 0.01)
    with under(supervisor, monkeypatch):
        yield supervisor


def reserve() -> None:
    """An undo for these tests; never run here."""


def call(token: str, kind: Kind = Kind.ONCE, settle: str = "") -> Call:
    return Call("a", kind, token, 1, settle=settle)


def test_who_gives_up_waiting_takes_nothing_from_who_is_at_it(run: Supervisor):
    assert run.book.begin(call("first")).do == Do.RUN
    assert run.book.begin(call("second")).do == Do.WAIT
    run.book.fail("a", "second")  # a task that was cancelled while it waited
    assert run.book.mark().spanned == ("a",)
    assert run.book.begin(call("third")).do == Do.WAIT  # not: nobody knows what became of it
    run.book.end("a", "first", {"value": 1})
    assert run.book.begin(call("third")).result == {"value": 1}


def test_an_undo_that_has_not_begun_yet_is_waited_for(run: Supervisor):
    """The supervisor's hands are full: the job asks again and again before its undo's turn comes."""
    works: list[Step] = []
    asked = 0

    def dies() -> None:
        raise KeyboardInterrupt

    def undo(step: Step) -> None:
        nonlocal asked
        asked += 1
        works.append(step)

    with pytest.raises(KeyboardInterrupt):
        effects.compensable("a", dies, reserve)
    run.desk._undo = undo
    waits = 0

    def request(do: str, timeout: float | None = None, **fields: object) -> dict[str, object]:
        nonlocal waits
        reply = Supervisor.request(run, do, timeout, **fields)
        waits += reply.get("act") == "wait"
        if waits == 3:
            for step in works:
                carry_out(run.book, step, lambda _entry: "", asked=True)
            works.clear()
        return reply

    run.request = request  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch, under(run, patch):
        assert effects.compensable("a", lambda: 1, reserve) == 1
    assert asked == 1


def test_an_undo_that_could_not_be_begun_is_asked_for_again(run: Supervisor):
    run.book.begin(call("first", Kind.COMPENSABLE))
    run.book.leave("a", "first")
    assert run.book.begin(call("second", Kind.COMPENSABLE, "undo")).do == Do.UNDO
    entry = run.book.entry("a")
    assert entry is not None
    run.book.works.dropped(entry)
    assert run.book.begin(call("third", Kind.COMPENSABLE, "undo")).do == Do.UNDO


def test_a_generator_is_refused_before_anything_is_recorded(run: Supervisor):
    def later() -> Iterator[int]:
        yield 1

    async def later_still() -> object:
        yield 1

    for function in (later, later_still):
        with pytest.raises(UsageError, match="generator"):
            effects.once("a", function)
        with pytest.raises(UsageError, match="generator"):
            effects.once("a")(function)
    assert run.book.entry("a") is None


def test_a_key_that_is_no_text_is_refused_by_name(run: Supervisor):
    with pytest.raises(UsageError, match="is no key of an effect"):
        effects.once("upload-\udcff", lambda: None)  # as a file's name may give it
    assert run.book.entry("upload-?") is None


@pytest.mark.usefixtures("run")
def test_a_result_that_is_nested_too_deep_is_recorded_as_done():
    deep: list[object] = []
    for _ in range(100000):
        deep = [deep]
    with pytest.raises(effects.EffectResultError, match="no JSON"):
        effects.once("a", lambda: deep)
    with pytest.raises(effects.EffectResultError, match="was done before"):
        effects.once("a", lambda: None)
