"""multiprocessing.Manager: a server process whose dict, list and queue others use over Unix sockets."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING

from pace import report, sha, steps

if TYPE_CHECKING:
    from multiprocessing.managers import DictProxy, ListProxy
    from queue import Queue


def work(tasks: Queue[int | None], answers: Queue[str], known: DictProxy[int, str]) -> None:
    while (step := tasks.get()) is not None:
        known[step] = sha(step, known.get(step - 1))
        answers.put(known[step])


def main() -> None:
    with multiprocessing.Manager() as manager:
        tasks: Queue[int | None] = manager.Queue()
        answers: Queue[str] = manager.Queue()
        known: DictProxy[int, str] = manager.dict()
        log: ListProxy[str] = manager.list()
        worker = multiprocessing.Process(target=work, args=(tasks, answers, known))
        worker.start()
        for step in steps(100):
            tasks.put(step)
            log.append(answers.get())
        tasks.put(None)
        worker.join()
        results = dict(known), list(log)
    report(results, worker.exitcode)


if __name__ == "__main__":
    main()
