"""multiprocessing.shared_memory: a block in /dev/shm that two processes change in turn."""

from __future__ import annotations

import multiprocessing
from multiprocessing.shared_memory import SharedMemory
from typing import TYPE_CHECKING

from pace import report, steps

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier

STEPS, SIZE = 100, 1 << 20


def work(name: str, turns: Barrier) -> None:
    block = SharedMemory(name)
    for step in range(STEPS):
        turns.wait()
        assert block.buf is not None
        for at in range(step, SIZE, 4096):
            block.buf[at] = (block.buf[at] * 5 + step) % 256
        turns.wait()
    block.close()


def main() -> None:
    context = multiprocessing.get_context("spawn")
    block = SharedMemory(create=True, size=SIZE)
    assert block.buf is not None
    turns = context.Barrier(2)
    child = context.Process(target=work, args=(block.name, turns))
    child.start()
    for step in steps(STEPS):
        for at in range(step, SIZE, 2048):
            block.buf[at] = (block.buf[at] * 3 + step) % 256
        turns.wait()
        turns.wait()
    child.join()
    result = bytes(block.buf)
    block.close()
    block.unlink()
    report(result, child.exitcode)


if __name__ == "__main__":
    main()
