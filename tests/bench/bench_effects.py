"""What ``effects.once`` costs a job: begin, function and record, each one durable transaction of the SQLite ledger.

Beside it, what the disk alone takes for the same two transactions: below that no ledger on this disk can be.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from typing import TYPE_CHECKING

from figures import Figure, at_most, spread

if TYPE_CHECKING:
    from pathlib import Path

    from workbench import Bench

GOAL_MS = 2.0
ROUNDS = 300
JOB = f"""
import json, time
from ckptrun.job import effects
took = []
for number in range({ROUNDS}):
    started = time.perf_counter()
    effects.once(f"step-{{number}}", int)
    took.append((time.perf_counter() - started) * 1e3)
print(json.dumps(took[10:]))
"""


def measure(bench: Bench) -> list[Figure]:
    """Run a job that does nothing but effects, and the disk's part of it by itself."""
    with bench.lab("effects") as lab:
        result = lab.run(sys.executable, "-c", JOB)
        took = json.loads(result.stdout)
        disk = _disk(lab.home)
    return [
        at_most("effects.once, SQLite", "ms", took, GOAL_MS, f"<= {GOAL_MS:g} ms", "synchronous=FULL"),
        spread("two transactions of the same file, alone", "ms", disk, "SQLite, WAL, synchronous=FULL"),
    ]


def _disk(folder: Path) -> list[float]:
    connection = sqlite3.connect(folder / "disk.sqlite", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE kept (n INTEGER PRIMARY KEY, text TEXT)")
    took = []
    for number in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(2):
            connection.execute("INSERT INTO kept (text) VALUES (?)", (f"{number} " * 50,))
        took.append((time.perf_counter() - started) * 1e3)
    connection.close()
    return took[10:]
