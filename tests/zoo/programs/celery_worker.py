"""Celery: a worker with a pool of two processes; its broker and its results are folders of files.

kombu shows a message to the worker before its content is written: the worker may take it while it is empty, fail with
`JSONDecodeError` and end, also without ckptrun. So this client writes a message beside the queue and renames it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from celery import Celery
from kombu.transport import filesystem
from pace import report, sha, steps

QUEUE = Path("broker").absolute()
app = Celery("celery_worker", broker="filesystem://", backend=f"file://{Path('results').absolute()}")
app.conf.update(
    broker_transport_options={
        "data_folder_in": str(QUEUE / "queue"),
        "data_folder_out": str(QUEUE / "unsent"),
        "control_folder": str(QUEUE / "control"),
        "polling_interval": 0.05,
    },
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
)


class Sender(filesystem.Channel):
    """Puts messages into the queue whole."""

    def _put(self, queue: str, payload: object, **options: object) -> None:
        super()._put(queue, payload, **options)
        for message in Path(self.data_folder_out).iterdir():
            message.rename(Path(self.data_folder_in) / message.name)


@app.task(name="digest")
def digest(state: str, step: int) -> str:
    """The one task."""
    return sha(state, step)


def main() -> None:
    filesystem.Transport.Channel = Sender
    for folder in (QUEUE / "queue", QUEUE / "unsent", QUEUE / "control", Path("results")):
        folder.mkdir(parents=True)
    worker = subprocess.Popen(
        [
            Path(sys.executable).with_name("celery"),
            *("-A", "celery_worker", "worker", "--pool=prefork", "--concurrency=2"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=WARNING"),
        ],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "C_FORCE_ROOT": "1"},
    )
    states = ["", ""]
    for step in steps(50):
        asked = [digest.delay(state, step) for state in states]
        states = [answer.get(timeout=60, interval=0.02) for answer in asked]
    worker.terminate()
    worker.wait(60)
    report(states)


if __name__ == "__main__":
    main()
