"""A job whose parts are pools and what their processes share: all that multiprocessing and concurrent.futures make."""

from __future__ import annotations

import concurrent.futures
import hashlib
import multiprocessing
import subprocess
import threading
import time
from multiprocessing import shared_memory
from typing import TYPE_CHECKING, Any

from parts import main, public, until_go

if TYPE_CHECKING:
    from collections.abc import Iterator


def link(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()[:8]


def steady(number: int) -> str:
    """Work in steps until the test says go, then answer."""
    until_go()
    return link(number)


def chain(method: str) -> Iterator[object]:
    """A pool in the midst of its work."""
    pool = multiprocessing.get_context(method).Pool(2)
    first = pool.map(link, range(10))
    busy = [pool.apply_async(steady, (number,)) for number in range(4)]
    yield
    last = pool.map(link, range(10))
    results = [result.get(60) for result in busy]
    pool.close()
    pool.join()
    yield first == last, results


def part_fork_pool() -> Iterator[object]:
    return chain("fork")


def part_spawn_pool() -> Iterator[object]:
    return chain("spawn")


def part_forkserver_pool() -> Iterator[object]:
    return chain("forkserver")


def part_executors() -> Iterator[object]:
    processes = concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))
    threads = concurrent.futures.ThreadPoolExecutor(4)
    list(processes.map(link, range(4)))
    waiting = [executor.submit(steady, number) for executor in (processes, threads) for number in range(3)]
    yield
    found = [future.result(60) for future in waiting], list(processes.map(link, range(3)))
    processes.shutdown()
    threads.shutdown()
    yield found


def meet(barrier: Any, lock: Any, condition: Any, event: Any, queue: Any, count: Any, over: Any) -> None:
    """One of four that count together, round by round, until one of them, for all, finds the event set."""
    while True:
        with lock:
            count.value += 1
        if barrier.wait(60) == 0:
            over.value = event.is_set()
        barrier.wait(60)
        if over.value:
            break
        time.sleep(0.005)
    with condition:
        condition.notify_all()
    queue.put(count.value % 4)


def part_locks_and_queues() -> Iterator[object]:
    context = multiprocessing.get_context("spawn")
    lock, condition, event = context.Lock(), context.Condition(), context.Event()
    barrier, queue = context.Barrier(4), context.Queue()
    count, over = context.Value("q", 0, lock=False), context.Value("b", 0, lock=False)
    arguments = barrier, lock, condition, event, queue, count, over
    workers = [context.Process(target=meet, args=arguments) for _ in range(4)]
    for worker in workers:
        worker.start()
    queue.put("queued")
    before = queue.get()
    yield
    event.set()
    found = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    yield before, found, [worker.exitcode for worker in workers]


def part_manager() -> Iterator[object]:
    manager = multiprocessing.get_context("spawn").Manager()
    table, items = manager.dict(before=1), manager.list([1])
    yield
    table["after"] = 2
    items.append(2)
    found = dict(table), list(items)
    manager.shutdown()
    yield found


def fill(name: str) -> None:
    segment = shared_memory.SharedMemory(name)
    until_go()
    segment.buf[1:5] = b"more"
    segment.close()


def part_shared_memory_of_two() -> Iterator[object]:
    segment = shared_memory.SharedMemory(create=True, size=1 << 20)
    segment.buf[0:1] = b"x"
    other = multiprocessing.get_context("spawn").Process(target=fill, args=(segment.name,))
    other.start()
    yield
    other.join()
    found = bytes(segment.buf[:5])
    segment.close()
    segment.unlink()
    yield found, other.exitcode


def part_threads() -> Iterator[object]:
    """64 threads that wait, each in its own way, and go on where they were."""
    results: list[str] = [""] * 64
    event, lock = threading.Event(), threading.Lock()
    lock.acquire()

    def work(index: int) -> None:
        own = link(index)
        (event.wait, until_go, lambda: time.sleep(0.5), lambda: lock.acquire() and lock.release())[
            index % 4
        ]()
        results[index] = link(index) if own == link(index) else "torn"

    threads = [threading.Thread(target=work, args=(index,)) for index in range(64)]
    for thread in threads:
        thread.start()
    yield
    event.set()
    lock.release()
    for thread in threads:
        thread.join()
    yield hashlib.sha256("".join(results).encode()).hexdigest()


def part_two_hundred_processes() -> Iterator[object]:
    """Shells: what is looked at is the tree, not two hundred interpreters' memory."""
    command = ["/bin/sh", "-c", "read number; exit $number"]
    children = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(200)]
    yield
    for number, child in enumerate(children):
        child.communicate(b"%d\n" % (number % 100))
    yield [child.returncode for child in children] == [number % 100 for number in range(200)]


if __name__ == "__main__":
    main(public(globals()))
