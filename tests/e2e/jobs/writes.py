"""A job: every step writes to PostgreSQL or Redis, once there is a file ``allowed-STEP``.

As programs do that use a database, it connects again and repeats a step whose connection broke, and knows nothing else.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import redis
from count import link

if TYPE_CHECKING:
    from collections.abc import Callable

BEHIND = 3
"""A row is removed so many steps after it was written."""


def to_postgres(dsn: str) -> Callable[[int, str], None]:
    state: list[psycopg.Connection] = []

    def write(step: int, value: str) -> None:
        if not state:
            state.append(psycopg.connect(dsn))
        with state[0].transaction():
            row = (
                state[0]
                .execute("INSERT INTO steps (step, value) VALUES (%s, %s) RETURNING id", [step, value])
                .fetchone()
            )
            assert row is not None
            state[0].execute("UPDATE total SET steps = steps + 1, newest = %s", [row[0]])
            state[0].execute("DELETE FROM steps WHERE step = %s", [step - BEHIND])

    def again(step: int, value: str) -> None:
        while True:
            try:
                return write(step, value)
            except psycopg.OperationalError:
                state.clear()

    return again


def to_redis(url: str) -> Callable[[int, str], None]:
    client = redis.Redis.from_url(url, retry=None)

    def again(step: int, value: str) -> None:
        while True:
            together = client.pipeline(transaction=True)
            together.xadd("steps", {"value": value}, id=f"{step}-0")
            together.rpush("values", value)
            together.incrby("job:total", step)
            together.setex(f"job:{step}", 10_000, value)
            together.delete(f"job:{step - BEHIND}")
            try:
                together.execute()
            except redis.ConnectionError:
                continue
            return

    return again


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--postgres")
    parser.add_argument("--redis")
    options = parser.parse_args()
    write = to_postgres(options.postgres) if options.postgres else to_redis(options.redis)
    value = ""
    for step in range(1, options.steps + 1):
        while not Path(f"allowed-{step}").exists():
            time.sleep(0.01)
        value = link(value, step)
        write(step, value)
    print(f"result {options.steps} {value}", flush=True)


if __name__ == "__main__":
    main()
