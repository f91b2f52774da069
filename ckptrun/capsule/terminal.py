"""Our own terminal while the job has one of its own inside the capsule: raw mode, size, suspending."""

from __future__ import annotations

import contextlib
import os
import termios
import tty


class Terminal:
    """The terminal ckptrun was started from, if any.

    Args:
        source: descriptor keys are read from; None when standard input is no terminal.
        any_fd: a descriptor that is the terminal; None when there is none.
    """

    def __init__(self, source: int | None, any_fd: int | None) -> None:
        self.source = source
        self._fd = any_fd
        self._saved: list[object] | None = None

    def size(self) -> tuple[int, int]:
        """Return rows and columns; 24 and 80 where there is no terminal."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                size = os.get_terminal_size(self._fd)
                return size.lines, size.columns
        return 24, 80

    @property
    def raw(self) -> bool:
        """Whether lines need a carriage return now."""
        return self._saved is not None

    def in_foreground(self) -> bool:
        """Tell whether the terminal's keys are ours."""
        if self.source is None:
            return False
        with contextlib.suppress(OSError):
            return os.tcgetpgrp(self.source) == os.getpgrp()
        return False

    def enter(self) -> None:
        """Pass every key through: the job's own terminal interprets them. Only in the foreground."""
        if self.source is None or self._saved is not None:
            return
        with contextlib.suppress(termios.error, OSError):
            if self.in_foreground():
                self._saved = list(termios.tcgetattr(self.source))
                tty.setraw(self.source, termios.TCSADRAIN)

    def leave(self) -> None:
        """Give the terminal back as it was."""
        if self.source is not None and self._saved is not None:
            with contextlib.suppress(termios.error, OSError):
                termios.tcsetattr(self.source, termios.TCSADRAIN, self._saved)  # type: ignore[arg-type]
            self._saved = None
