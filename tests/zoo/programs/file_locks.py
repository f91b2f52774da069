"""flock and lockf: locks that a second process finds taken at every step, and gets when they are free."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from pace import report, steps


def taken(locker: int, fd: int) -> bool:
    """Tell whether somebody else holds this kind of lock on the file."""
    lock = (fcntl.flock, fcntl.lockf)[locker]
    try:
        lock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    lock(fd, fcntl.LOCK_UN)
    return False


def serve(questions: int, answers: int) -> None:
    """Answer, for each byte, whether the locks are taken."""
    fds = [os.open(name, os.O_RDWR) for name in ("flock.lock", "lockf.lock")]
    while os.read(questions, 1):
        os.write(answers, bytes(taken(locker, fd) for locker, fd in enumerate(fds)))
    os._exit(0)


def main() -> None:
    fds = [os.open(name, os.O_RDWR | os.O_CREAT, 0o644) for name in ("flock.lock", "lockf.lock")]
    (question_reader, questions), (answers, answer_writer) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        for fd in (*fds, questions, answers):
            os.close(fd)
        serve(question_reader, answer_writer)
    os.close(question_reader)
    os.close(answer_writer)
    seen = []
    for step in steps(100):
        for lock, fd, every in ((fcntl.flock, fds[0], 20), (fcntl.lockf, fds[1], 30)):
            if step % every == 0:
                lock(fd, fcntl.LOCK_EX)
            elif step % every == every - 5:
                lock(fd, fcntl.LOCK_UN)
        os.write(questions, b"?")
        seen.append(os.read(answers, 2))
    os.close(questions)
    os.waitpid(child, 0)
    Path("seen.txt").write_text(repr(seen))
    report(seen)


if __name__ == "__main__":
    main()
