"""The course of one effect, as a generator: what it yields is done by a driver, in a thread or in an event loop.

A step is (`ASK`, fields), (`CALL`, function) or (`PAUSE`, seconds). Used by `ckptrun.job.effects` alone.
"""

from __future__ import annotations

import os
import time

from ckptrun.job import _errors
from ckptrun.job._errors import JobError, UnavailableError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Generator, Tuple

    Steps = Generator[Tuple[str, Any], Any, Any]

ASK, CALL, PAUSE = "ask", "call", "pause"
END_SECONDS = 30.0
"""How long the end of an effect is tried to be recorded while the ledger is out of reach."""
AGAIN_SECONDS = 0.5
LEAVE_SECONDS = 5.0


class LedgerUnavailableError(UnavailableError):
    """The ledger is out of reach; nothing was done, the effect can be tried again."""


class UnsettledEffectError(JobError):
    """The effect was begun once, and nobody knows whether it happened.

    A function of an effect raises it too, to say that it cannot know (a lost connection after the request went out):
    the effect then counts as begun, not as failed.
    """


class UnrecordedEffectError(JobError):
    """The effect happened, and the ledger could not be told: to a replay it is unsettled."""


class UndoFailedError(JobError):
    """The effect must be undone before it is done again, and its undo fails."""


class EffectResultError(JobError):
    """The effect happened, and what its function returned cannot be kept: it is not JSON, or too large."""


_errors.KINDS.update({"ledger": LedgerUnavailableError})


class Done:
    """What a probe returns of an effect that happened, with its result; ``True`` says the same with result None."""

    def __init__(self, result: Any = None) -> None:
        self.result = result


class Effect:
    """One effect to do: see `ckptrun.job.effects.once` and `compensable`."""

    def __init__(
        self,
        kind: str,
        key: str,
        call: dict[str, Any] | None,
        probe: Callable[[str], Any] | None,
        unsettled: str,
        seconds: float,
    ) -> None:
        if unsettled not in {"raise", "retry"}:
            raise UsageError(f"unsettled={unsettled!r} is neither 'raise' nor 'retry'")
        if not seconds > 0:
            raise UsageError(f"seconds={seconds!r} is no time in seconds")
        self.kind = kind
        self.key = key
        self.call = call
        self.probe = probe
        self.unsettled = unsettled
        self.seconds = float(seconds)
        self.token = ""
        self.nested = False

    def fields(self, operation: str, **more: Any) -> dict[str, Any]:
        """Return a request about it."""
        return dict(more, op=operation, key=self.key, token=self.token)


def course(effect: Effect, function: Callable[[], Any]) -> Steps:
    """Begin an effect, do it, record it; return its result, or that of the first time."""
    found: dict[str, Any] = {"settle": ""}
    undone = False
    while True:
        reply = yield from _begin(effect, found)
        act, found = reply["act"], {"settle": ""}
        if act == "return":
            return _kept(effect, reply["result"])
        if act == "run":
            return (yield from _do(effect, function))
        if act == "wait":
            yield PAUSE, reply.get("seconds", AGAIN_SECONDS)
        else:
            found = yield from _settle(effect, reply.get("error", ""), undone=undone)
            undone = undone or found["settle"] == "undo"


def _begin(effect: Effect, found: dict[str, Any]) -> Steps:
    effect.token = f"{os.getpid()}-{os.urandom(8).hex()}"
    begin = effect.fields("begin", kind=effect.kind, call=effect.call, seconds=effect.seconds, **found)
    if effect.nested:
        begin["nested"] = True
    try:
        return (yield ASK, begin)
    except JobError:
        raise
    except BaseException:  # interrupted: it may have been begun, and its function has not run
        yield from _tell(effect.fields("fail"))
        raise


def _settle(effect: Effect, error: str, *, undone: bool) -> Steps:
    """Find out, or decide, what became of an effect of which nobody knows."""
    if effect.probe is not None:
        probe = effect.probe
        return _found(effect, (yield CALL, lambda: probe(effect.key)))
    if effect.unsettled == "retry":
        return {"settle": "retry"}
    if effect.kind == "once":
        raise UnsettledEffectError(
            f"the effect {effect.key!r} was begun before, and nobody knows whether it happened",
            "give it a probe, or unsettled='retry' where the target honours its key",
        )
    if undone:
        raise UndoFailedError(
            f"the effect {effect.key!r} could not be undone: {error or 'no reason'}", "see 'ckptrun events'"
        )
    return {"settle": "undo"}


def _do(effect: Effect, function: Callable[[], Any]) -> Steps:
    try:
        value = yield CALL, function
    except UnsettledEffectError:
        yield from _tell(effect.fields("leave"))
        raise
    except Exception:
        yield from _tell(effect.fields("fail"))
        raise
    except BaseException:  # the process is being ended, or the task cancelled: anything may have happened
        yield from _tell(effect.fields("leave"))
        raise
    kept = keep(value)
    reply = yield from _record(effect, kept)
    if "lost" in kept:
        raise EffectResultError(
            "the effect {!r} is done, but {}".format(effect.key, kept["lost"]),
            "return plain data, and little",
        )
    return _kept(effect, reply["result"])


def _record(effect: Effect, kept: dict[str, Any]) -> Steps:
    deadline = time.monotonic() + END_SECONDS
    while True:
        try:
            return (yield ASK, effect.fields("end", result=kept))
        except UnavailableError as error:
            if time.monotonic() > deadline:
                yield from _tell(effect.fields("leave"))
                raise UnrecordedEffectError(
                    f"the effect {effect.key!r} is done and could not be recorded: {error.message}",
                    "a replay will have to find out whether it happened",
                ) from error
        yield PAUSE, AGAIN_SECONDS


def _tell(fields: dict[str, Any]) -> Steps:
    """Tell ckptrun of something going wrong; if it cannot be told, the effect stays begun, which is true as well."""
    try:
        yield ASK, dict(fields, timeout=LEAVE_SECONDS)
    except JobError:
        pass


def _found(effect: Effect, answer: Any) -> dict[str, Any]:
    if answer is True:
        answer = Done()
    if answer is False:
        return {"settle": "not-done"}
    if isinstance(answer, Done):
        return {"settle": "done", "result": keep(answer.result)}
    raise UsageError(
        f"the probe of the effect {effect.key!r} returned {answer!r}",
        "return True or Done(result) if it happened, False if not",
    )


def keep(value: Any) -> dict[str, Any]:
    """Return what the ledger keeps of a result."""
    import json

    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        return {"lost": f"what it returned is no JSON: {error}"}
    if len(text) > LIMIT:
        return {"lost": f"what it returned has {len(text)} bytes as JSON; {LIMIT} are all that is kept"}
    return {"value": json.loads(text)}


LIMIT = 64 * 1024 - 100
"""Bytes of a result as JSON; the rest of 64 KiB is for what stands around it."""


def _kept(effect: Effect, kept: Any) -> Any:
    if isinstance(kept, dict) and "value" in kept:
        return kept["value"]
    raise EffectResultError(
        "the effect {!r} was done before, but {}".format(
            effect.key, kept.get("lost") if isinstance(kept, dict) else "its result is not known"
        )
    )
