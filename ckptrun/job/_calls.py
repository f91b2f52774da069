"""The calls of the SDK that ask ckptrun for something or tell it something."""

from __future__ import annotations

import math
import os
import time

from ckptrun.job import _channel, _keys, _page, _safepoint
from ckptrun.job._critical import inside_critical
from ckptrun.job._errors import RefusedError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

ENVIRONMENT = _page.HOME + "/state/environment.json"
BEAT_SECONDS = 1.0
"""Heartbeats closer together than this, or than a tenth of ``within``, are not sent."""
WITHDRAWN = 1e9
"""Seconds of a promise that takes the one before back: some thirty years."""
ROOM_SECONDS = 5.0
"""How long a full queue of ckptrun's keeps a promise from being taken back."""

_encoded: tuple[tuple[float | None, float], bytes] = ((None, 0.0), b"")
_beaten = (0.0, 0.0, 0)
"""When the last heartbeat was sent, what it promised, and by which process."""


def checkpoint(wait: bool = False) -> str | None:
    """Have a checkpoint taken and return its id; None without ckptrun.

    The job goes on while it is taken, but for the frozen time; this call returns when it is complete in memory.
    After a restore from this very checkpoint it returns as well, with the same id.

    Args:
        wait: return only when it is committed: it survives the machine then.

    Raises:
        CheckpointFailedError: there is none; the job is unharmed.
        UsageError: called inside `critical` or an effect, where no checkpoint can be taken.
    """
    if not _channel.under_ckptrun():
        return None
    if inside_critical():
        raise UsageError(
            "checkpoint() inside critical() would wait for its own end", "take it after the section"
        )
    if _keys.inside.get() is not None:
        raise UsageError("checkpoint() inside an effect would wait for its end", "take it before or after it")
    reply = _channel.request("checkpoint", wait=bool(wait))
    _safepoint.safe_point()
    return str(reply["checkpoint"])


def rollback(reason: str) -> NoReturn:
    """Go back to the newest checkpoint: the job is killed and restored from it, and this call never returns.

    A rollback counts as a failure of the job: one that repeats itself with the same reason goes back to an older
    checkpoint and in the end gives up, as a job that keeps failing does.

    Args:
        reason: a few words; the same words for the same cause.

    Raises:
        NotUnderCkptrunError: there is nothing to go back to without ckptrun.
        RefusedError: there is no checkpoint yet, or the run is stopping; the job goes on.
    """
    _channel.request("rollback", reason=str(reason))
    raise RefusedError("ckptrun has answered a rollback", "please report it")


def heartbeat(within: float | None = None) -> None:
    """Say that the job makes progress; costs microseconds and never waits.

    Args:
        within: seconds in which the next heartbeat comes. From the first one that says so, a job that keeps silent
            for longer, while it is not frozen, hangs: it is killed and restored. None leaves that as it is.
    """
    check_within(within)
    _beat(within)
    _safepoint.safe_point()


def check_within(within: float | None) -> None:
    """Raise UsageError if a promise is no time."""
    if within is not None and not (within > 0 and math.isfinite(within)):
        raise UsageError(f"within={within!r} is not a time in seconds")


def promised() -> float:
    """Return the seconds in which this process has promised its next heartbeat; 0 if it has not."""
    _, promise, by = _beaten
    return promise if by == os.getpid() else 0.0


def promise_again(within: float) -> None:
    """Go back to what `promised` has returned.

    It waits for room in ckptrun's queue, as no heartbeat does: if this one were lost, a job that no longer beats
    would be taken for one that hangs.
    """
    until = time.monotonic() + ROOM_SECONDS
    while not _beat(within or WITHDRAWN) and time.monotonic() < until:
        time.sleep(_channel.CROWDED_PAUSE)


def _beat(within: float | None) -> bool:
    """Send a heartbeat, unless one was sent just now; return False if there was no room for it."""
    global _beaten  # noqa: PLW0603 - one clock for each process
    now, pid = time.monotonic(), os.getpid()
    sent, promised, by = _beaten
    promise = promised if within is None else within
    slack = min(promise / 10, BEAT_SECONDS) if promise else BEAT_SECONDS
    due = by != pid or promise != promised or now - sent >= slack
    if not due or not _channel.under_ckptrun():
        return True
    if not _channel.post(_datagram(within, slack)):
        return False
    _beaten = (now, promise, pid)
    return True


def _keep_promise() -> None:
    """Beat for a process that waits for ckptrun, if it has promised to: it does not hang."""
    _, promised, by = _beaten
    if promised and by == os.getpid():
        _beat(None)


_channel.while_waiting.append(_keep_promise)


def _datagram(within: float | None, slack: float) -> bytes:
    """Return the datagram of a heartbeat; it is made once for each promise."""
    global _encoded  # noqa: PLW0603
    key, data = _encoded
    if key != (within, slack) or not data:
        fields = {} if within is None else {"within": within, "slack": slack}
        data = _channel.encoded("heartbeat", fields)
        _encoded = ((within, slack), data)
    return data


def report(**metrics: float) -> None:
    """Record figures of the job's, as ``report(loss=0.3)``; the next checkpoint carries the newest of each name.

    Raises:
        UsageError: one is not a finite number.
    """
    figures: dict[str, float] = {}
    for name, value in metrics.items():
        figures[name] = number("report", name, value)
        if not math.isfinite(figures[name]):
            raise UsageError(f"report({name}=…): {value!r} is not a finite number")
    if figures:
        _channel.notice("report", metrics=figures)
    _safepoint.safe_point()


def number(call: str, name: str, value: Any) -> float:
    """Return the number that a call was given by a name. Raises UsageError."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UsageError(f"{call}({name}=…): {value!r} is not a number") from None


def environment() -> dict[str, str]:
    """Return the environment that the job would be started with today; without ckptrun, this process's.

    A restored process has the variables of its first start: a job number, a token or a folder in them may be stale.
    """
    if _channel.under_ckptrun():
        import json

        try:
            with open(ENVIRONMENT, "rb") as file:  # noqa: PTH123
                return dict(json.loads(file.read()))
        except (OSError, ValueError):
            pass
    return dict(os.environ)


def incarnation() -> int:
    """Return the number of this start of the job in its run, from 1; 0 without ckptrun."""
    return _page.read().incarnation if _channel.under_ckptrun() else 0


def restores() -> int:
    """Return how often the job has been restored since its fresh start, in this run and those before; 0 without."""
    return _page.read().restores if _channel.under_ckptrun() else 0


def lineage() -> str | None:
    """Return the lineage's name; None without ckptrun."""
    return _page.read().lineage or None if _channel.under_ckptrun() else None
