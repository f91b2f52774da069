"""Signals: an interval timer that ticks by SIGALRM, handlers, a signal that is blocked and pending over steps."""

from __future__ import annotations

import os
import signal

from pace import PAUSE_SECONDS, report, sha

STEPS = 100
ticks: list[str] = []
users: list[int] = []


def tick(*_: object) -> None:
    step = len(ticks)
    if step == STEPS:
        return
    print(f"step {step}", flush=True)
    ticks.append(sha(step, ticks[-1:]))
    if step % 10 == 3:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        os.kill(os.getpid(), signal.SIGUSR2)
    elif step % 10 == 8:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})


def main() -> None:
    signal.signal(signal.SIGALRM, tick)
    signal.signal(signal.SIGUSR2, lambda *_: users.append(len(ticks)))
    signal.setitimer(signal.ITIMER_REAL, 0.01, max(PAUSE_SECONDS, 0.01))
    while len(ticks) < STEPS:
        signal.pause()
    signal.setitimer(signal.ITIMER_REAL, 0)
    report(ticks, users)


if __name__ == "__main__":
    main()
