"""A job that writes to a database, under the hooks `postgres` and `redis`: killed twice, nothing is there twice."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis
from jobs import count
from support.postgres import postgres_server
from support.redis import redis_server
from support.run import RESTORED

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.postgres import PostgresServer
    from support.redis import RedisServer
    from support.run import Lab, Run

__all__ = ["postgres_server", "redis_server"]

pytestmark = pytest.mark.slow

JOB = (sys.executable, Path(__file__).parent / "jobs" / "writes.py")
STEPS = 20
BEHIND = 3


def values() -> dict[int, str]:
    found, value = {}, ""
    for step in range(1, STEPS + 1):
        value = found[step] = count.link(value, step)
    return found


def allow(lab: Lab, steps: int) -> None:
    """Let the job go on up to this step."""
    for step in range(1, steps + 1):
        (lab.work / f"allowed-{step}").touch()


def kill_twice(
    lab: Lab, start: Callable[[], Run], done: Callable[[], int], undone: Callable[[], int]
) -> None:
    """Run the job to its end: a few steps past a checkpoint it dies; past the next one, ckptrun does."""

    def reach(run: Run, steps: int) -> None:
        allow(lab, steps)
        run.until(f"step {steps}", lambda: done() == steps)

    run = start()
    reach(run, 5)
    run.checkpoint()
    reach(run, 9)
    run.restored(run.kill_job)
    assert undone() == 1
    reach(run, 11)
    run.checkpoint()
    reach(run, 16)
    run.kill_supervisor()
    again = start()
    again.event(RESTORED, after=len(lab.events()) - 1)
    reach(again, STEPS)
    ended = again.wait()
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[-1] == f"result {STEPS} {values()[STEPS]}"
    assert undone() == 2


def named(lab: Lab, name: str) -> list[dict[str, Any]]:
    """Return what a hook has told under this name."""
    return [event["fields"] for event in lab.events("hook-event") if event["name"] == name]


def test_tables_end_as_after_an_uninterrupted_run(lab: Lab, postgres_server: PostgresServer) -> None:
    dsn = postgres_server.database()
    lab.environment = {"DATABASE_URL": dsn}
    with psycopg.connect(dsn, autocommit=True) as world:
        world.execute("CREATE TABLE steps (id serial PRIMARY KEY, step int, value text)")
        world.execute("CREATE TABLE total (steps int PRIMARY KEY, newest int)")
        world.execute("INSERT INTO total VALUES (0, 0)")

        def done() -> int:
            row = world.execute("SELECT steps FROM total").fetchone()
            assert row is not None
            return int(row[0])

        hook = ("--hook", "postgres?dsn=$DATABASE_URL&tables=steps,total")
        kill_twice(
            lab,
            lambda: lab.start(*JOB, "--steps", STEPS, "--postgres", dsn, options=hook),
            done,
            lambda: len(named(lab, "postgres-undone")),
        )
        last = range(STEPS - BEHIND + 1, STEPS + 1)
        assert world.execute("SELECT * FROM steps ORDER BY id").fetchall() == [
            (n, n, values()[n]) for n in last
        ]
        assert world.execute("SELECT * FROM total").fetchall() == [(STEPS, STEPS)]
        assert world.execute("SELECT count(*) FROM ckptrun.history").fetchone() == (0,)
    first, second = named(lab, "postgres-undone")
    assert first["tables"]["total"] == {"undone": 4, "kept": 0}
    assert second["tables"]["total"] == {"undone": 5, "kept": 0}
    assert first["exact"]
    assert second["exact"]


def test_streams_lists_and_keys_end_as_after_an_uninterrupted_run(
    lab: Lab, redis_server: RedisServer
) -> None:
    url = redis_server.database()
    lab.environment = {"REDIS_URL": url}
    world = redis.Redis.from_url(url, decode_responses=True)
    hook = ("--hook", "redis?url=$REDIS_URL&streams=steps&lists=values&keys=job:*")
    kill_twice(
        lab,
        lambda: lab.start(*JOB, "--steps", STEPS, "--redis", url, options=hook),
        lambda: world.xlen("steps"),
        lambda: len(named(lab, "redis-undone")),
    )
    assert world.xrange("steps") == [(f"{n}-0", {"value": value}) for n, value in values().items()]
    assert world.lrange("values", 0, -1) == list(values().values())
    last = [f"job:{n}" for n in range(STEPS - BEHIND + 1, STEPS + 1)]
    assert sorted(world.keys("job:*")) == sorted([*last, "job:total"])
    assert world.get("job:total") == str(sum(range(STEPS + 1)))
    assert world.keys("ckptrun:*") == []
    assert [event["counts"]["steps"] for event in named(lab, "redis-undone")] == [
        {"undone": 4},
        {"undone": 5},
    ]
    assert all(event["exact"] for event in named(lab, "redis-undone"))
    world.close()
