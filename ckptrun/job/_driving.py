"""Drives the course of an effect: in the calling thread, or in the event loop that runs."""

from __future__ import annotations

import time

from ckptrun.job import _channel, _critical, _keys
from ckptrun.job._effect_steps import ASK, CALL, Effect, EffectResultError, course, keep
from ckptrun.job._errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Awaitable, Callable

    from ckptrun.job._effect_steps import Steps


def run(effect: Effect, function: Callable[[], Any]) -> Any:
    """Do an effect and return its result; of a coroutine function, what is to be awaited for it."""
    import inspect

    if inspect.iscoroutinefunction(function):
        return run_async(effect, function)
    check_function(function)
    effect.nested = _critical.nested()
    before = _keys.inside.set((effect.key, {}))
    try:
        return _drive(_course(effect, function))
    finally:
        _keys.inside.reset(before)


def check_function(function: Any) -> None:
    """See that calling it does what it is to do.

    Raises:
        UsageError: it is no function, or a generator, whose body would run after the effect has been recorded.
    """
    import inspect

    if not callable(function):
        raise UsageError(f"{function!r} is no function", "write once(key, lambda: …)")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise UsageError(f"{function!r} is a generator, whose body runs later", "give a plain function")


def _course(effect: Effect, function: Callable[[], Any]) -> Steps:
    return course(effect, function) if _channel.under_ckptrun() else _without(function)


def _without(function: Callable[[], Any]) -> Steps:
    """Simply run it, with the same result as under ckptrun."""
    kept = keep((yield CALL, function))
    if "lost" in kept:
        raise EffectResultError(
            "the effect is done, but {}".format(kept["lost"]), "return plain data, and little"
        )
    return kept["value"]


def _drive(steps: Steps) -> Any:
    """Do the steps in this thread."""
    try:
        what, given = next(steps)
        while True:
            try:
                got = ask(given) if what == ASK else _called(given) if what == CALL else _pause(given)
            except BaseException as error:  # noqa: BLE001, PERF203
                what, given = steps.throw(error)
            else:
                what, given = steps.send(got)
    except StopIteration as end:
        return end.value


async def run_async(effect: Effect, function: Callable[[], Awaitable[Any]]) -> Any:
    """Do an effect in the running event loop, which goes on meanwhile."""
    import asyncio

    steps = _course(effect, function)
    loop = asyncio.get_running_loop()
    effect.nested = _critical.nested()
    before = _keys.inside.set((effect.key, {}))
    try:
        what, given = next(steps)
        while True:
            try:
                if what == ASK:
                    got = await _whole(loop.run_in_executor(None, ask, given))
                elif what == CALL:
                    got = given()
                    if hasattr(got, "__await__"):
                        got = await got
                else:
                    await asyncio.sleep(given)
                    got = None
            except BaseException as error:  # noqa: BLE001, PERF203
                what, given = steps.throw(error)
            else:
                what, given = steps.send(got)
    except StopIteration as end:
        return end.value
    finally:
        _keys.inside.reset(before)


def ask(fields: dict[str, Any]) -> dict[str, Any]:
    """Ask ckptrun about an effect."""
    fields = dict(fields)
    return _channel.request("effect", timeout=fields.pop("timeout", None), **fields)


async def _whole(asking: Any) -> Any:
    """Wait for a request to its end, also when the task is cancelled meanwhile: what it began must be known."""
    import asyncio

    try:
        return await asyncio.shield(asking)
    except asyncio.CancelledError:
        await asyncio.wait({asking})
        raise


def _pause(seconds: float) -> Any:
    time.sleep(seconds)


def _called(function: Callable[[], Any]) -> Any:
    value = function()
    if hasattr(value, "__await__"):
        if hasattr(value, "close"):
            value.close()  # it has not begun, and never will
        raise UsageError(
            "a function of an effect returned an awaitable", "give the coroutine function itself"
        )
    return value
