"""Key presses: a thread passes them from our terminal to the relay of the job's.

Used by `streams` only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptrun.capsule.terminal import Terminal

_CHUNK = 65536
_BACKGROUND_MILLISECONDS = 200
"""How often a run in the background looks whether it was brought to the foreground."""


class Keys:
    r"""Key presses from our terminal to the relay; never replayed.

    In the background nothing is read: the keys are the shell's, and reading would stop this process.

    Args:
        terminal: whose `source` is read.
        writer: the relay's pipe.
        interrupted: told of Ctrl-C and of the quit key.
        returned: told that the terminal is ours and not in raw mode: a shell's ``fg`` says nothing to a
            process that was not stopped.
    """

    def __init__(
        self,
        terminal: Terminal,
        writer: int,
        interrupted: Callable[[], None],
        returned: Callable[[], None],
    ) -> None:
        self._terminal = terminal
        self._writer = writer
        self._interrupted = interrupted
        self._returned = returned
        self._stop = os.pipe()
        self._thread = threading.Thread(target=self._run, name="keys", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop reading the terminal."""
        os.write(self._stop[1], b"x")
        self._thread.join()
        for fd in (*self._stop, self._writer):
            os.close(fd)

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTIN})  # a read that comes too late fails instead
        with contextlib.suppress(OSError):
            while (data := self._next()) is not None:
                if b"\x03" in data or b"\x1c" in data:
                    self._interrupted()
                if data:
                    os.write(self._writer, data)

    def _next(self) -> bytes | None:
        """Return keys, perhaps none, once there is something to do; None at the end."""
        terminal = self._terminal
        assert terminal.source is not None
        mine = terminal.in_foreground()
        if mine and not terminal.raw:
            self._returned()
        poll = select.poll()
        poll.register(self._stop[0], select.POLLIN)
        if mine:
            poll.register(terminal.source, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(None if mine and terminal.raw else _BACKGROUND_MILLISECONDS)]
        if self._stop[0] in ready:
            return None
        if not ready:
            return b""
        try:
            return os.read(terminal.source, _CHUNK) or None
        except OSError as error:
            if error.errno == errno.EIO and not terminal.in_foreground():
                return b""
            raise
