"""A job that talks to ckptrun: each command is one story. Importable without anything but `ckptrun.job`."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from ckptrun import job
from ckptrun.job import effects

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

HOLD = Path("hold")


def say(*words: object) -> None:
    print(*words, flush=True)


def until_released() -> None:
    while HOLD.exists():
        time.sleep(0.01)


def who() -> str:
    return f"incarnation {job.incarnation()} restores {job.restores()}"


def asking(how: str) -> None:
    """Take a checkpoint, say its id, and wait; after a restore the call returns as well."""
    job.on_restore(lambda: say("restored", who()))
    job.on_checkpoint(lambda: say("committed"))
    say("ready", job.lineage(), who())
    say("checkpoint", job.checkpoint(wait=how == "wait"), who())
    while HOLD.exists():
        job.safe_point()
        time.sleep(0.01)
    say("environment", job.environment().get("TODAY"), os.environ.get("TODAY"))
    say("left", [path.name for path in Path("/dev/shm/.ckptrun/notify/r").iterdir()])
    say("done")


def rolling_back() -> None:
    """Take a checkpoint, go wrong, and go back, again and again."""
    try:
        job.rollback("too early")
    except job.RefusedError as error:
        say("refused", error)
    job.checkpoint()
    say("tries", job.restores())
    job.rollback("loss is  nan")


def promising() -> None:
    """Promise a heartbeat, and give none after the checkpoint but in the end."""
    job.heartbeat(within=3)
    job.checkpoint(wait=True)  # however long that takes
    say("restores", job.restores())
    if job.restores() < 2:
        until_released()
    say("done")


def critical() -> None:
    """Ask for checkpoints from another thread while this one is in a section."""
    taken: list[object] = []

    def take() -> None:
        taken.append(job.checkpoint(wait=True))

    with job.critical(seconds=600), job.critical():
        first = threading.Thread(target=take)
        first.start()
        try:
            job.checkpoint()
        except job.UsageError as error:
            say("refused", error)
        time.sleep(0.5)
        say("inside", taken)
        left = time.time()
    first.join()
    say("taken", taken[0], left)
    with job.critical(seconds=0.3):
        second = threading.Thread(target=take)
        second.start()
        second.join()  # it ends, as the section's time does
        say("overdue", taken[1])


def dying() -> None:
    """Have two children killed inside, one in a section and one in an effect, and go on as if they had never been."""

    def child(work: Callable[[Callable[[], None]], object]) -> None:
        inside, told = os.pipe()
        pid = os.fork()
        if pid == 0:

            def stay() -> None:
                os.write(told, b"x")
                signal.pause()

            work(stay)
            os._exit(1)
        os.read(inside, 1)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    def section(stay: Callable[[], None]) -> None:
        with job.critical(seconds=6000):
            stay()

    child(section)
    child(lambda stay: effects.once("sent", stay, seconds=6000))
    say("settled", effects.once("sent", lambda: "again", probe=lambda _key: False))
    say("taken", job.checkpoint(wait=True))


def notifying() -> None:
    """Report figures, and say what sd_notify programs say."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        for text in ("READY=1\nSTATUS=Loading\nX_OTHER=1", "WATCHDOG=1", "STATUS=step 7 of 9"):
            notify.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])
        job.report(loss=0.5, accuracy=1)
        job.report(loss=0.25)
        job.checkpoint(wait=True)
        say("notified")
        until_released()
        notify.sendto(b"STOPPING=1", os.environ["NOTIFY_SOCKET"])
        job.checkpoint()


def flooding() -> None:
    """Send more than anybody can take, from several processes, and ask all the while."""
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            while HOLD.exists():
                job._channel.notice("report", metrics={"step": time.monotonic()})
                job._channel.notice("heartbeat")
            os._exit(0)
        children.append(child)
    for _ in range(30):
        with job.critical():
            pass
    say("flooding")
    until_released()
    for child in children:
        os.waitpid(child, 0)
    say("taken", job.checkpoint(wait=True))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
