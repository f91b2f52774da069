"""Moves the CUDA state of several processes into the machine's memory and back: all of them, or none.

`suspend` is a checkpoint's first half, `resume` the other, also after a restore. `settle` is the way back from
whatever went wrong: it asks each process for its state and leads it to running, and says which ones cannot be led
there. Decides nothing about checkpoints or hooks; called by `ckptrun.cuda.phases`.

While a process is locked its peers may not answer, not even what their state is. So nothing is asked between the first
lock and the last unlock unless something failed, and then in rounds: what hangs in one may answer in the next.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ckptrun.cuda.driver import Action, CudaError, CudaTimeoutError, State
from ckptrun.cuda.finding import alive

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ckptrun.cuda.driver import Driver

_MOST_THREADS = 64
_ROUNDS = 6
_ROUND_SECONDS = 0.2
_LATE_SECONDS = 1.0
"""A call that was cut off may still be carried out."""
_LEAST_SECONDS = 0.05

_T = TypeVar("_T")


@dataclass(frozen=True)
class Limits:
    """Seconds of wall-clock time that one call may take.

    Args:
        state: asking for a state; also an unlock.
        lock: a lock: submitted work is finished first.
        move: a checkpoint or a restore.
        back: of all the time there is, what is kept for the way back.
    """

    state: float = 15.0
    lock: float = 10.0
    move: float = 120.0
    back: float = 60.0


class Clock:
    """How much time is left.

    Args:
        seconds: from now on.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds; never negative."""
        return max(0.0, self._end - time.monotonic())

    def most(self, seconds: float, keep: float = 0.0) -> float:
        """Return how long a call may take that may take `seconds`, if `keep` shall be left after it."""
        return max(_LEAST_SECONDS, min(seconds, self.left - keep))


@dataclass(frozen=True)
class Stuck:
    """A process that could not be led back to running.

    Args:
        pid: host PID.
        state: its last known state; None if it did not tell.
        why: the last error, as a sentence, and what to do about it.
    """

    pid: int
    state: State | None
    why: str


class SuspendError(CudaError):
    """Not everything could be moved off the GPU; all processes that could be led back run again.

    Args:
        message: what failed first.
        gone: whether a process ended meanwhile.
        stuck: those that do not run.
    """

    def __init__(self, message: str, *, hint: str, code: int, gone: bool, stuck: Sequence[Stuck]) -> None:
        super().__init__(message, hint=hint, code=code)
        self.gone = gone
        self.stuck = tuple(stuck)


def suspend(driver: Driver, pids: Sequence[int], limits: Limits, clock: Clock) -> None:
    """Lock all, then checkpoint all.

    Args:
        driver: the driver.
        pids: host PIDs of processes that run and have a CUDA state.
        limits: of single calls.
        clock: of everything, the way back included.

    Raises:
        SuspendError: at least one could not be; what was begun has been undone.
    """
    for action, seconds in ((Action.LOCK, limits.lock), (Action.CHECKPOINT, limits.move)):
        most = clock.most(seconds, limits.back + (driver.reach if action is Action.LOCK else 0.0))
        _, failures = _act(driver, pids, action, most)
        if failures:
            error = next(iter(failures.values()))
            gone = next((pid for pid in pids if not alive(pid)), 0)
            stuck = settle(driver, pids, limits, clock)
            if any(isinstance(one, CudaTimeoutError) for one in failures.values()):
                time.sleep(min(_LATE_SECONDS, clock.left))
                stuck = settle(driver, pids, limits, clock)
            message = f"process {gone} ended meanwhile" if gone else error.message
            raise SuspendError(
                message, hint="" if gone else error.hint, code=error.code, gone=bool(gone), stuck=stuck
            ) from error


def resume(
    driver: Driver,
    pids: Sequence[int],
    limits: Limits,
    clock: Clock,
    devices: Mapping[str, str] | None = None,
) -> list[Stuck]:
    """Restore all, then unlock all, and make sure that all run.

    Args:
        driver: the driver.
        pids: host PIDs of processes that are checkpointed.
        limits: of single calls.
        clock: of everything.
        devices: see `Driver.act`.

    Returns:
        Those that do not run; none if all is well.
    """
    keep = min(limits.back, clock.left / 2)
    back, _ = _act(driver, pids, Action.RESTORE, clock.most(limits.move, keep), devices)
    if len(back) == len(pids):
        _act(driver, pids, Action.UNLOCK, clock.most(limits.state, keep))
    return settle(driver, pids, limits, clock, devices)


def settle(
    driver: Driver,
    pids: Sequence[int],
    limits: Limits,
    clock: Clock,
    devices: Mapping[str, str] | None = None,
) -> list[Stuck]:
    """Lead every process to running, whatever its state, and make sure of it.

    Returns:
        Those that live and do not run; none if all is well.
    """
    stuck: dict[int, Stuck] = {}
    blamed: dict[int, str] = {}
    for turn in range(_ROUNDS):
        time.sleep(min(turn * _ROUND_SECONDS, clock.left))  # memory of a GPU may just be coming free
        living = [pid for pid in pids if alive(pid)]
        states, failures = _all(living, lambda pid: driver.state(pid, clock.most(limits.state)))
        living = [pid for pid in living if alive(pid)]
        stuck = {pid: Stuck(pid, None, failures[pid].message) for pid in living if pid in failures}
        stuck |= {
            pid: Stuck(pid, states[pid], blamed.get(pid) or f"process {pid} is {states[pid]}")
            for pid in living
            if states.get(pid, State.RUNNING) is not State.RUNNING
        }
        hopeless = all(one.state is State.FAILED for one in stuck.values())
        if hopeless or not clock.left or turn == _ROUNDS - 1:
            break
        for state, action, seconds in (
            (State.CHECKPOINTED, Action.RESTORE, limits.move),
            (State.LOCKED, Action.UNLOCK, limits.state),
        ):
            mine = [pid for pid, one in stuck.items() if one.state is state]
            given = devices if action is Action.RESTORE else None
            done, failures = _act(driver, mine, action, clock.most(seconds), given)
            blamed |= {pid: str(error) for pid, error in failures.items()}
            if action is Action.RESTORE:
                for pid in done:
                    stuck[pid] = Stuck(pid, State.LOCKED, f"process {pid} is {State.LOCKED}")
    return list(stuck.values())


def _act(
    driver: Driver,
    pids: Sequence[int],
    action: Action,
    seconds: float,
    devices: Mapping[str, str] | None = None,
) -> tuple[dict[int, None], dict[int, CudaError]]:
    """Do a step with all at once; see `_all`."""
    return _all(pids, lambda pid: driver.act(pid, action, seconds, devices))


def _all(pids: Sequence[int], work: Callable[[int], _T]) -> tuple[dict[int, _T], dict[int, CudaError]]:
    """Do something with every process at once, and return results and errors; both in the order of `pids`."""
    results: dict[int, _T] = {}
    failures: dict[int, CudaError] = {}
    if not pids:
        return results, failures
    with ThreadPoolExecutor(min(len(pids), _MOST_THREADS), thread_name_prefix="cuda") as pool:
        futures = [(pid, pool.submit(work, pid)) for pid in pids]
        for pid, future in futures:
            try:
                results[pid] = future.result()
            except CudaError as error:
                failures[pid] = error
    return results, failures
