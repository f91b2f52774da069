"""One writer at a time: who may take a lineage from whom, and how the loser finds out."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from storekit import COMMAND, RUNNING, Place, acquire, commit, contents, expected, owner, sample

from ckptrun.core.model import RunState
from ckptrun.errors import FencedError, HeldError, StoreError
from ckptrun.store.lease import LEASE_SECONDS, start_time
from ckptrun.store.localfs import LocalBackend
from ckptrun.store.probing import FOLDER, probe
from ckptrun.store.repository import Keep, Lineage

if TYPE_CHECKING:
    from pathlib import Path

    from ckptrun.store.repository import KeySource, Writer


class Waiting:
    """Counts the seconds waited; ``meanwhile`` is called at each second."""

    def __init__(self, meanwhile: object = None) -> None:
        self.seconds = 0.0
        self.meanwhile = meanwhile

    def __call__(self, seconds: float) -> None:
        self.seconds += seconds
        if callable(self.meanwhile):
            self.meanwhile()


def lineage_of(place: Place) -> Lineage:
    return Lineage(place.open(), "train", None)


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_released_lineage_is_taken_at_once(place: Place):
    acquire(lineage_of(place)).release()
    assert acquire(lineage_of(place)).epoch == 2


def test_a_holder_that_died_on_this_boot_is_succeeded_at_once(place: Place):
    acquire(lineage_of(place), owner(pid=dead_pid()))
    assert acquire(lineage_of(place)).epoch == 2


def test_a_pid_used_again_by_another_process_is_not_the_holder(directory: Place):
    acquire(lineage_of(directory), owner(start_time=1))
    assert acquire(lineage_of(directory)).epoch == 2


def test_a_holder_that_is_a_zombie_is_dead(directory: Place):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = start_time(process.pid)
    acquire(lineage_of(directory), owner(pid=process.pid, start_time=start))
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert acquire(lineage_of(directory)).epoch == 2
    process.communicate()


@pytest.mark.parametrize(
    "holder",
    [{"boot_id": "another", "pid": 1}, {"pid_namespace": "pid:[1]", "pid": 2**22 - 1}, {}],
    ids=["another boot", "another container of this machine", "alive and silent"],
)
def test_a_silent_holder_is_succeeded_after_one_lease_period(place: Place, holder: dict[str, object]):
    acquire(lineage_of(place), owner(**holder))
    waiting = Waiting()
    assert acquire(lineage_of(place), wait=waiting).epoch == 2
    assert waiting.seconds == LEASE_SECONDS


def test_a_holder_that_renews_keeps_the_lineage(place: Place):
    holder = acquire(lineage_of(place), owner(boot_id="another", host="host-b", pid=4711))
    waiting = Waiting()
    waiting.meanwhile = lambda: holder.renew() if waiting.seconds == 5 else None
    lineage = lineage_of(place)
    with pytest.raises(
        HeldError, match=r"'train'.*process 4711 on host-b \(epoch 1\).*--take-over"
    ) as caught:
        acquire(lineage, wait=waiting)
    assert caught.value.exit_code == 79
    assert waiting.seconds == 5
    commit(holder, sample("c1"))
    assert [record.id for record in lineage.checkpoints()] == ["c1"]


def test_a_holder_that_ends_while_it_is_watched_leaves_the_lineage_free(directory: Place):
    holder = acquire(lineage_of(directory), owner(boot_id="another"))
    waiting = Waiting()
    waiting.meanwhile = lambda: holder.close(RUNNING) if waiting.seconds == 3 else None
    assert acquire(lineage_of(directory), wait=waiting).epoch == 2


def test_take_over_asks_nobody(place: Place):
    acquire(lineage_of(place), owner(boot_id="another"))
    assert acquire(lineage_of(place), take_over=True).epoch == 2


def test_the_one_taken_over_can_do_nothing_any_more(place: Place, key: KeySource | None):
    first = acquire(Lineage(place.open(), "train", key))
    commit(first, sample("c1", 1))
    prepared = first.put(sample("c2", 2), frozen_seconds=0)
    lineage = Lineage(place.open(), "train", key)
    second = acquire(lineage, owner(host="host-b", pid=9), take_over=True)
    with pytest.raises(FencedError, match=r"taken over by process 9 on host-b \(epoch 2\)"):
        first.commit(prepared, keep=Keep())
    uses = [
        first.renew,
        lambda: first.set_run(RUNNING),
        lambda: first.put(sample("c3", 3), frozen_seconds=0),
        lambda: first.drop(["c1"], "bad"),
        lambda: first.close(RUNNING),
        first.release,
    ]
    for use in uses:
        with pytest.raises(FencedError):
            use()
    record = commit(second, sample("c4", 4))
    assert [r.id for r in lineage.checkpoints()] == ["c4", "c1"]
    assert contents(lineage.load(record)) == expected(sample("c4", 4))


@pytest.mark.parametrize("use", ["renew", "set_run", "drop", "close", "release"])
def test_each_change_of_head_is_fenced(directory: Place, use: str):
    first = acquire(lineage_of(directory))
    commit(first, sample("c1"))
    acquire(lineage_of(directory), take_over=True)
    arguments = {"set_run": (RUNNING,), "drop": (["c1"], "bad"), "close": (RUNNING,)}.get(use, ())
    with pytest.raises(FencedError):
        getattr(first, use)(*arguments)


def test_a_writer_so_late_that_generations_were_removed_is_fenced(directory: Place):
    first = acquire(lineage_of(directory))
    second = acquire(lineage_of(directory), take_over=True)
    for _ in range(20):
        second.renew()
    with pytest.raises(FencedError):
        first.renew()
    second.renew()


def test_a_writer_that_links_into_a_gap_of_removed_generations_is_fenced(
    directory: Place, monkeypatch: pytest.MonkeyPatch
):
    backend = directory.open()
    lineage = Lineage(backend, "train", None)
    first = acquire(lineage)
    second = acquire(lineage_of(directory), take_over=True)
    for _ in range(20):
        second.renew()
    real = LocalBackend._generations
    stale = iter([[1]])  # it looked just before the others went on
    monkeypatch.setattr(
        LocalBackend, "_generations", lambda self, path: next(stale, None) or real(self, path)
    )
    with pytest.raises(FencedError):
        first.renew()
    assert directory.folder is not None
    assert not (directory.folder / "train" / "HEAD.2").exists()
    second.renew()


def test_two_that_try_one_store_out_at_once_do_not_disturb_each_other(
    directory: Place, monkeypatch: pytest.MonkeyPatch
):
    """As the runs of a job array may: what one finds empty and removes, the other is about to write into."""
    make, removed = LocalBackend._make_folder, []

    def then_the_other_removes_it(backend: LocalBackend, folder: Path) -> None:
        make(backend, folder)
        if folder.name == FOLDER and not removed:
            removed.append(folder)
            folder.rmdir()

    monkeypatch.setattr(LocalBackend, "_make_folder", then_the_other_removes_it)
    probe(directory.open())
    assert removed


def test_of_many_that_begin_at_once_one_wins(directory: Place):
    won: list[Writer] = []
    lost: list[HeldError] = []

    def begin(number: int) -> None:
        try:
            won.append(acquire(lineage_of(directory), owner(session=f"r{number}"), wait=renewing))
        except HeldError as error:
            lost.append(error)

    def renewing(_: float) -> None:
        while not won:
            pass
        won[0].renew()

    threads = [threading.Thread(target=begin, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 3)


def test_renewals_commits_and_the_runs_state_do_not_fence_each_other(directory: Place):
    lineage = lineage_of(directory)
    writer = acquire(lineage)
    stop = threading.Event()

    def renew() -> None:
        while not stop.is_set():
            writer.renew()

    threads = [threading.Thread(target=renew) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for i in range(10):
            commit(writer, sample(f"c{i}", i))
            writer.set_run(replace(RUNNING, started=float(i)))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    head = lineage.head()
    assert head is not None
    assert [record.id for record in head.checkpoints] == ["c9", "c8", "c7"]
    assert head.run.started == 9


def test_a_run_whose_writer_is_gone_was_interrupted(directory: Place):
    first = acquire(lineage_of(directory), owner(pid=dead_pid()))
    assert first.previous is None
    first.set_run(RUNNING)
    second = acquire(lineage_of(directory))
    assert second.previous == replace(RUNNING, state=RunState.INTERRUPTED)
    second.release()
    third = acquire(lineage_of(directory))
    assert third.previous == second.previous


def test_a_writer_that_never_began_a_run_leaves_no_trace_of_one(directory: Place):
    acquire(lineage_of(directory)).release()
    assert acquire(lineage_of(directory)).previous is None


def test_a_closed_writer_is_of_no_use(directory: Place):
    writer = acquire(lineage_of(directory))
    writer.close(RUNNING)
    for use in (writer.renew, lambda: writer.put(sample("c1"), frozen_seconds=0)):
        with pytest.raises(StoreError, match="closed"):
            use()


def test_the_command_is_remembered(directory: Place):
    lineage = lineage_of(directory)
    writer = acquire(lineage)
    writer.set_run(RUNNING)
    head = lineage.head()
    assert head is not None
    assert head.run.command == COMMAND
    assert head.owner is not None
    assert head.owner.host == "host-a"
