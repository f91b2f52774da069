"""A user's terminal with a shell in it: job control, Ctrl-C, Ctrl-Z, a window size."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import termios
import time
from typing import TYPE_CHECKING

import psutil
from support.processes import PATIENCE, POLL_SECONDS, Collector, die_with_parent

if TYPE_CHECKING:
    from support.run import Lab

CTRL_C, CTRL_Z, CTRL_BACKSLASH, CTRL_D = "\x03", "\x1a", "\x1c", "\x04"


class Terminal:
    """An interactive bash on a terminal of its own."""

    def __init__(self, lab: Lab, rows: int = 24, columns: int = 80) -> None:
        self.lab = lab
        self._master, slave = pty.openpty()
        self.resize(rows, columns)
        environment = {
            **lab.env,
            "PS1": "$ ",
            "TERM": "xterm",
            "HISTFILE": "",
            "BASH_SILENCE_DEPRECATION_WARNING": "1",
        }
        self.process = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "--noediting", "-i"],
            cwd=lab.work,
            env=environment,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            preexec_fn=_lead,  # noqa: PLW1509 - three system calls
        )
        self.path = os.ttyname(slave)
        os.close(slave)
        self._screen = Collector(self._master)
        self._seen = 0

    def resize(self, rows: int, columns: int) -> None:
        """Change the window's size."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._master, text.encode())

    def line(self, text: str) -> None:
        """Type a line."""
        self.type(text + "\n")

    @property
    def screen(self) -> str:
        """Everything that was ever shown."""
        return bytes(self._screen.data).decode("utf-8", "replace")

    def shows(self, text: str, timeout: float = PATIENCE) -> str:
        """Wait until `text` appears behind what earlier calls waited for; return what came up to its end."""
        deadline = time.monotonic() + timeout
        while (at := self.screen.find(text, self._seen)) < 0:
            assert time.monotonic() < deadline, (
                f"no {text!r} within {timeout:g} s on:\n{self.screen[self._seen :]}"
            )
            time.sleep(POLL_SECONDS)
        start, self._seen = self._seen, at + len(text)
        return self.screen[start : self._seen]

    def close(self) -> None:
        """Hang up."""
        for process in self.lab.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.kill()
        self.process.wait(PATIENCE)
        os.close(self._master)


def _lead() -> None:
    die_with_parent()
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
