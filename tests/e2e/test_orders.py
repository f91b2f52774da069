"""`examples/orders.py`, killed twenty times at random: the world outside ends as after an uninterrupted run.

CKPTRUN_TEST_SEED repeats a run's choices.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import requests
from support.ports import free_ports
from support.processes import PATIENCE, die_with_parent
from support.run import REPOSITORY, RESTORED, seed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.postgres import PostgresServer
    from support.run import Lab, Run

pytestmark = pytest.mark.slow

EXAMPLES = REPOSITORY / "examples"
KILLS = 20
ORDERS = 90
SLOWNESS = 0.03
"""Seconds of each of an order's three requests, so that most kills fall into one."""
KINDS = ("job", "supervisor", "job in mid-dump", "supervisor in mid-dump")
INTERVAL = 0.5
JOB = (sys.executable, EXAMPLES / "orders.py", ORDERS)
OPTIONS = (
    *("--interval", f"{INTERVAL}s", "--max-restarts", "1000"),
    *("--hook", "postgres?dsn=$DATABASE_URL&tables=orders,totals&application_name=orders"),
)
TABLES = """
CREATE TABLE orders (number int PRIMARY KEY, cents int, receipt int, courier text);
CREATE TABLE totals (id int PRIMARY KEY, orders int, cents int);
INSERT INTO totals VALUES (1, 0, 0);
"""


@dataclass
class World:
    """The services, which run on whatever becomes of the job, and a database."""

    url: str
    dsn: str

    @property
    def environment(self) -> dict[str, str]:
        return {"ORDERS_URL": self.url, "DATABASE_URL": self.dsn}

    def slow(self, seconds: float) -> None:
        requests.put(f"{self.url}/slowness/{seconds}", timeout=PATIENCE).raise_for_status()

    def let_take(self, orders: int) -> None:
        requests.put(f"{self.url}/limit/{orders}", timeout=PATIENCE).raise_for_status()

    def books(self) -> dict[str, Any]:
        return dict(requests.get(f"{self.url}/books", timeout=PATIENCE).json())

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn) as connection:
            return connection.execute(query).fetchall()  # type: ignore[arg-type]

    def taken(self) -> int:
        return int(self.rows("SELECT orders FROM totals")[0][0])

    def outcome(self) -> dict[str, Any]:
        """Return what the world looks like; who of the couriers goes where is left out: that may differ."""
        books = self.books()
        return {
            "charges": books["charges"],
            "mails": books["mails"],
            "booked": {order: len(names) for order, names in books["bookings"].items()},
            "orders": self.rows("SELECT number, cents, receipt FROM orders ORDER BY number"),
            "totals": self.rows("SELECT * FROM totals"),
        }


@contextlib.contextmanager
def world(server: PostgresServer) -> Iterator[World]:
    (port,) = free_ports(1)
    process = subprocess.Popen(
        [sys.executable, EXAMPLES / "orders_services.py", str(port)],
        preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call
    )
    try:
        here = World(f"http://127.0.0.1:{port}", server.database())
        with psycopg.connect(here.dsn, autocommit=True) as connection:
            connection.execute(TABLES)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                here.slow(0)
            except requests.ConnectionError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            else:
                break
        yield here
    finally:
        process.kill()
        process.wait()


class Executioner:
    """Kills what it is told to, after a commit, and has the job restored."""

    def __init__(self, lab: Lab, choices: random.Random) -> None:
        self.lab = lab
        self.choices = choices
        self.run = self.start()

    def start(self) -> Run:
        return self.lab.start(*JOB, options=OPTIONS)

    def kill(self, kind: str) -> None:
        self.run.commit()
        restored = len(self.lab.events(RESTORED))
        if kind.endswith("mid-dump"):
            self.run.until("dump", self.run.dumping)
            time.sleep(self.choices.uniform(0, 0.2))
        else:
            time.sleep(self.choices.uniform(0, INTERVAL))
        if kind.startswith("supervisor"):
            self.run.kill_supervisor()
            self.run = self.start()
        else:
            self.run.kill_job()
        self.run.until("restore", lambda: len(self.lab.events(RESTORED)) > restored)


def test_twenty_kills_leave_no_trace_in_the_world(lab: Lab, postgres_server: PostgresServer):
    choices = random.Random(seed())
    with world(postgres_server) as reference:
        undisturbed = subprocess.run(
            [*map(str, JOB)],
            env={**lab.env, **reference.environment},
            cwd=lab.folder,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        expected = reference.outcome()
    assert len(expected["charges"]) == len(expected["mails"]) == len(expected["orders"]) == ORDERS
    assert set(expected["booked"].values()) == {1}

    with world(postgres_server) as disturbed:
        lab.environment = disturbed.environment
        disturbed.slow(SLOWNESS)
        disturbed.let_take(ORDERS - 2)  # on whatever machine, the orders last for all the kills
        executioner = Executioner(lab, choices)
        kinds = [KINDS[number % len(KINDS)] for number in range(KILLS)]
        choices.shuffle(kinds)
        for number, kind in enumerate(kinds, 1):
            taken = disturbed.taken()
            print(f"{number}: {kind}, {taken} orders taken", flush=True)
            ahead = taken > 0.8 * ORDERS * number / KILLS  # and all of them fall into orders
            disturbed.slow(10 * SLOWNESS if ahead else SLOWNESS)
            executioner.kill(kind)
        print(f"{disturbed.taken()} of {ORDERS} orders taken after the last kill", flush=True)
        disturbed.let_take(ORDERS)
        disturbed.slow(0)
        result = executioner.run.wait(300)

        assert result.code == 0, result.err
        assert len(lab.events(RESTORED)) >= KILLS
        assert result.out.splitlines()[-1] == undisturbed[-1]  # the digest of the model
        printed = b"".join(run.stdout.end() for run in lab.runs if run.stdout).decode().splitlines()
        assert list(dict.fromkeys(printed)) == undisturbed  # a pipe cannot be taken back: lines appear again
        assert disturbed.outcome() == expected
        bookings = {int(order): names for order, names in disturbed.books()["bookings"].items()}
        assert bookings == {
            number: [name] for number, name in disturbed.rows("SELECT number, courier FROM orders")
        }
        asked = [words.partition(" ")[0] for words in disturbed.books()["asked"]]
        assert asked.count("DELETE") > 0  # another courier was less busy the second time
        assert asked.count("POST") >= 2 * ORDERS
        print({method: asked.count(method) for method in ("GET", "POST", "PUT", "DELETE")})
