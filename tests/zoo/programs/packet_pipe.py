"""A pipe in packet mode, which keeps messages apart: CRIU has no support for one."""

from __future__ import annotations

import os

from pace import report, sha, steps


def main() -> None:
    (questions, ask), (answers, answer) = os.pipe2(os.O_DIRECT), os.pipe2(os.O_DIRECT)
    child = os.fork()
    if child == 0:
        os.close(ask)
        while question := os.read(questions, 4096):
            os.write(answer, sha(question).encode())
        os._exit(0)
    os.close(questions)
    state = b""
    for step in steps(40):
        os.write(ask, state + str(step).encode())
        state = os.read(answers, 4096)
    os.close(ask)
    report(state, os.waitpid(child, 0)[1])


if __name__ == "__main__":
    main()
