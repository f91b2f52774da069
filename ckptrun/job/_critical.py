"""Critical sections: no checkpoint is begun inside one."""

from __future__ import annotations

import contextvars
import functools
import os
import sys
import threading

from ckptrun.job import _channel, _keys, _page, _safepoint
from ckptrun.job._errors import JobError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType, TracebackType
    from typing import Any, Callable, TypeVar

    Function = TypeVar("Function", bound=Callable[..., Any])

SECONDS = 60.0
_RUNS_LATER = 0x20 | 0x80 | 0x200
"""Flags of the code of generators, coroutines and asynchronous generators."""


class _Mine(threading.local):
    """The section that a thread is in: how deep, its name, and in which process and incarnation it was entered."""

    depth = 0
    name = ""
    pid = 0
    life = _page.NOTHING


_mine = _Mine()


class _Around:
    """A section that is open, to those that it has called in other threads; they have a copy of its context."""

    def __init__(self) -> None:
        self.open = True
        self.pid = os.getpid()
        self.life = _mine.life


_around: contextvars.ContextVar[_Around | None] = contextvars.ContextVar("ckptrun_critical", default=None)


class critical:  # noqa: N801 - used like the function it stands for
    """A section that no checkpoint falls into, as context manager or decorator.

    A checkpoint that is under way when it begins ends first; one that is wanted meanwhile waits for its end. A
    section inside another one of the same thread is part of it. Where sections of several threads or processes
    overlap for so long that a checkpoint waits for 10 s, those who come wait up to 2 s for those inside. Without
    ckptrun nothing happens.

    Args:
        seconds: how long it may hold checkpoints back; after that they are taken all the same, and ckptrun says so.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        if not seconds > 0:
            raise UsageError(f"critical(seconds={seconds!r}) is no time in seconds")
        self._seconds = float(seconds)
        self._where = ""

    def __enter__(self) -> None:
        """Begin; returns when no checkpoint is under way."""
        if _mine.pid != os.getpid():
            _mine.depth, _mine.pid = 0, os.getpid()
        if not _mine.depth and _channel.under_ckptrun():
            self._where = self._where or _line(sys._getframe(1))  # noqa: SLF001
            while not self._entered():
                pass
            _around.set(_Around())
        _mine.depth += 1

    def _entered(self) -> bool:
        """Begin the section; whether it begins in the life whose callbacks have run.

        It may have waited for a checkpoint, and that checkpoint be what the job goes on from. Then `on_restore` must
        be told before the section's body finds what is not open any more, and not inside of it.
        """
        _safepoint.safe_point()
        before = _page.read()
        _mine.name = f"{os.getpid()}-{os.urandom(6).hex()}"
        more = {"nested": True} if nested() else {}
        _channel.request(
            "critical",
            action="enter",
            section=_mine.name,
            seconds=self._seconds,
            where=self._where,
            **more,
        )
        _mine.life = _page.read()
        if _mine.life.same_life(before):
            return True
        _channel.request("critical", action="leave", section=_mine.name)
        return False

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End; never raises what only ckptrun would care for."""
        _mine.depth -= 1
        if _mine.depth or not _channel.under_ckptrun() or _mine.pid != os.getpid():
            return
        around = _around.get()
        if around is not None:
            around.open = False
        if _page.read().same_life(_mine.life):  # sections end with their incarnation
            try:
                _channel.request("critical", action="leave", section=_mine.name)
            except JobError:
                pass
        if kind is None:
            _safepoint.safe_point()

    def __call__(self, function: Function) -> Function:
        """Have a function run inside such a section.

        Raises:
            UsageError: it is a coroutine function or a generator, whose body runs after its call.
        """
        code = getattr(function, "__code__", None)
        if code is not None and code.co_flags & _RUNS_LATER:
            raise UsageError(f"critical() cannot decorate {function.__name__!r}, whose body runs later")

        where = "{}.{}".format(
            getattr(function, "__module__", ""), getattr(function, "__qualname__", "a function")
        )

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            section = critical(self._seconds)
            section._where = where
            with section:
                return function(*args, **kwargs)

        return wrapped  # type: ignore[return-value]


def inside_critical() -> bool:
    """Return whether the calling thread is inside a section that ckptrun knows of."""
    return _mine.depth > 0 and _mine.pid == os.getpid() and _page.read().same_life(_mine.life)


def around_critical() -> bool:
    """Return whether a section is open in this thread, or in one that has called this one with its context."""
    around = _around.get()
    return (
        around is not None
        and around.open
        and around.pid == os.getpid()
        and _page.read().same_life(around.life)
    )


def nested() -> bool:
    """Return whether the calling thread is inside a section or an effect: what it enters now must not wait for that."""
    around, pid = _around.get(), os.getpid()
    called = around is not None and around.open and around.pid == pid
    return _keys.inside.get() is not None or called or (_mine.depth > 0 and _mine.pid == pid)


def _line(frame: FrameType) -> str:
    """Return where a section begins, for people."""
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"  # noqa: PTH119
