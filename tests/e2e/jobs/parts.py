"""The frame of jobs made of parts: each part sets something up, and later says what has become of it.

A part is a generator function: it sets up and yields None; once the file ``go`` is there it is resumed, and yields what
it finds. A job prints one line for each of its parts, which must not depend on how often it was restored in between.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 30.0
LIBC = ctypes.CDLL(None, use_errno=True)


def until(condition: Callable[[], object], what: str = "") -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {what}"
        time.sleep(0.005)


def checked(result: int) -> int:
    """Return what a function of libc returned, unless it failed."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def forked(work: Callable[[], object]) -> int:
    """Have a child do some work, and return its PID; it dies with its parent."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        LIBC.prctl(1, signal.SIGKILL)
        code = int(work() or 0)  # type: ignore[call-overload]
    except BaseException:  # noqa: BLE001 - whatever it is, the child must not go on as the parent
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    """Wait for a child and return its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(parts: dict[str, Callable[[], Iterator[object]]]) -> None:
    """Run the parts named in the command line, or all."""
    chosen = sys.argv[1:] or list(parts)
    started = {name: parts[name]() for name in chosen}
    for part in started.values():
        next(part)
    print("ready", flush=True)
    until_go()
    failed = False
    for name, part in started.items():
        try:
            print(name, next(part), flush=True)
        except Exception:  # noqa: BLE001 - the other parts are looked at as well
            failed = True
            print(name, "FAILED", flush=True)
            traceback.print_exc()
    sys.exit(failed)


def until_go() -> None:
    """Wait for the test's word, counting steps."""
    while not Path("go").exists():
        time.sleep(0.01)


def public(names: dict[str, object]) -> dict[str, Callable[[], Iterator[object]]]:
    """Return the parts of a module: its functions whose names begin with ``part_``."""
    return {
        name.removeprefix("part_"): value  # type: ignore[misc]
        for name, value in names.items()
        if name.startswith("part_")
    }
