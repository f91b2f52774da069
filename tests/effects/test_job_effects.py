"""What a job gets of each call: first time, replay, after a crash, and where something is out of reach."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest
from effectkit import Supervisor, under

from ckptrun import job
from ckptrun.effects.ledger import open_ledger
from ckptrun.effects.model import Entry, Mark, State
from ckptrun.errors import LedgerUnavailableError as DownError
from ckptrun.job import _effect_steps, effects
from ckptrun.job._errors import FencedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Story:
    """One lineage: `restore` is what a restore to `mark` makes of it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.url = f"sqlite://{folder}/effects.sqlite"
        self._patch = monkeypatch
        self.world: list[str] = []
        self.work: Callable[[Entry], str] = self._work
        self.now = 0.0
        self.epoch = 0
        self.supervisor = self.another_run()
        self.supervisor.book.fresh()

    def another_run(self) -> Supervisor:
        self.epoch += 1
        ledger = open_ledger(self.url, "train")
        self.supervisor = Supervisor(ledger, self.epoch, self._do_work, now=lambda: self.now)
        return self.supervisor

    def _do_work(self, entry: Entry) -> str:
        return self.work(entry)

    def restore(self, mark: Mark, *, elsewhere: bool = False) -> None:
        if elsewhere:
            self.another_run()
        self.supervisor.incarnation += 1
        self.supervisor.book.rewind(mark)

    def mark(self) -> Mark:
        return self.supervisor.book.mark()

    def states(self) -> dict[str, str]:
        found = open_ledger(self.url, "train").since(0)
        return {entry.key: str(entry.state) for entry in found}

    def does(self, what: str, result: Any = None) -> Callable[[], Any]:
        def run() -> Any:
            self.world.append(what)
            return result

        return run

    def _work(self, entry: Entry) -> str:
        self.world.append(f"{entry.call['function']} {entry.key}")  # type: ignore[index, call-overload]
        return ""


@pytest.fixture
def story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Story]:
    told = Story(tmp_path, monkeypatch)
    holder = type("Now", (), {"request": lambda _self, *a, **k: told.supervisor.request(*a, **k)})()
    monkeypatch.setattr(_effect_steps, "AGAIN_SECONDS", 0.01)
    with under(holder, monkeypatch):
        yield told


def reserve() -> None:
    """An undo or a sender for these tests; never run here."""


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_replay_gets_the_result_of_the_first_time(story: Story, elsewhere: bool):
    mark = story.mark()
    assert effects.once("a", story.does("a", (1, "x"))) == [1, "x"]  # as JSON makes of it, the first time too
    story.restore(mark, elsewhere=elsewhere)
    assert effects.once("a", story.does("a", "other")) == [1, "x"]
    assert story.world == ["a"]


def test_a_run_that_starts_anew_after_a_finished_one_does_everything_again(story: Story):
    effects.once("a", story.does("a"))
    story.supervisor.book.close()
    story.another_run().book.fresh()
    effects.once("a", story.does("a"))
    assert story.world == ["a", "a"]


def test_a_run_that_starts_anew_after_an_unfinished_one_repeats_nothing(story: Story):
    effects.once("a", story.does("a"))
    effects.compensable("b", story.does("b"), reserve)
    effects.deferred("c", None, reserve)
    story.another_run().book.fresh()
    effects.once("a", story.does("a"))
    assert story.supervisor.settle(None).undone == ["b"]
    assert story.world == ["a", "b", f"{__name__}:reserve b"]
    assert story.states() == {"a": "done", "b": "undone", "c": "cancelled"}


def crash_inside(story: Story, kind: str, key: str = "a") -> None:
    """Have the machine die between the effect and its record."""

    def dies() -> None:
        story.world.append(key)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        effects.once(key, dies) if kind == "once" else effects.compensable(key, dies, reserve)


def test_once_that_nobody_knows_of_is_not_repeated_but_said(story: Story):
    mark = story.mark()
    crash_inside(story, "once")
    story.restore(mark)
    with pytest.raises(effects.UnsettledEffectError, match="give it a probe"):
        effects.once("a", story.does("a"))
    assert story.world == ["a"]
    assert effects.once("a", story.does("again"), unsettled="retry") is None
    assert story.world == ["a", "again"]


@pytest.mark.parametrize("kind", ["once", "compensable"])
@pytest.mark.parametrize(
    ("found", "gives", "happens"),
    [(False, "new", ["a", "new"]), (True, None, ["a"]), (effects.Done(7), 7, ["a"])],
)
def test_a_probe_settles_it(story: Story, kind: str, found: object, gives: object, happens: list[str]):
    mark = story.mark()
    crash_inside(story, kind)
    for _ in range(2):  # what was found is recorded: the second replay needs no probe
        story.restore(mark)
        asked: list[str] = []

        def probe(key: str, asked: list[str] = asked) -> object:
            asked.append(key)
            return found

        if kind == "once":
            assert effects.once("a", story.does("new", "new"), probe=probe) == gives
        else:
            assert effects.compensable("a", story.does("new", "new"), reserve, probe=probe) == gives
    assert story.world == happens
    assert asked == []


def test_a_probe_that_says_neither_is_refused(story: Story):
    mark = story.mark()
    crash_inside(story, "once")
    story.restore(mark)
    with pytest.raises(UsageError, match="return True or Done"):
        effects.once("a", story.does("a"), probe=lambda _key: None)
    assert story.world == ["a"]


def test_a_compensable_that_nobody_knows_of_is_undone_and_done_again(story: Story):
    mark = story.mark()
    crash_inside(story, "compensable")
    story.restore(mark)
    assert effects.compensable("a", story.does("again", 2), reserve) == 2
    assert story.world == ["a", f"{__name__}:reserve a", "again"]
    assert story.supervisor.settle(None).undone == []


def test_an_undo_that_keeps_failing_is_told_to_the_replay(story: Story):
    mark = story.mark()
    crash_inside(story, "compensable")
    story.restore(mark)
    story.work = lambda _entry: "no way back"
    with pytest.raises(effects.UndoFailedError, match="no way back"):
        effects.compensable("a", story.does("again"), reserve)
    assert story.world == ["a"]
    story.work = story._work
    effects.compensable("a", story.does("again"), reserve)
    assert story.world == ["a", f"{__name__}:reserve a", "again"]


def test_what_a_replay_claims_stays_and_what_it_does_not_is_undone_newest_first(story: Story):
    start = story.mark()
    for key in "abc":
        effects.compensable(key, story.does(key), reserve, args=[key, 1])
    story.restore(start)
    effects.compensable("b", story.does("b"), reserve)
    result = story.supervisor.settle(story.mark())
    assert result.undone == ["c", "a"]
    assert story.world == ["a", "b", "c", f"{__name__}:reserve c", f"{__name__}:reserve a"]
    assert story.states() == {"a": "undone", "b": "done", "c": "undone"}


def test_a_commit_of_an_earlier_dump_gives_a_replay_its_chance(story: Story):
    mark = story.mark()
    effects.compensable("a", story.does("a"), reserve)
    early = story.mark()
    story.restore(mark)
    assert story.supervisor.settle(early).undone == []
    assert story.supervisor.settle(story.mark()).undone == ["a"]


def test_what_was_claimed_after_a_dump_is_pending_again_after_a_restore_from_it(story: Story):
    start = story.mark()
    effects.compensable("a", story.does("a"), reserve)
    story.restore(start)
    before_claim = story.mark()
    effects.compensable("a", story.does("a"), reserve)
    story.restore(before_claim)
    assert story.supervisor.settle(None).undone == ["a"]


def test_a_compensable_that_was_undone_is_done_again_by_a_late_replay(story: Story):
    start = story.mark()
    effects.compensable("a", story.does("a"), reserve)
    story.restore(start)
    story.supervisor.settle(story.mark())
    effects.compensable("a", story.does("a"), reserve)
    assert story.world == ["a", f"{__name__}:reserve a", "a"]
    assert story.supervisor.settle(None).undone == []


def test_the_undo_keeps_its_arguments_and_where_to_run(story: Story):
    effects.compensable("a", story.does("a"), reserve, args=["seat", 3], kwargs={"by": "me"})
    entry = story.supervisor.book.entry("a")
    assert entry is not None
    call: Any = entry.call
    assert (call["args"], call["kwargs"]) == (["seat", 3], {"by": "me"})
    assert call["place"]["executable"]


def test_what_is_deferred_is_sent_in_order_once_a_checkpoint_covers_it(story: Story):
    assert effects.deferred("a", {"n": 1}, reserve)
    assert effects.deferred("b", None, reserve)
    covered = story.mark()
    effects.deferred("c", None, reserve)
    assert story.supervisor.settle(covered).sent == ["a", "b"]
    assert story.supervisor.settle(covered).sent == []
    assert story.supervisor.settle(None).sent == ["c"]


def test_what_was_deferred_in_a_history_that_did_not_last_is_not_sent(story: Story):
    mark = story.mark()
    effects.deferred("a", None, reserve)
    story.restore(mark)
    assert story.supervisor.settle(story.mark()).sent == []
    assert effects.deferred("a", None, reserve)
    assert story.supervisor.settle(story.mark()).sent == ["a"]


def test_a_replay_is_told_that_it_was_sent(story: Story):
    mark = story.mark()
    effects.deferred("a", None, reserve)
    story.supervisor.settle(story.mark())
    story.restore(mark)
    assert not effects.deferred("a", None, reserve)
    assert story.supervisor.settle(None).sent == []


def test_what_cannot_be_sent_holds_back_what_the_same_sender_has_after_it(story: Story):
    effects.deferred("a", None, reserve)
    effects.deferred("other", None, "elsewhere:send")
    effects.deferred("b", None, reserve)
    story.work = lambda entry: "down" if entry.key == "a" else ""
    result = story.supervisor.settle(None)
    assert (result.sent, result.failed) == (["other"], {"a": "down"})
    story.work = lambda _entry: ""
    assert story.supervisor.settle(None).sent == ["a", "b"]


def test_what_a_finished_run_could_not_settle_the_next_one_goes_on_trying(story: Story):
    effects.deferred("a", None, reserve)
    story.work = lambda _entry: "down"
    story.supervisor.settle(None)
    assert [entry.key for entry in story.supervisor.book.close()] == ["a"]
    story.another_run().book.fresh()
    story.work = lambda _entry: ""
    assert story.supervisor.settle(story.mark()).sent == ["a"]


def test_a_function_that_raises_may_be_begun_again(story: Story):
    def fails() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        effects.once("a", fails)
    assert story.states() == {"a": "failed"}
    effects.once("a", story.does("a"))
    assert story.world == ["a"]


def test_a_function_that_cannot_know_says_so(story: Story):
    def unsure() -> None:
        story.world.append("a")
        raise effects.UnsettledEffectError("the connection broke")

    with pytest.raises(effects.UnsettledEffectError, match="broke"):
        effects.once("a", unsure)
    with pytest.raises(effects.UnsettledEffectError, match="probe"):
        effects.once("a", story.does("a"))
    assert story.world == ["a"]


def test_a_result_that_is_no_json_is_said_the_first_time_and_to_a_replay(story: Story):
    for _ in range(2):
        with pytest.raises(effects.EffectResultError, match="no JSON"):
            effects.once("a", story.does("a", object()))
    with pytest.raises(effects.EffectResultError, match="bytes"):
        effects.once("big", story.does("big", "x" * 70000))
    assert story.world == ["a", "big"]


def test_a_result_and_a_payload_of_64_kib_fit(story: Story):
    text = "x" * (_effect_steps.LIMIT - 2)
    assert effects.once("a", story.does("a", text)) == text
    with pytest.raises(UsageError, match="payload"):
        effects.deferred("b", text + "x", reserve)


@pytest.mark.parametrize("key", ["", "x" * 513, "nul\0", 3, None])
def test_a_key_that_is_none_is_refused_before_anything_is_done(story: Story, key: Any):
    with pytest.raises(UsageError, match="key"):
        effects.once(key, story.does("a"))
    assert story.world == []


def test_a_key_of_another_kind_is_refused(story: Story):
    effects.once("a", story.does("a"))
    with pytest.raises(UsageError, match="is once already"):
        effects.compensable("a", story.does("a"), reserve)


def test_an_undo_that_no_other_process_could_find_is_refused_before_anything_is_done(story: Story):
    with pytest.raises(UsageError, match="top level"):
        effects.compensable("a", story.does("a"), lambda: None)
    with pytest.raises(UsageError, match="module:function"):
        effects.compensable("a", story.does("a"), "reserve")
    with pytest.raises(UsageError, match="no JSON"):
        effects.compensable("a", story.does("a"), reserve, args=[object()])
    assert story.world == []


def down(story: Story, monkeypatch: pytest.MonkeyPatch, operation: str, times: int) -> None:
    """Have the ledger be out of reach for the next requests of one kind."""
    real, left = story.supervisor.desk.answer, [times]

    def answer(fields: dict[str, Any], incarnation: int) -> dict[str, Any]:
        if fields["op"] == operation and left[0] > 0:
            left[0] -= 1
            raise DownError("the ledger is down")
        return real(fields, incarnation)

    monkeypatch.setattr(story.supervisor.desk, "answer", answer)


def test_a_ledger_that_is_down_at_the_begin_lets_nothing_be_done(
    story: Story, monkeypatch: pytest.MonkeyPatch
):
    down(story, monkeypatch, "begin", 1)
    with pytest.raises(effects.LedgerUnavailableError, match="is down"):
        effects.once("a", story.does("a"))
    assert story.world == []
    effects.once("a", story.does("a"))
    assert story.world == ["a"]


def test_a_begin_that_was_written_although_it_failed_is_begun_anew(
    story: Story, monkeypatch: pytest.MonkeyPatch
):
    book = story.supervisor.book
    real = book._keeper._ledger.write

    def write(*args: Any) -> None:
        real(*args)
        monkeypatch.setattr(book._keeper._ledger, "write", real)
        raise DownError("the reply was lost")

    monkeypatch.setattr(book._keeper._ledger, "write", write)
    with pytest.raises(effects.LedgerUnavailableError):
        effects.once("a", story.does("a"))
    assert story.states() == {"a": "started"}
    effects.once("a", story.does("a"))
    assert story.world == ["a"]


def test_a_ledger_that_is_down_at_the_end_is_waited_for(story: Story, monkeypatch: pytest.MonkeyPatch):
    down(story, monkeypatch, "end", 3)
    assert effects.once("a", story.does("a", 1)) == 1
    assert story.states() == {"a": "done"}


def test_a_ledger_that_stays_down_at_the_end_leaves_it_unsettled(
    story: Story, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_effect_steps, "END_SECONDS", 0.05)
    down(story, monkeypatch, "end", 10**6)
    with pytest.raises(effects.UnrecordedEffectError, match="could not be recorded"):
        effects.once("a", story.does("a"))
    with pytest.raises(effects.UnsettledEffectError):
        effects.once("a", story.does("a"))
    assert story.world == ["a"]


def test_a_job_whose_run_was_taken_over_does_nothing_more(story: Story):
    old = story.supervisor
    story.another_run()
    story.supervisor = old
    with pytest.raises(FencedError):
        effects.once("a", story.does("a"))
    assert story.world == []


def test_a_second_thread_waits_for_the_first_and_gets_its_result(story: Story):
    inside, go, results = threading.Event(), threading.Event(), []

    def slow() -> int:
        inside.set()
        assert go.wait(30)
        story.world.append("a")
        return 5

    first = threading.Thread(target=lambda: results.append(effects.once("a", slow)))
    first.start()
    assert inside.wait(30)
    second = threading.Thread(target=lambda: results.append(effects.once("a", story.does("again"))))
    second.start()
    go.set()
    first.join(30)
    second.join(30)
    assert (results, story.world) == ([5, 5], ["a"])


def test_an_effect_whose_time_is_over_counts_as_unsettled(story: Story):
    def late() -> None:
        story.now += 61
        with pytest.raises(effects.UnsettledEffectError):
            effects.once("a", story.does("a"))
        story.world.append("late")

    effects.once("a", late)
    assert story.world == ["late"]


def test_a_dump_inside_an_effect_whose_time_is_over_spans_it(story: Story):
    marks: list[Mark] = []

    def long() -> str:
        marks.append(story.mark())
        return "first"

    assert effects.once("a", long) == "first"
    (mark,) = marks
    assert mark.spanned == ("a",)
    entry = story.supervisor.book.entry("a")
    story.restore(mark)
    assert entry is not None
    # the memory goes on in the middle of the function, and ends it once more: it gets the result of the first time
    reply = story.supervisor.request(
        "effect", op="end", key="a", token=entry.token, result={"value": "second"}
    )
    assert reply["result"] == {"value": "first"}


@pytest.mark.usefixtures("story")
def test_a_checkpoint_inside_an_effect_is_refused():
    with pytest.raises(UsageError, match="inside an effect"):
        effects.once("a", job.checkpoint)


def test_decorators_name_the_effect_by_the_arguments(story: Story):
    @effects.once("charge-{order}-{1}")
    def charge(order: int, amount: int = 5) -> str:
        story.world.append(f"{order}:{amount}")
        return f"c{order}"

    mark = story.mark()
    assert charge(1, 7) == "c1"
    story.restore(mark)
    assert charge(1, 7) == "c1"
    assert story.world == ["1:7"]
    assert "charge-1-7" in story.states()


def test_a_decorated_compensable_is_undone_with_the_arguments_of_the_call(story: Story):
    @effects.compensable("seat-{seat}", undo=reserve)
    def take(seat: int, row: str = "x") -> None:
        story.world.append(f"{seat}{row}")

    take(4, row="b")
    entry = story.supervisor.book.entry("seat-4")
    assert entry is not None
    call: Any = entry.call
    assert (call["args"], call["kwargs"]) == ([4], {"row": "b"})


def test_coroutines_are_awaited(story: Story):
    async def charge() -> int:
        await asyncio.sleep(0)
        story.world.append("a")
        return 3

    @effects.once("b-{n}")
    async def other(n: int) -> int:
        story.world.append(f"b{n}")
        return n

    async def main() -> list[int]:
        return [await effects.once("a", charge), await other(1), await other(1)]

    mark = story.mark()
    assert asyncio.run(main()) == [3, 1, 1]
    story.restore(mark)
    assert asyncio.run(main()) == [3, 1, 1]
    assert story.world == ["a", "b1"]


def test_a_cancelled_task_leaves_its_effect_unsettled(story: Story):
    async def main() -> None:
        started = asyncio.Event()

        async def slow() -> None:
            story.world.append("a")
            started.set()
            await asyncio.sleep(60)

        task = asyncio.ensure_future(effects.once("a", slow))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(effects.UnsettledEffectError):
            await effects.once("a", slow)

    asyncio.run(main())
    assert story.world == ["a"]


def test_a_plain_function_that_returns_an_awaitable_is_refused(story: Story):
    async def charge() -> None:
        story.world.append("a")

    with pytest.raises(UsageError, match="coroutine function"):
        effects.once("a", lambda: charge())  # noqa: PLW0108 - the charge itself would be awaited
    assert story.world == []


def test_without_ckptrun_functions_are_simply_run():
    world: list[Any] = []
    assert effects.once("a", lambda: (world.append("a"), 1)) == [None, 1]
    assert effects.once("a", lambda: world.append("a")) is None
    effects.compensable("b", lambda: world.append("b"), reserve)
    with pytest.raises(UsageError, match="top level"):
        effects.deferred("c", {"n": 1}, lambda: None)
    assert not effects.deferred("d", {"n": 1}, sent)
    assert world == ["a", "a", "b"]
    assert SENT.pop() == ("d", {"n": 1})


SENT: list[tuple[str, Any]] = []


@effects.sender("test-sender")
def sent(payload: Any, key: str) -> None:
    SENT.append((key, payload))


def test_a_sender_is_found_by_the_name_it_was_given():
    effects.deferred("e", [1], "test-sender")
    assert SENT.pop() == ("e", [1])


def test_entries_of_a_newer_version_can_be_read():
    known = Entry(1, "a", effects_kind(), 1, State.DONE)
    assert Entry.from_json({**known.to_json(), "new": 1}) == known
    assert json.dumps(known.to_json())


def effects_kind() -> Any:
    from ckptrun.effects.model import Kind  # noqa: PLC0415

    return Kind.ONCE


def test_a_message_without_a_sender_is_kept_for_the_hooks_and_no_worker_is_run(story: Story):
    assert effects.deferred("a", {"n": 1})
    assert effects.deferred("a", {"n": 2})  # the same key is queued once
    entry = story.supervisor.book.entry("a")
    assert entry is not None
    assert (entry.sender, entry.payload) == ("", {"n": 1})
    settled = story.supervisor.settle(None)
    assert (settled.sent, settled.failed) == ([], {})
    assert story.states() == {"a": "queued"}


def test_a_message_without_a_sender_and_without_ckptrun_is_refused_by_name():
    with pytest.raises(UsageError, match="message 'a' has no sender, and there is no ckptrun here"):
        effects.deferred("a", 1)
