"""Celery: a worker with a pool of two processes; its broker and its results are folders of files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from celery import Celery
from pace import report, sha, steps

QUEUE = Path("broker").absolute()
app = Celery("celery_worker", broker="filesystem://", backend=f"file://{Path('results').absolute()}")
app.conf.update(
    broker_transport_options={
        "data_folder_in": str(QUEUE / "queue"),
        "data_folder_out": str(QUEUE / "queue"),
        "control_folder": str(QUEUE / "control"),
        "polling_interval": 0.05,
    },
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
)


@app.task(name="digest")
def digest(state: str, step: int) -> str:
    """The one task."""
    return sha(state, step)


def main() -> None:
    for folder in (QUEUE / "queue", QUEUE / "control", Path("results")):
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
