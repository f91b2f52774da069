"""Every kind of ledger keeps entries alike: durable, all or nothing, and for one run at a time."""

from __future__ import annotations

import dataclasses
import os
import stat
from typing import TYPE_CHECKING

import pytest

from ckptrun.effects.ledger import check_url, open_ledger, without_password
from ckptrun.effects.model import Entry, Head, Kind, State
from ckptrun.errors import FencedError, LedgerLostError, LedgerUnavailableError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Place
    from support.redis import RedisServer


def entry(key: str, seq: int, state: State = State.DONE, **more: object) -> Entry:
    return Entry(1, key, Kind.ONCE, seq, state, **more)  # type: ignore[arg-type]


def test_entries_come_back_as_they_were_written(place: Place):
    ledger = place.open()
    assert ledger.head() == Head()
    assert ledger.since(0) == []
    assert ledger.get(1, "a") is None
    head = dataclasses.replace(ledger.claim(3, "c"), seq=3, life=1, closed=False)
    unusual = entry(
        "ключ \"'\\ 100%", 3, result={"value": [None, 1.5, "ö", {"x": "y"}]}, began=1.25, follows="c-1"
    )
    ledger.write(head, [entry("a", 1), entry("b", 2, call={"args": ["z" * 60000]}), unusual])
    ledger.close()
    again = place.open()
    assert again.head() == Head(3, head.term, 3, 1, closed=False)
    assert again.get(1, unusual.key) == unusual
    assert again.get(2, unusual.key) is None
    assert [one.key for one in again.since(1)] == ["b", unusual.key]


def test_lineages_do_not_see_each_other(place: Place):
    one, other = place.open(), place.open(place.lineage + "-other")
    head = dataclasses.replace(one.claim(1, "c"), seq=1, life=1)
    one.write(head, [entry("a", 1)])
    assert other.head() == Head()
    assert other.since(0) == []
    assert other.claim(1, "c").term == 1


def test_what_is_loose_is_found_and_forgotten(place: Place):
    ledger = place.open()
    head = dataclasses.replace(ledger.claim(1, "c"), life=1)
    ledger.write(head, [entry("a", 2, State.QUEUED), entry("b", 1, State.UNDOING), entry("c", 3)])
    assert [one.key for one in ledger.loose()] == ["b", "a"]
    ledger.write(head, [entry("a", 2, State.SENT), entry("c", 4, rewound=9)])
    assert [one.key for one in ledger.loose()] == ["b", "c"]


def test_a_write_replaces_an_entry_of_the_same_key(place: Place):
    ledger = place.open()
    head = dataclasses.replace(ledger.claim(1, "c"), life=1)
    ledger.write(head, [entry("a", 1)])
    ledger.write(head, [entry("a", 5, result={"value": 2})])
    assert ledger.since(0) == [entry("a", 5, result={"value": 2})]


def test_an_older_epoch_cannot_claim(place: Place):
    assert place.open().claim(7, "c").epoch == 7
    with pytest.raises(FencedError, match="epoch 7"):
        place.open().claim(6, "c")
    assert place.open().claim(7, "c").epoch == 7  # the same run, begun again before its first renewal


def test_a_run_that_does_not_know_its_epoch_is_ordered_by_its_claim(place: Place):
    place.open().claim(7, "c")
    head = place.open().claim(0, "c")
    assert (head.epoch, head.term) == (7, 2)


def test_whoever_was_taken_over_is_fenced_and_writes_nothing(place: Place):
    old, new = place.open(), place.open()
    before = dataclasses.replace(old.claim(1, "c"), seq=1, life=1)
    old.write(before, [entry("a", 1)])
    after = new.claim(2, "c")
    with pytest.raises(FencedError, match="claimed by another run"):
        old.write(dataclasses.replace(before, seq=2), [entry("a", 2, State.FAILED), entry("b", 3)])
    assert new.since(0) == [entry("a", 1)]
    new.write(dataclasses.replace(after, seq=2), [entry("b", 2)])
    assert new.head().seq == 2


def test_a_ledger_that_has_forgotten_what_it_acknowledged_takes_nothing_more(place: Place):
    ledger = place.open()
    head = dataclasses.replace(ledger.claim(1, "c"), seq=5, life=1)
    ledger.write(head, [entry("a", 5)])
    backup = dataclasses.replace(head, seq=3)
    place.open().write(backup, [])  # as a server does that is put back, or fails over to one that lags behind
    with pytest.raises(LedgerLostError, match="lost what it had acknowledged"):
        ledger.write(dataclasses.replace(head, seq=6), [entry("b", 6)], known=5)
    assert ledger.get(1, "b") is None
    ledger.write(dataclasses.replace(head, seq=6), [entry("b", 6)], known=3)


def test_a_ledger_that_was_emptied_is_not_said_to_be_anothers(place: Place):
    ledger = place.open()
    head = ledger.claim(1, "c")
    other = place.open(place.lineage + "-emptied")
    with pytest.raises(LedgerLostError, match="emptied"):
        other.write(head, [entry("a", 1)])


def test_a_server_that_is_down_is_said_to_be_and_used_again_when_it_is_back(place: Place):
    if place.server is None:
        pytest.skip("a file has no server")
    ledger = place.open()
    head = dataclasses.replace(ledger.claim(1, "c"), seq=1, life=1)
    ledger.write(head, [entry("a", 1)])
    place.server.stop()
    try:
        with pytest.raises(LedgerUnavailableError, match="cannot be used"):
            ledger.get(1, "a")
        with pytest.raises(LedgerUnavailableError):
            ledger.write(head, [entry("b", 2)])
        with pytest.raises(LedgerUnavailableError):
            place.open().claim(1, "c")
    finally:
        place.server.start()
    assert ledger.get(1, "a") == entry("a", 1)
    ledger.write(head, [entry("b", 2)])
    assert len(ledger.since(0)) == 2


def test_reading_makes_no_file(tmp_path: Path):
    ledger = open_ledger(f"sqlite://{tmp_path}/effects.sqlite", "train")
    assert ledger.head() == Head()
    assert ledger.loose() == []
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_the_owners_alone(tmp_path: Path):
    path = tmp_path / "effects.sqlite"
    ledger = open_ledger(f"sqlite://{path}", "train")
    head = ledger.claim(1, "c")
    ledger.write(head, [entry("a", 1)])
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}


def test_a_file_that_is_no_database_is_refused_by_name(tmp_path: Path):
    path = tmp_path / "effects.sqlite"
    path.write_bytes(os.urandom(8192))
    with pytest.raises(LedgerUnavailableError, match=str(path)):
        open_ledger(f"sqlite://{path}", "train").claim(1, "c")


def test_redis_that_may_forget_is_warned_of(redis_server: RedisServer, tmp_path: Path):
    assert open_ledger(redis_server.url, "train").warnings() == []
    with type(redis_server)(tmp_path, appendfsync="everysec") as lax:
        (warning,) = open_ledger(lax.url, "train").warnings()
    assert "appendfsync everysec" in warning
    assert "set appendfsync always" in warning


@pytest.mark.parametrize(
    "url",
    ["sqlite:path", "sqlite://host/x", "mysql://h/db", "effects.sqlite", "redis", "postgresql://h:port/db"],
)
def test_an_url_that_names_no_ledger_is_refused(url: str):
    with pytest.raises(UsageError, match="ledger"):
        check_url(url)


def test_a_password_is_not_shown():
    assert without_password("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
    assert without_password("redis://:secret@host:1/0") == "redis://:***@host:1/0"
    assert without_password("redis://host/0") == "redis://host/0"
