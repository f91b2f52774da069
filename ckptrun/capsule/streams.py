"""The job's standard streams: decided per stream, carried by pipes that CRIU leaves external.

Nothing opened outside the capsule may reach the job, so each stream is a pipe of the supervisor's, or a terminal made
inside the capsule whose relay is connected by pipes. What a checkpoint must know is where each stream stood at the
freeze: output pipes are drained then, input is counted by what the job had read.

Called by the supervisor: `Streams.wire` for every incarnation, `freeze` inside every dump, `rewind` before a restore.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import threading
from typing import TYPE_CHECKING

from ckptrun.capsule.input import Input
from ckptrun.capsule.keys import Keys
from ckptrun.capsule.output import Output
from ckptrun.capsule.redirect import FileMark, Redirect
from ckptrun.capsule.terminal import Terminal
from ckptrun.capsule.wiring import KEYS, SCREEN, SIZES, STDERR, STDIN, STDOUT, Position, Wiring, pipe_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Streams:
    """The streams of one run over all its incarnations.

    Args:
        say: told, in one sentence, what the user should know.
        terminals: whether a terminal is one for the job too; else it is just where bytes come from and go to.
        outlasting: the job may outlast this process, and the next one `take_over` its pipes.
    """

    def __init__(
        self, say: Callable[[str], None], *, terminals: bool = True, outlasting: bool = False
    ) -> None:
        self._mask = sum(1 << fd for fd in (0, 1, 2) if terminals and _is_terminal(fd))
        self._terminal_fd = next((fd for fd in (0, 1, 2) if self._mask & (1 << fd)), None)
        self.terminal = Terminal(0 if self._mask & 1 else None, self._terminal_fd)
        self._outputs: dict[str, Output] = {}
        self._redirects = _redirects(say)
        self._input: Input | None = None
        self._keys: Keys | None = None
        self._sizes_fd = -1
        self._say = say
        self._outlasting = outlasting
        self._hurry = threading.Event()
        self._ending = threading.Lock()
        self.wiring: Wiring | None = None
        self.broke: Callable[[], None] = lambda: None
        """Called, from a thread, when nobody takes one of the outputs any more."""
        self.interrupted: Callable[[], None] = lambda: None
        """Called, from a thread, when Ctrl-C goes to the job's terminal."""
        self.returned: Callable[[], None] = lambda: None
        """Called, from a thread, when this process has our terminal and it is not in raw mode."""

    def wire(self) -> Wiring:
        """Make the pipes of a fresh incarnation, as this process's own streams suggest."""
        mask = self._mask
        names = [name for name, fd in ((STDOUT, 1), (STDERR, 2)) if not mask & (1 << fd) and _is_open(fd)]
        if not mask & 1 and _is_input(0):
            names.append(STDIN)
        if mask:
            names += [KEYS, SCREEN, SIZES]
        return self._make(names, mask)

    @property
    def kept(self) -> dict[str, int]:
        """Reading ends of the output pipes, by stream: what another process needs to `take_over`."""
        return {name: pump.reader for name, pump in self._outputs.items() if pump.reader >= 0}

    @property
    def settled(self) -> bool:
        """Whether another process could go on with `kept` now, and nothing would be lost with this one."""
        if self.wiring is None or self.wiring.mask or STDIN in self.wiring.names:
            return False
        return all(self._outputs[name].settled for name in self.wiring.names)

    def take_over(self, kept: Mapping[str, int]) -> None:
        """Go on with the pipes of an incarnation that another process began; they are this object's from now on."""
        names = {name: fd for name, fd in kept.items() if name in (STDOUT, STDERR)}
        self.wiring = Wiring({}, {name: pipe_name(fd) for name, fd in names.items()}, 0)
        for name, fd in names.items():
            self._output(name).carry(fd)

    def rewire(self, position: Position) -> Wiring:
        """Make the pipes of a restored incarnation, as the checkpoint needs them, at the checkpoint's position."""
        wiring = self._make(list(position.names), position.mask)
        for name, count in position.written.items():
            if name in self._outputs:
                self._outputs[name].count = count
        return wiring

    def rewind_input(self, position: Position) -> None:
        """Make the next incarnation read its input again from where the checkpoint's job had read to."""
        if STDIN in position.names:
            self._the_input().rewind(position.consumed, position.digest)

    def cut_back(self, position: Position, keep: Callable[[str, int], object]) -> int:
        """Take out of the files that outputs are redirected to what the job has written since the checkpoint.

        Args:
            position: the checkpoint's.
            keep: keeps what the file of a path holds past a size.

        Returns:
            How many bytes went.
        """
        ends: dict[Redirect, FileMark] = {}
        for name, mark in position.files.items():
            file = self._output(name).file
            if file is not None and (file not in ends or ends[file].at < mark.at):
                ends[file] = mark
        return sum(file.go_back(mark, keep) for file, mark in ends.items())

    def replaced(self) -> None:
        """Take what descriptors 0, 1 and 2 are now: others than before."""
        for output in self._outputs.values():
            output.broken = False

    def _output(self, name: str) -> Output:
        target = {STDOUT: 1, STDERR: 2}.get(name, self._terminal_fd if self._terminal_fd is not None else 1)
        if name not in self._outputs:
            file = self._redirects.get(target)
            output = Output(target, name, self._say, file, outlasting=self._outlasting)
            output.broke = lambda: self.broke()  # noqa: PLW0108 - whatever it is then
            self._outputs[name] = output
        return self._outputs[name]

    def _make(self, names: list[str], mask: int) -> Wiring:
        ends: dict[str, int] = {}
        try:
            for name in names:
                ends[name] = self._open(name)
        except OSError:
            for fd in ends.values():
                os.close(fd)
            raise
        self.wiring = Wiring(ends, {name: pipe_name(fd) for name, fd in ends.items()}, mask)
        return self.wiring

    def _open(self, name: str) -> int:
        if name in (STDOUT, STDERR, SCREEN):
            return self._output(name).open()
        if name == STDIN:
            return self._the_input().open()
        reader, writer = os.pipe()
        if name == KEYS:
            if self.terminal.source is None:
                os.close(writer)
            else:
                self._keys = Keys(self.terminal, writer, self.interrupted, self.returned)
        else:
            self._sizes_fd = writer
            self.resize()
        return reader

    def _the_input(self) -> Input:
        if self._input is None:
            self._input = Input(0, self._say)
        return self._input

    def wired(self) -> None:
        """Close this process's copies of the job's ends, once the capsule has them."""
        assert self.wiring is not None
        for fd in self.wiring.ends.values():
            os.close(fd)

    def resize(self) -> None:
        """Tell the job's terminal the size of ours."""
        if self._sizes_fd >= 0:
            rows, columns = self.terminal.size()
            with contextlib.suppress(OSError):
                os.write(self._sizes_fd, struct.pack("HH", rows, columns))

    def freeze(self) -> Position:
        """Drain the output pipes and say where the streams stand; call it with the job stopped."""
        assert self.wiring is not None
        written = {name: pump.drain() for name, pump in self._outputs.items() if name in self.wiring.names}
        marks = {name: self._outputs[name].where() for name in written}
        files = {name: mark for name, mark in marks.items() if mark is not None}
        consumed, digest = self._input.position() if self._input else (0, "")
        return Position(self.wiring.names, self.wiring.mask, written, consumed, digest, files)

    def forget_input(self, before: int) -> None:
        """Drop kept input that no checkpoint needs any more: all before offset `before`."""
        if self._input:
            self._input.forget(before)

    def hurry(self) -> None:
        """Wait no longer for whoever does not read our output: the run is being ended."""
        self._hurry.set()

    def incarnation_ended(self) -> None:
        """Carry what is left in the output pipes and close this incarnation's ends; the capsule must be gone.

        May be called again, by any thread; returns when all is done.
        """
        with self._ending:
            for pump in self._outputs.values():
                pump.finish(self._hurry)
            if self._input:
                self._input.disconnect()
            if self._keys:
                self._keys.close()
                self._keys = None
            if self._sizes_fd >= 0:
                os.close(self._sizes_fd)
                self._sizes_fd = -1


def _redirects(say: Callable[[str], None]) -> dict[int, Redirect]:
    """Return the regular files that descriptors 1 and 2 are: one if both are the same."""
    found: dict[tuple[int, int], Redirect] = {}
    redirects = {}
    for fd in (1, 2):
        with contextlib.suppress(OSError):
            status = os.fstat(fd)
            if stat.S_ISREG(status.st_mode):
                key = status.st_dev, status.st_ino
                if key not in found:
                    found[key] = Redirect(fd, say)
                redirects[fd] = found[key]
    return redirects


def _is_terminal(fd: int) -> bool:
    try:
        return os.isatty(fd)
    except OSError:
        return False


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _is_input(fd: int) -> bool:
    """Whether there is anything to read: not closed, not /dev/null (the job opens its own)."""
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return not (stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3))
