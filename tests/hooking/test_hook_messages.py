"""What a job defers without a sender, handed to hooks: what they get, what counts as sent, what comes again."""

from __future__ import annotations

import itertools
import json
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
from hookkit import CHECKPOINT, COMMITTED, Parts, script

from ckptrun.effects import sqlite
from ckptrun.effects.book import Book
from ckptrun.effects.calls import Call
from ckptrun.effects.ledger import open_ledger
from ckptrun.effects.model import Kind
from ckptrun.errors import CkptrunError, ConfigurationError
from ckptrun.hooking import messages as messages_module
from ckptrun.hooking import options
from ckptrun.hooking.contract import Occasion, Outcome, Phase
from ckptrun.supervisor.messages import Messages

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TAKES = """
with open("calls", "a") as file:
    print(json.dumps(given), file=file)
keys = [message["key"] for message in given["messages"] or []]
"""
ALL = f"{TAKES}\nanswer(released=keys)"
NONE = f"{TAKES}\nanswer()"


class Post:
    """A ledger with messages, and hooks that are handed them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = folder / "ledger"
        self.ledger.mkdir()
        self.noted: list[str] = []
        self.events: list[dict[str, Any]] = []
        self.epoch = 0
        self.run()
        self.book.fresh()

    def run(self) -> None:
        """Begin another run of the lineage."""
        self.epoch += 1
        self.book = Book(open_ledger(f"sqlite://{self.ledger}/effects.sqlite", "train"), self.epoch)
        self.messages = Messages(
            "train",
            lambda: self.book,
            self._quietly,
            lambda event, **more: self.events.append({"event": event, **more}),
        )

    def _quietly(self, work: Callable[[], object]) -> Callable[[], None]:
        def do() -> None:
            try:
                work()
            except CkptrunError as error:
                self.noted.append(str(error))

        return do

    def hooks(self, *specs: str) -> Parts:
        return Parts(self.folder, *specs, mailbag=self.messages)

    def defer(self, *keys: str, payload: object = None) -> None:
        for key in keys:
            call = {"function": None, "args": [{"about": key} if payload is None else payload]}
            assert self.book.queue(Call(key, Kind.DEFERRED, f"token-{key}", 1, call=call))

    def commit(self, parts: Parts) -> list[Any]:
        """Commit a checkpoint that covers all that there is, and run the hooks."""
        self.messages.cover(self.book.mark())
        return self.post_commit(parts)

    def post_commit(self, parts: Parts) -> list[Any]:
        return parts.hooks.run(Phase.POST_COMMIT, COMMITTED, parts.hooks.hooks, {})

    def calls(self) -> list[dict[str, Any]]:
        file = self.folder / "calls"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def given(self) -> list[list[str]]:
        """Return the keys of each call."""
        return [[message["key"] for message in call["messages"]] for call in self.calls()]

    def states(self) -> dict[str, str]:
        found = open_ledger(f"sqlite://{self.ledger}/effects.sqlite", "train").since(0)
        return {entry.key: str(entry.state) for entry in found}


@pytest.fixture
def post(tmp_path: Path) -> Post:
    return Post(tmp_path)


def test_what_a_commit_covers_is_handed_over_in_order_and_sent_once_it_is_named(post: Post):
    script(post.folder / "h", f"{TAKES}\nanswer(released=keys[:2])")
    parts = post.hooks("./h?messages=yes")
    post.defer("b", "a", "c")
    post.messages.cover(post.book.mark())
    post.defer("late")
    post.post_commit(parts)
    first, rest = post.calls()
    assert options.invalid(first, options.schema("context")) == ""
    assert [(one["key"], one["payload"]) for one in first["messages"]] == [
        (k, {"about": k}) for k in ("b", "a", "c")
    ]
    assert len({one["id"] for one in first["messages"]}) == 3
    assert [one["key"] for one in rest["messages"]] == ["c"]  # it goes on as long as the hook takes some
    assert post.states() == {"b": "sent", "a": "sent", "c": "sent", "late": "queued"}
    assert [(e["key"], e["hook"]) for e in post.events] == [("b", "h"), ("a", "h"), ("c", "h")]


def test_what_a_hook_does_not_name_comes_again_with_the_same_id(post: Post):
    script(post.folder / "h", NONE)
    post.defer("a")
    post.commit(post.hooks("./h?messages=yes"))
    assert post.states() == {"a": "queued"}
    entry = post.book.entry("a")
    assert entry is not None
    assert "did not name it" in entry.error
    script(post.folder / "h", ALL)
    post.run()
    post.commit(post.hooks("./h?messages=yes"))
    first, second = post.calls()
    assert first["messages"] == second["messages"]
    assert post.states() == {"a": "sent"}


@pytest.mark.parametrize(
    ("ending", "state"),
    [
        ("sys.exit(3)", "queued"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "queued"),
        ("print('x')", "queued"),
        ("", "sent"),
    ],
)
def test_only_an_answer_that_counts_says_that_they_were_taken(post: Post, ending: str, state: str):
    script(post.folder / "h", f"{ALL}\nsys.stdout.flush()\n{ending}")
    post.defer("a")
    post.commit(post.hooks("./h?messages=yes"))
    assert post.states() == {"a": state}


def test_what_was_taken_before_a_failure_is_not_handed_over_again(post: Post):
    script(post.folder / "h", f"{TAKES}\nanswer(outcome='failed', reason='full', released=keys[:1])")
    post.defer("a", "b")
    (ran,) = post.commit(post.hooks("./h?messages=yes"))
    assert ran.result.outcome is Outcome.FAILED
    assert post.states() == {"a": "sent", "b": "queued"}
    entry = post.book.entry("b")
    assert entry is not None
    assert entry.error == "hook h: full"


def test_a_hook_that_asks_for_another_try_gets_the_rest(post: Post):
    body = f"{TAKES}\nanswer(released=keys[:1], retry_after=0.05)\nsys.exit(75 if len(keys) > 1 else 0)"
    script(post.folder / "h", body)
    post.defer("a", "b")
    post.commit(post.hooks("./h?messages=yes"))
    assert post.given() == [["a", "b"], ["b"]]
    assert post.states() == {"a": "sent", "b": "sent"}


def test_naming_what_was_not_given_is_a_failure(post: Post):
    script(post.folder / "h", f"{TAKES}\nanswer(released=[*keys, 'else'])")
    post.defer("a")
    (ran,) = post.commit(post.hooks("./h?messages=yes"))
    assert ran.result.outcome is Outcome.FAILED
    assert "'else', which it was not given" in ran.result.reason
    assert post.states() == {"a": "sent"}


def test_one_hook_gets_what_another_has_left_and_those_that_did_not_ask_get_none(post: Post):
    script(post.folder / "first", f"{TAKES}\nanswer(released=[key for key in keys if key < 'b'])")
    script(post.folder / "other", "answer(events=[{'event': 'saw', 'messages': given['messages']}])")
    script(post.folder / "second", ALL)
    parts = post.hooks("./first?messages=yes", "./other", "./second?messages=yes")
    post.defer("a", "b")
    post.commit(parts)
    assert post.given() == [["a", "b"], ["b"], ["b"]]
    assert [(e["key"], e["hook"]) for e in post.events] == [("a", "first"), ("b", "second")]
    assert [e["fields"] for e in parts.events if e["event"] == "hook-event"] == [{"messages": None}]


def test_without_a_message_a_hook_is_called_for_the_commit_as_ever(post: Post):
    script(post.folder / "h", ALL)
    post.commit(post.hooks("./h?messages=yes"))
    assert post.given() == [[]]
    assert post.calls()[0]["checkpoint"]["id"] == CHECKPOINT.id


@pytest.mark.parametrize(
    ("body", "calls"), [(ALL, [["a", "b"], ["c", "d"], ["e"]]), (NONE, [["a", "b"], ["c", "d"], ["e"]])]
)
def test_many_are_handed_over_in_batches_each_of_them_once(
    post: Post, monkeypatch: pytest.MonkeyPatch, body: str, calls: list[list[str]]
):
    monkeypatch.setattr(messages_module, "MOST", 2)
    script(post.folder / "h", body)
    post.defer("a", "b", "c", "d", "e")
    post.commit(post.hooks("./h?messages=yes"))
    assert post.given() == calls


@pytest.mark.slow
def test_a_call_is_given_a_megabyte_at_most(post: Post):
    script(post.folder / "h", ALL)
    keys = [f"m-{number:02}" for number in range(40)]
    post.defer(*keys, payload="x" * 60_000)
    post.commit(post.hooks("./h?messages=yes"))
    sizes = [len(json.dumps(call["messages"])) for call in post.calls()]
    assert len(sizes) == 3
    assert max(sizes) <= messages_module.MOST_BYTES + 1000
    assert list(itertools.chain(*post.given())) == keys


def test_a_failing_hook_is_not_called_with_the_next_batch(post: Post, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(messages_module, "MOST", 2)
    script(post.folder / "h", f"{TAKES}\nsys.exit(1)")
    post.defer("a", "b", "c")
    post.commit(post.hooks("./h?messages=yes"))
    assert post.given() == [["a", "b"]]


def test_at_the_end_of_the_job_all_is_handed_over_and_nobody_else_is_called(post: Post):
    script(post.folder / "h", ALL)
    script(post.folder / "other", "open('other-ran', 'w')")
    parts = post.hooks("./h?messages=yes", "./other")
    end = Occasion(Phase.POST_COMMIT, 1)
    parts.hooks.hand_over(end)
    assert post.calls() == []
    post.defer("a")
    parts.hooks.hand_over(end)
    assert post.calls() == []  # nothing covers it, and the job has not ended
    post.messages.cover(None)
    parts.hooks.hand_over(end)
    (given,) = post.calls()
    assert options.invalid(given, options.schema("context")) == ""
    assert (given["phase"], given["checkpoint"]) == ("post-commit", None)
    assert post.messages.waiting() == []
    assert not (post.folder / "other-ran").exists()


def test_nothing_is_handed_over_of_a_history_that_did_not_last(post: Post):
    script(post.folder / "h", ALL)
    mark = post.book.mark()
    post.defer("a")
    post.book.rewind(mark)
    post.commit(post.hooks("./h?messages=yes"))
    assert post.given() == [[]]
    assert post.states() == {"a": "cancelled"}


def test_a_message_that_was_being_handed_over_when_ckptrun_died_comes_again_and_is_not_queued_twice(
    post: Post,
):
    mark = post.book.mark()
    post.defer("a")
    post.messages.cover(post.book.mark())
    (taken,) = post.messages.take((), 10, 1000)
    post.run()
    post.book.rewind(mark)  # an older checkpoint: what may have been sent stays
    assert not post.book.queue(Call("a", Kind.DEFERRED, "again", 2, call={"function": None, "args": [1]}))
    script(post.folder / "h", ALL)
    post.commit(post.hooks("./h?messages=yes"))
    assert [message["id"] for message in post.calls()[0]["messages"]] == [taken.id]
    assert post.states() == {"a": "sent"}


def test_a_message_of_the_life_before_comes_first_and_is_another(post: Post):
    script(post.folder / "h", ALL)
    post.defer("a", payload="yesterday")
    post.book.close()
    post.book.fresh()
    post.defer("a", payload="today")
    post.commit(post.hooks("./h?messages=yes"))
    (first,), (second,) = (call["messages"] for call in post.calls()[:2])
    assert (first["payload"], second["payload"]) == ("yesterday", "today")
    assert first["id"] != second["id"]


def test_a_ledger_out_of_reach_is_said_and_the_message_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sqlite, "PATIENCE_SECONDS", 0.05)
    post = Post(tmp_path)
    script(post.folder / "h", ALL)
    parts = post.hooks("./h?messages=yes")
    post.defer("a")
    other = sqlite3.connect(post.ledger / "effects.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    post.commit(parts)
    assert post.given() == [[]]
    assert "is locked" in post.noted[0]
    other.execute("ROLLBACK")
    (taken,) = post.messages.take((), 10, 1000)
    other.execute("BEGIN IMMEDIATE")
    post.messages.released(["a"], "h")
    assert len(post.noted) == 2
    other.close()
    post.commit(parts)
    assert [message["id"] for message in post.calls()[1]["messages"]] == [taken.id]
    assert post.states() == {"a": "sent"}


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("./h?messages=perhaps", "messages=perhaps is neither yes nor no"),
        ("./h?messages=yes&phases=on-exit", "handed over in post-commit, which is not among its phases"),
        ("redis?messages=yes&url=redis://x&keys=a", "it takes no messages"),
        ("command?messages=yes&on-exit=true", "handed over in post-commit, in which it does nothing"),
        ("./h.d?messages=yes", "handed over in post-commit, in which it does nothing"),
    ],
)
def test_who_cannot_take_messages_is_refused_at_the_start(tmp_path: Path, spec: str, why: str):
    script(tmp_path / "h", "")
    script(tmp_path / "h.d" / "on-exit" / "h", "")
    with pytest.raises(ConfigurationError, match=why):
        Parts(tmp_path, spec)


def test_a_table_of_the_file_may_ask_for_messages(tmp_path: Path):
    script(tmp_path / "h", "")
    assert Parts(tmp_path, tables={"./h": {"messages": True}})["h"].messages
