"""64 threads that hand work to each other through queues, each with a state of its own."""

from __future__ import annotations

import queue
import threading

from pace import report, sha, steps

THREADS = 64


def work(number: int, inbox: queue.Queue[str | None], outbox: queue.Queue[str]) -> None:
    local = threading.local()
    local.state = ""
    while (given := inbox.get()) is not None:
        local.state = sha(local.state, number, given)
        outbox.put(local.state)


def main() -> None:
    queues: list[queue.Queue[str | None]] = [queue.Queue() for _ in range(THREADS + 1)]
    threads = [
        threading.Thread(target=work, args=(number, queues[number], queues[number + 1]))
        for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    state: str | None = ""
    for _ in steps(100):
        queues[0].put(state)
        state = queues[-1].get()
    for inbox in queues[:-1]:
        inbox.put(None)
    for thread in threads:
        thread.join()
    report(state)


if __name__ == "__main__":
    main()
