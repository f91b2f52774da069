"""A job on its own terminal: it holds /dev/tty and is dumped and restored; keys, signals and sizes go through."""

from __future__ import annotations

import contextlib
import os
import struct
import time
from typing import TYPE_CHECKING

import pytest
from live import COUNTER, PYTHON, Job, Lines, reader, wait_until

from ckptrun.capsule.capsule import ROOT_PID
from ckptrun.core.model import BytesSource
from ckptrun.criu import dumping, restoring

if TYPE_CHECKING:
    from collections.abc import Mapping

    from live import Machine

    from ckptrun.core.model import Source

ON_TERMINAL = """
import os, signal, sys, time, select
tty = os.open("/dev/tty", os.O_RDWR)
def say(*words): os.write(tty, (" ".join(map(str, words)) + "\\n").encode())
signal.signal(signal.SIGINT, lambda *a: say("interrupted"))
signal.signal(signal.SIGWINCH, lambda *a: say("size", *os.get_terminal_size(tty)))
say("size", *os.get_terminal_size(tty))
say("foreground", os.tcgetpgrp(tty) == os.getpgrp(), os.ttyname(0) == os.ttyname(1))
n = 0
while True:
    n += 1
    if n % 10 == 0: say("tick", n, 0)
    try:
        if select.select([0], [], [], 0.01)[0]: say("line", sys.stdin.readline().strip())
    except InterruptedError: pass
"""


class Screen(Job):
    """A job whose root has keys, screen and sizes as pipes."""

    def pipes(self) -> dict[int, int]:
        keys, self.keys = os.pipe()
        screen, writer = os.pipe()
        sizes, self.sizes = os.pipe()
        self.out = Lines(screen)
        self.names = [f"pipe:[{os.fstat(fd).st_ino}]" for fd in (keys, writer, sizes)]
        return {3: keys, 4: writer, 5: sizes}

    def begin(self, command: list[str]) -> None:
        fds = self.pipes()
        self.start(command, mask=7, fds=fds)
        screen = self.out
        for fd in fds.values():
            os.close(fd)
        self.out = screen

    def _output(self) -> int:
        screen = getattr(self, "out", None)
        writer = super()._output()
        if screen:
            self.out = screen
        return writer

    def again(self, images: Mapping[str, Source], was: Screen) -> None:
        fds = self.pipes()
        inherit = dict(zip(was.names, fds.values(), strict=True))
        request = restoring.RestoreRequest(reader().for_restore(images), reader().last_pid(images), inherit)
        restoring.restore(self.place(), request, self.spawn_criu(), 30.0)
        for fd in fds.values():
            os.close(fd)

    def capture(self, machine: Machine) -> dict[str, Source]:
        slot = machine.slot()
        request = dumping.DumpRequest(ROOT_PID, slot, self.names, 20.0, lambda _: None)
        images = dumping.dump(self.place(), request, self.spawn_criu()).images
        return {name: BytesSource(b"".join(map(bytes, e.pieces()))) for name, e in images.items()}


def screen(machine: Machine) -> Screen:
    box = Screen(machine.folder)
    machine.boxes.append(box)
    return box


def on_terminal(machine: Machine) -> Screen:
    box = screen(machine)
    box.begin([PYTHON, "-c", ON_TERMINAL])
    box.out.find("tick")
    return box


def use(box: Screen, columns: int) -> None:
    """Try everything a terminal is for."""
    os.write(box.keys, b"hello\n")
    box.out.find("line hello")
    os.write(box.keys, b"\x03")
    box.out.find("interrupted")
    os.write(box.sizes, struct.pack("HH", 33, columns))
    box.out.find(f"size {columns} 33")
    stops = len(box.stops)
    os.write(box.keys, b"\x1a")
    wait_until(lambda: len(box.stops) > stops, what="Ctrl-Z stops the job, and the root says so")

    def quiet() -> bool:
        seen = len(box.out.all)
        time.sleep(0.25)
        return len(box.out.all) == seen

    wait_until(quiet, what="what the relay still had is out, and nothing follows")
    box.signal(18)
    box.out.goes_on()


@pytest.mark.slow
def test_a_job_that_holds_dev_tty_is_restored_with_a_terminal_that_works(machine: Machine):
    box = on_terminal(machine)
    box.out.find("size 80 24")
    box.out.find("foreground True True")
    use(box, 101)
    images = box.capture(machine)
    box.out.goes_on()
    number = max(int(line.split()[1]) for line in box.out.all if line.startswith("tick"))
    box.capsule.destroy()
    new = screen(machine)
    new.again(images, box)
    new.out.goes_on()
    assert 0 < int(new.out.find(r"tick (\d+)")[1]) <= number + 30
    use(new, 102)
    again = new.capture(machine)
    new.capsule.destroy()
    third = screen(machine)
    third.again(again, new)
    use(third, 103)


def test_a_stopped_job_is_dumped_and_restored_stopped_and_goes_on_when_told(machine: Machine):
    box = on_terminal(machine)
    os.write(box.keys, b"\x1a")
    wait_until(lambda: box.stops)
    images = box.capture(machine)
    box.capsule.destroy()
    new = screen(machine)
    new.again(images, box)
    time.sleep(0.3)
    assert new.out.all == []
    new.signal(18)
    new.out.find("tick")


def test_all_output_comes_through_when_the_job_ends_right_after_it(machine: Machine):
    box = screen(machine)
    box.begin(["/bin/sh", "-c", "i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done; exit 9"])
    assert box.exit_of(ROOT_PID) == 9
    wait_until(box.out.ended.is_set)
    assert [line for line in box.out.all if line] == [f"line {n}" for n in range(5000)]


@pytest.mark.slow
def test_a_background_process_that_keeps_the_terminal_delays_the_end_by_two_seconds_at_most(machine: Machine):
    box = screen(machine)
    started = time.monotonic()
    box.begin(["/bin/sh", "-c", "trap '' HUP; sleep 100 & exit 4"])
    assert box.exit_of(ROOT_PID) == 4
    assert time.monotonic() - started < 50, "not until the process that sleeps has ended"


def test_output_comes_through_although_nobody_reads_what_was_pasted(machine: Machine):
    box = screen(machine)
    box.begin([PYTHON, "-c", "import tty\ntty.setcbreak(0)\n" + COUNTER])
    box.out.find("tick 3")
    os.set_blocking(box.keys, False)
    pasted = 0

    def paste() -> bool:
        nonlocal pasted
        with contextlib.suppress(BlockingIOError):
            while True:
                pasted += os.write(box.keys, b"x" * 4096)
        return pasted > 65_536

    wait_until(paste, what="the pipe is full, and the relay has taken what the terminal takes")
    box.out.goes_on()
    time.sleep(0.2)
    box.out.goes_on()
