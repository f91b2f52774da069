"""Its place makes `tests/` a place to import from: ``from support.run import Lab``."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Have what tests start heed all signals, also where this was started by ``nohup`` or in a shell's background."""
    for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, lambda *_: None)
