"""A job whose parts are timers on clocks of its own processes and threads, and robust mutexes."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import struct
import threading
import time
from typing import TYPE_CHECKING

from parts import LIBC, checked, ended, forked, main, public, until

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMER_CREATE, TIMER_SETTIME, TIMER_GETTIME = (
    (222, 223, 224) if os.uname().machine == "x86_64" else (107, 110, 108)
)
SIGEV_SIGNAL, SIGEV_THREAD_ID = 0, 4
VALUE = 0x1234


def timer(clock: int, signum: int, notify: int, thread: int = 0) -> int:
    event = struct.pack("Qiii44x", VALUE, signum, notify, thread)
    number = ctypes.c_int()
    checked(LIBC.syscall(TIMER_CREATE, clock, event, ctypes.byref(number)))
    return number.value


def settime(number: int, first: float, every: float = 0.0) -> None:
    spec = struct.pack(
        "qqqq", *(part for value in (every, first) for part in divmod(int(value * 1e9), 10**9))
    )
    checked(LIBC.syscall(TIMER_SETTIME, number, 0, spec, None))


def left(number: int) -> float:
    spec = ctypes.create_string_buffer(32)
    checked(LIBC.syscall(TIMER_GETTIME, number, spec))
    seconds, nanoseconds = struct.unpack("qqqq", spec.raw)[2:]
    return float(seconds + nanoseconds / 1e9)


def part_timer_of_a_thread() -> Iterator[object]:
    """SIGEV_THREAD_ID: the signal goes to one thread, which waits for it."""
    tids: list[int] = []
    got: list[tuple[int, int, bool]] = []

    def work() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMIN + 3})
        tids.append(threading.get_native_id())
        info = signal.sigwaitinfo({signal.SIGRTMIN + 3})
        got.append((info.si_signo, info.si_code, threading.get_native_id() == tids[0]))

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMIN + 3})
    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: tids)
    number = timer(time.CLOCK_MONOTONIC, signal.SIGRTMIN + 3, SIGEV_THREAD_ID, tids[0])
    settime(number, 50_000)
    yield
    far = 49_000 < left(number) < 50_000
    settime(number, 0.001)
    thread.join()
    yield far, got


def part_timers_of_processor_time() -> Iterator[object]:
    """A timer of the process's processor time fires after so much work, and no sooner."""
    fired: list[int] = []
    signal.signal(signal.SIGRTMIN + 4, lambda number, _: fired.append(number))
    soon = timer(time.CLOCK_PROCESS_CPUTIME_ID, signal.SIGRTMIN + 4, SIGEV_SIGNAL)
    settime(soon, 40.0)
    yield
    waited = left(soon)
    before = list(fired)
    settime(soon, 0.05)
    until(lambda: sum(range(10_000)) and fired, "a signal")
    yield 0 < waited <= 40, before, len(fired)


def part_robust_mutex() -> Iterator[object]:
    """A process that dies with a robust mutex leaves it to the next one, who is told so."""
    memory = mmap.mmap(-1, 4096)
    at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    attributes = ctypes.create_string_buffer(64)
    for call in (
        LIBC.pthread_mutexattr_init(attributes),
        LIBC.pthread_mutexattr_setpshared(attributes, 1),
        LIBC.pthread_mutexattr_setrobust(attributes, 1),
        LIBC.pthread_mutex_init(ctypes.c_void_p(at), attributes),
    ):
        assert call == 0
    reader, writer = os.pipe()

    def hold() -> None:
        assert LIBC.pthread_mutex_lock(ctypes.c_void_p(at)) == 0
        os.write(writer, b"x")
        signal.pause()

    pid = forked(hold)
    os.read(reader, 1)
    yield
    busy = LIBC.pthread_mutex_trylock(ctypes.c_void_p(at))
    os.kill(pid, signal.SIGKILL)
    killed = ended(pid)
    told = LIBC.pthread_mutex_trylock(ctypes.c_void_p(at))
    mended = LIBC.pthread_mutex_consistent(ctypes.c_void_p(at))
    yield busy, killed, told, mended, LIBC.pthread_mutex_unlock(ctypes.c_void_p(at))


if __name__ == "__main__":
    main(public(globals()))
