"""A job of several processes: workers that live on and answer over pipes, and a child per round."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path

HOLD = Path("hold")
"""While this file exists, the job does not begin its last round."""


def answer(worker: int, state: str, number: int) -> str:
    return hashlib.sha256(f"{worker} {state} {number}".encode()).hexdigest()[:16]


def result(workers: int, rounds: int) -> str:
    """Return what an undisturbed run prints last."""
    states = [""] * workers
    total = hashlib.sha256()
    for number in range(rounds):
        states = [answer(worker, state, number) for worker, state in enumerate(states)]
        total.update(" ".join(states).encode())
        total.update(bytes([number % 251]))
    return f"result {total.hexdigest()[:16]}"


def serve(worker: int, questions: int, answers: int) -> None:
    state = ""
    while line := os.read(questions, 64):
        state = answer(worker, state, int(line))
        os.write(answers, state.encode())
    os._exit(0)


def start(worker: int) -> tuple[int, int]:
    question_reader, question_writer = os.pipe()
    answer_reader, answer_writer = os.pipe()
    if os.fork() == 0:
        os.close(question_writer)
        os.close(answer_reader)
        serve(worker, question_reader, answer_writer)
    os.close(question_reader)
    os.close(answer_writer)
    return question_writer, answer_reader


def child_says(code: int) -> int:
    """Have a child end with a code, so that every round uses up a PID."""
    pid = os.fork()
    if pid == 0:
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> None:
    workers, rounds, pause = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    pipes = [start(worker) for worker in range(workers)]
    total = hashlib.sha256()
    for number in range(rounds):
        while number == rounds - 1 and HOLD.exists():
            time.sleep(0.01)
        for questions, _ in pipes:
            os.write(questions, str(number).encode())
        total.update(" ".join(os.read(answers, 64).decode() for _, answers in pipes).encode())
        total.update(bytes([child_says(number % 251)]))
        print(f"round {number}", flush=True)
        time.sleep(pause)
    print(f"result {total.hexdigest()[:16]}", flush=True)


if __name__ == "__main__":
    main()
