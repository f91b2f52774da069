"""A job whose parts are signals and timers: blocked, queued, counted."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import threading
import time
from typing import TYPE_CHECKING

from parts import LIBC, checked, main, public, until

if TYPE_CHECKING:
    from collections.abc import Iterator

FAR = 100_000


def wait_for(*signals: int) -> tuple[int, int, int]:
    """Take one pending signal; return its number, code and value."""
    numbers = ctypes.create_string_buffer(128)
    LIBC.sigemptyset(numbers)
    for number in signals:
        LIBC.sigaddset(numbers, number)
    info = ctypes.create_string_buffer(128)
    timeout = (ctypes.c_long * 2)(0, 0)
    checked(LIBC.sigtimedwait(numbers, info, timeout))
    number, _, code = struct.unpack_from("iii", info)
    return number, code, struct.unpack_from("i", info, 24)[0]


def queue(number: int, value: int) -> None:
    checked(LIBC.sigqueue(os.getpid(), number, ctypes.c_void_p(value)))


def part_blocked_and_queued() -> Iterator[object]:
    real = [signal.SIGRTMIN + 1, signal.SIGRTMIN + 2]
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGUSR2, *real])
    os.kill(os.getpid(), signal.SIGUSR1)
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)
    for value in (11, 12, 13):
        queue(real[0], value)
    queue(real[1], 21)
    yield
    pending = {signal.SIGUSR1, signal.SIGUSR2, *real} & signal.sigpending()
    taken = [wait_for(real[0]) for _ in range(3)]
    taken += [wait_for(number) for number in (real[1], signal.SIGUSR1, signal.SIGUSR2)]
    yield (
        sorted(pending),
        [(n - signal.SIGRTMIN, code, value if code == -1 else 0) for n, code, value in taken],
    )


def part_blocked_in_a_thread() -> Iterator[object]:
    ready, go, found = threading.Event(), threading.Event(), []

    def work() -> None:
        signal.pthread_kill(threading.get_ident(), signal.SIGWINCH)
        ready.set()
        go.wait()
        found.append(signal.SIGWINCH in signal.sigpending())

    before = signal.pthread_sigmask(
        signal.SIG_SETMASK, signal.valid_signals()
    )  # the thread takes nobody's signals
    thread = threading.Thread(target=work)
    thread.start()
    ready.wait()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    yield
    go.set()
    thread.join()
    yield found, signal.SIGWINCH in signal.sigpending()


def part_dispositions() -> Iterator[object]:
    seen: list[int] = []
    signal.signal(signal.SIGTTIN, lambda number, _: seen.append(number))
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    signal.siginterrupt(signal.SIGTTIN, False)
    yield
    signal.raise_signal(signal.SIGTTIN)
    yield seen, signal.getsignal(signal.SIGTTOU), signal.getsignal(signal.SIGPIPE)


def part_interval_timers() -> Iterator[object]:
    ticks = dict.fromkeys((signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF), 0)

    def tick(number: int, _: object) -> None:
        ticks[signal.Signals(number)] += 1

    for number in ticks:
        signal.signal(number, tick)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.01, 0.01)
    signal.setitimer(signal.ITIMER_PROF, 0.01, 0.01)
    yield
    before = dict(ticks)
    until(lambda: sum(range(20000)) and all(ticks[number] > before[number] + 2 for number in ticks))
    timers = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
    intervals = [signal.setitimer(timer, 0)[1] for timer in timers]
    yield intervals


def part_posix_timers() -> Iterator[object]:
    number = signal.SIGRTMIN + 5
    signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    timers = []
    for value, first in ((71, 0.001), (72, FAR)):
        event = struct.pack("qii48x", value, number, 0)  # SIGEV_SIGNAL
        timer = ctypes.c_void_p()
        checked(LIBC.timer_create(time.CLOCK_MONOTONIC, event, ctypes.byref(timer)))
        nanoseconds = int(first * 1_000_000_000)
        when = (ctypes.c_long * 4)(0, 1_000_000, *divmod(nanoseconds, 1_000_000_000))
        checked(LIBC.timer_settime(timer, 0, when, None))
        timers.append(timer)
    until(lambda: number in signal.sigpending())
    yield
    first = wait_for(number)
    until(lambda: number in signal.sigpending(), "the timer's next signal")
    second = wait_for(number)
    left = (ctypes.c_long * 4)()
    checked(LIBC.timer_gettime(timers[1], left))
    yield first[1:], second[1:], left[1], FAR - 1000 < left[2] <= FAR


def part_signalfd() -> Iterator[object]:
    numbers = [signal.SIGURG, signal.SIGRTMIN + 7]
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    mask = ctypes.create_string_buffer(128)
    LIBC.sigemptyset(mask)
    for number in numbers:
        LIBC.sigaddset(mask, number)
    fd = checked(LIBC.signalfd(-1, mask, 0o4000))
    signal.raise_signal(signal.SIGURG)
    yield
    first = struct.unpack_from("I", os.read(fd, 128))[0]
    queue(numbers[1], 5)
    data = os.read(fd, 128)
    yield first, struct.unpack_from("I", data)[0] - signal.SIGRTMIN, struct.unpack_from("i", data, 44)[0]


if __name__ == "__main__":
    main(public(globals()))
