"""When a checkpoint is due, and which are kept."""

from __future__ import annotations

import pytest

from ckptrun.core.cadence import Cadence
from ckptrun.core.model import CheckpointRecord, Trigger
from ckptrun.core.retention import Keep, expired, parse_keep
from ckptrun.errors import UsageError


@pytest.mark.parametrize(("cost", "pause"), [(0.1, 30.0), (1.0, 30.0), (2.0, 60.0), (10.0, 300.0)])
def test_auto_keeps_thirty_times_the_cost_away_from_the_last(cost: float, pause: float) -> None:
    assert Cadence("auto").committed(1000.0, cost).due == 1000.0 + pause


def test_a_fixed_interval_counts_from_the_beginning_of_the_dump() -> None:
    cadence = Cadence(60.0).started(0.0).dumping(60.0).staged(63.0, 3.0).committed(70.0, 10.0)
    assert cadence.due == 120.0


def test_no_interval_means_nothing_is_ever_due() -> None:
    cadence = Cadence(None).started(0.0).dumping(1.0).failed(2.0, None).skipped(3.0, 1.0).staged(4.0, 1.0)
    assert cadence.committed(5.0, 1.0).due is None


def test_a_failure_waits_at_least_as_long_as_asked() -> None:
    assert Cadence("auto").failed(0.0, 45.0).due == 45.0


def test_a_success_ends_the_backing_off() -> None:
    cadence = Cadence(1.0).failed(0.0, None).failed(20.0, None).dumping(60.0).staged(61.0, 0.1)
    assert cadence.failed(70.0, None).due == 80.0


@pytest.mark.parametrize(("spec", "last"), [("last=3", 3), (" last = 12 ", 12)])
def test_last_is_understood(spec: str, last: int) -> None:
    assert parse_keep(spec) == Keep(last)


@pytest.mark.parametrize("spec", ["last=3,hourly=24", "daily=7", "best=loss:min"])
def test_rules_not_built_yet_are_refused_by_name(spec: str) -> None:
    with pytest.raises(UsageError, match="not built yet"):
        parse_keep(spec)


@pytest.mark.parametrize(
    "spec", ["", "last", "last=0", "last=-1", "last=x", "newest=3", "last=1,last=2", "last=3,"]
)
def test_nonsense_is_refused(spec: str) -> None:
    with pytest.raises(UsageError, match="not a retention rule"):
        parse_keep(spec)


def record(seq: int, *, pinned: bool = False) -> CheckpointRecord:
    return CheckpointRecord(f"c{seq}", seq, 1, Trigger.INTERVAL, 0, 0, 0, 0, 0, 0, 0, 0, pinned=pinned)


def test_the_newest_and_the_pinned_are_kept() -> None:
    checkpoints = [record(5), record(1, pinned=True), record(4), record(2), record(3)]
    assert [c.seq for c in expired(checkpoints, Keep(2))] == [2, 3]


def test_fewer_than_the_limit_are_all_kept() -> None:
    assert expired([record(1), record(2)], Keep(3)) == ()
