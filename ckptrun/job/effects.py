"""What a job does to the outside world, kept in step with its memory: `once`, `compensable`, `deferred`, `key`.

Memory goes back on a restore, the world does not. What is done through these calls is recorded, and reconciled when
that happens. docs/effects.md teaches it and says what is guaranteed. Without ckptrun the functions are simply run.
"""

from __future__ import annotations

import functools
from typing import overload

from ckptrun.job import _channel, _naming, _worker
from ckptrun.job._critical import nested
from ckptrun.job._driving import ask, check_function, run, run_async
from ckptrun.job._effect_steps import (
    Done,
    Effect,
    EffectResultError,
    LedgerUnavailableError,
    UndoFailedError,
    UnrecordedEffectError,
    UnsettledEffectError,
    keep,
)
from ckptrun.job._errors import UsageError
from ckptrun.job._keys import key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterable, Mapping, TypeVar, Union

    Result = TypeVar("Result")
    Function = TypeVar("Function", bound=Callable[..., Any])
    Key = Union[str, Callable[..., str]]
    Probe = Callable[[str], Any]

__all__ = [
    "Done",
    "EffectResultError",
    "LedgerUnavailableError",
    "UndoFailedError",
    "UnrecordedEffectError",
    "UnsettledEffectError",
    "compensable",
    "deferred",
    "key",
    "once",
    "sender",
]

_KEY_BYTES = 512
SECONDS = 60.0
"""How long an effect may hold checkpoints back, unless told."""
_senders: dict[str, str] = {}


@overload
def once(
    key: str,
    fn: Callable[[], Result],
    *,
    probe: Probe | None = None,
    unsettled: str = "raise",
    seconds: float = SECONDS,
) -> Result: ...
@overload
def once(
    key: Key,
    fn: None = None,
    *,
    probe: Probe | None = None,
    unsettled: str = "raise",
    seconds: float = SECONDS,
) -> Callable[[Function], Function]: ...
def once(
    key: Any,
    fn: Any = None,
    *,
    probe: Probe | None = None,
    unsettled: str = "raise",
    seconds: float = SECONDS,
) -> Any:
    """Run a function at most once, across restores; a replay gets the recorded result.

    What it returns passes through JSON, the first time too. A function that raises has not done it: it may be begun
    again. One that cannot know raises `UnsettledEffectError`. Give a coroutine function, and await the call.

    Without ``fn`` it is a decorator, and ``key`` a template of the call's arguments: ``@once("charge-{order}")``.

    Args:
        key: names the effect, at most 512 bytes, unique in the life of the job.
        fn: the function, without arguments.
        probe: called with the key after a crash in the middle; returns True or `Done` if it happened, False if not.
        unsettled: without a probe: ``raise``, or ``retry`` where the target honours the key.
        seconds: how long it may hold checkpoints back.

    Raises:
        UnsettledEffectError: it was begun before a crash, and there is no probe.
        LedgerUnavailableError: nothing was done.
        UnrecordedEffectError: it was done, and this could not be recorded.
        EffectResultError: it was done, and what it returned is no JSON.
    """
    if fn is None:
        return lambda function: _decorated(
            function,
            key,
            lambda name, _args, _kwargs: Effect("once", name, None, probe, unsettled, seconds),
        )
    return run(Effect("once", _checked(key), None, probe, unsettled, seconds), fn)


@overload
def compensable(
    key: str,
    do: Callable[[], Result],
    undo: str | Callable[..., Any],
    *,
    args: Iterable[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    probe: Probe | None = None,
    seconds: float = SECONDS,
) -> Result: ...
@overload
def compensable(
    key: Key,
    do: None = None,
    undo: str | Callable[..., Any] | None = None,
    *,
    args: Iterable[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    probe: Probe | None = None,
    seconds: float = SECONDS,
) -> Callable[[Function], Function]: ...
def compensable(
    key: Any,
    do: Any = None,
    undo: Any = None,
    *,
    args: Iterable[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    probe: Probe | None = None,
    seconds: float = SECONDS,
) -> Any:
    """Run a function whose effect is undone if the job, gone back to before it, does not come to it again.

    The undo runs in a process of its own, with the job's interpreter, environment and folder, after the next
    checkpoint is committed or the job has ended well; it may run more than once, and before the effect has happened.
    Parameters of it named ``key`` and ``result`` are filled in. As a decorator, the undo gets the call's arguments.

    Args:
        key: see `once`.
        do: the function, without arguments.
        undo: a function at the top level of a module, or ``module:function``.
        args: its arguments, JSON: they are kept before ``do`` runs.
        kwargs: more of them.
        probe: see `once`; without one, an effect that may have happened is undone and done again.
        seconds: see `once`.

    Raises:
        UndoFailedError: it must be undone first, and that fails.
        LedgerUnavailableError, UnrecordedEffectError, EffectResultError: see `once`.
    """
    if undo is None:
        raise UsageError("compensable() needs an undo", "use once() for what cannot be undone")
    name = _naming.name_of(undo)

    def effect(key: str, given: Any, named: Any) -> Effect:
        call = _call(name, given if args is None else args, named if kwargs is None else kwargs)
        return Effect("compensable", key, call, probe, "raise", seconds)

    if do is None:
        return lambda function: _decorated(function, key, effect)
    return run(effect(_checked(key), (), {}), do)


def deferred(key: str, payload: Any, send: str | Callable[..., Any] | None = None) -> bool:
    """Have something sent once a checkpoint that covers this call is committed, or the job has ended well.

    Nothing is sent of a history that did not last. What is sent may be sent more than once, if ckptrun dies over it:
    the sender gets the key in a parameter of that name. Without ckptrun the sender is called at once.

    Without a sender it is a message for the hooks of ckptrun's run that take messages (docs/effects.md).

    Args:
        key: see `once`; the same key is queued once.
        payload: JSON, at most 64 KiB; the sender's first argument.
        send: a name given to `sender`, a function at the top level of a module, or ``module:function``; None: hooks.

    Returns:
        Whether it is still to be sent; False: it was, before a restore.

    Raises:
        LedgerUnavailableError: it was not queued.
        UsageError: the payload is no JSON or too large, there is no such sender, or there is none and no ckptrun.
    """
    _checked(key)
    name = None
    if send is not None:
        name = (_senders.get(send) if isinstance(send, str) else None) or _naming.name_of(send)
    kept = keep(payload)
    if "lost" in kept:
        raise UsageError("the payload of {!r} cannot be kept: {}".format(key, kept["lost"]))
    if not _channel.under_ckptrun():
        if name is None:
            raise UsageError(
                f"the message {key!r} has no sender, and there is no ckptrun here whose hooks would take it",
                "give it a sender, or run this under ckptrun",
            )
        _worker.call(_worker.find_here(name), (kept["value"],), {}, {"key": key, "result": None})
        return False
    call = _call(name, (kept["value"],), {}) if name else {"function": None, "args": [kept["value"]]}
    fields = {"op": "defer", "key": key, "call": call}
    return bool(ask(dict(fields, nested=True) if nested() else fields)["queued"])


def sender(name: str) -> Callable[[Function], Function]:
    """Name a function that sends what is `deferred`: ``@sender("mail")``, then ``deferred(key, text, "mail")``."""

    def register(function: Function) -> Function:
        _senders[name] = _naming.name_of(function)
        return function

    return register


def _decorated(function: Function, key: Any, effect: Callable[[str, Any, Any], Effect]) -> Function:
    import inspect

    check_function(function)
    signature = inspect.signature(function)

    def name(args: Any, kwargs: Any) -> str:
        if callable(key):
            return _checked(key(*args, **kwargs))
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return _checked(key.format(*args, **bound.arguments))

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            bound = functools.partial(function, *args, **kwargs)
            return await run_async(effect(name(args, kwargs), args, kwargs), bound)

    else:

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return run(effect(name(args, kwargs), args, kwargs), functools.partial(function, *args, **kwargs))

    wrapped.__ckptrun_plain__ = function  # type: ignore[attr-defined]
    return wrapped  # type: ignore[return-value]


def _call(function: str | None, args: Any, kwargs: Any) -> dict[str, Any]:
    """Return what is recorded of an undo or a sender: all that another process needs to run it."""
    import json

    call = {"function": function, "args": list(args), "kwargs": dict(kwargs), "place": _naming.place()}
    try:
        return dict(json.loads(json.dumps(call)))
    except (TypeError, ValueError) as error:
        raise UsageError(f"the arguments of {function} are no JSON: {error}", "pass plain data") from None


def _checked(key: Any) -> str:
    try:
        if isinstance(key, str) and "\0" not in key and 0 < len(key.encode()) <= _KEY_BYTES:
            return key
    except UnicodeEncodeError:  # as the name of a file may be; no ledger keeps it
        pass
    raise UsageError(f"{key!r:.80} is no key of an effect", "a key is a string of 1 to 512 bytes of UTF-8")
