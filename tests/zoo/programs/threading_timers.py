"""threading: timers, conditions with time-outs and a scheduler, all counting on the monotonic clock."""

from __future__ import annotations

import sched
import threading
import time

from pace import PAUSE_SECONDS, report, sha, steps


def main() -> None:
    fired: list[str] = []
    ready = threading.Condition()

    def fire(step: int) -> None:
        with ready:
            fired.append(sha(step, fired[-1:]))
            ready.notify()

    scheduler = sched.scheduler(time.monotonic, time.sleep)
    late = 0
    for step in steps(80):
        began = time.monotonic()
        threading.Timer(PAUSE_SECONDS / 2, fire, (step,)).start()
        with ready:
            assert ready.wait_for(lambda wanted=step: len(fired) > wanted, timeout=60)
        scheduler.enter(PAUSE_SECONDS / 4, 1, fired.append, (f"scheduled {step}",))
        scheduler.run()
        fired.pop()
        late += time.monotonic() < began + PAUSE_SECONDS * 0.75
    report(fired, late)


if __name__ == "__main__":
    main()
