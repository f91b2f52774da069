"""200 processes in a ring of pipes: what is put in at the start comes out changed by each."""

from __future__ import annotations

import os

from pace import report, sha, steps

PROCESSES = 200


def serve(number: int, reader: int, writer: int) -> None:
    state = ""
    while given := os.read(reader, 64):
        state = sha(state, number, given)
        os.write(writer, state.encode())
    os._exit(number % 200)


def main() -> None:
    first, entrance = os.pipe()
    reader = first
    children = []
    for number in range(PROCESSES):
        after, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(entrance)
            os.close(after)
            serve(number, reader, writer)
        children.append(child)
        os.close(reader)
        os.close(writer)
        reader = after
    state = b""
    for step in steps(600):
        os.write(entrance, state or str(step).encode())
        state = os.read(reader, 64)
    os.close(entrance)
    report(state, [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])


if __name__ == "__main__":
    main()
