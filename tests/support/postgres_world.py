"""A database with orders in it, a job's connection to it, and the hook `postgres` as ckptrun would call it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
from support.forked_hooks import call

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.hook_programs import Answer

ORDERS = """
CREATE TABLE customers (id serial PRIMARY KEY, email text UNIQUE, updated timestamptz);
CREATE TABLE orders (id serial PRIMARY KEY, customer int NOT NULL REFERENCES customers ON DELETE CASCADE,
                     amount numeric(10,2), note text);
INSERT INTO customers (email) VALUES ('a@example.com'), ('b@example.com');
INSERT INTO orders (customer, amount) VALUES (1, 10), (1, 20.50), (2, 30);
"""


@dataclass
class World:
    """A database, the job's connection, and the hook as ckptrun would call it."""

    dsn: str
    options: dict[str, Any] = field(default_factory=dict)
    lineage: str = "train"
    epoch: int = 1
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    kept: list[str] | None = None
    """What a commit says can still be restored, beside the checkpoint itself; None: everything."""
    taken: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.options = {"dsn": self.dsn, "tables": ["customers", "orders"], **self.options}
        self.job = self.connect("job")

    def connect(self, name: str) -> psycopg.Connection[Any]:
        return psycopg.connect(self.dsn, autocommit=True, application_name=name)

    def close(self) -> None:
        self.job.close()

    def call(self, phase: str, checkpoint: str, **fields: Any) -> Answer:
        about = {"id": checkpoint, "trigger": "interval", "created": 1.5}
        given = {"options": self.options, "lineage": self.lineage, "epoch": self.epoch, **fields}
        return call("postgres", phase, checkpoint=about, **given)

    def begin(self, checkpoint: str) -> dict[str, Any]:
        """Until the thaw the hook keeps writers out."""
        answer = self.call("pre-checkpoint", checkpoint)
        assert answer.result["done"] == ["noted"], answer.result
        return answer.data

    def end(self, checkpoint: str, data: dict[str, Any], *, ok: bool = True) -> dict[str, Any]:
        outcome = {"ok": ok, "error": None if ok else "it failed"}
        return self.call("post-checkpoint", checkpoint, data=data, outcome=outcome).result

    def checkpoint(self) -> tuple[str, dict[str, Any]]:
        """Take a whole one; return its id and what the hook has noted."""
        name = f"c-{next(self.numbers)}"
        data = self.begin(name)
        ended = self.end(name, data)
        assert ended == {"done": ["released"], "data": {"held": True}}
        data |= ended["data"]
        self.commit(name, data)
        return name, data

    def commit(self, name: str, data: dict[str, Any]) -> None:
        self.taken.append(name)
        kept = self.taken if self.kept is None else [*self.kept, name]
        assert self.call("post-commit", name, data=data, kept=kept).result == {"done": ["trimmed"]}

    def restore(self, checkpoint: tuple[str, dict[str, Any]], **fields: Any) -> dict[str, Any]:
        """Have it done, and return the counts by table."""
        answer = self.call("pre-restore", checkpoint[0], data=checkpoint[1], **fields)
        assert answer.result.get("done") == ["undone"], answer.result
        return dict(answer.event("postgres-undone")["tables"])

    def refusal(self, checkpoint: tuple[str, dict[str, Any] | None], **fields: Any) -> str:
        result = self.call("pre-restore", checkpoint[0], data=checkpoint[1], **fields).result
        assert result["outcome"] == "failed", result
        return str(result["reason"])

    def refused_checkpoint(self) -> dict[str, Any]:
        result = self.call("pre-checkpoint", "c-x").result
        assert "done" not in result, result
        return result

    def do(self, statement: str, *values: Any) -> None:
        self.job.execute(statement, values or None)  # type: ignore[arg-type]

    def rows(self, *tables: str) -> list[list[tuple[Any, ...]]]:
        names = tables or ("customers", "orders")
        return [self.job.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall() for name in names]  # type: ignore[arg-type]

    def value(self, query: str) -> Any:
        row = self.job.execute(query).fetchone()  # type: ignore[arg-type]
        assert row is not None
        return row[0]


def empty(dsn: str) -> None:
    """Bring a database back to what it was when it was made, which costs less than another one."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        connection.execute(
            "DROP SCHEMA IF EXISTS ckptrun CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public"
        )
        connection.execute("GRANT ALL ON SCHEMA public TO public")


def work(world: World) -> None:
    """Do everything that can be done to rows."""
    world.do("INSERT INTO customers (email) VALUES ('c@example.com')")
    world.do(
        "INSERT INTO orders (customer, amount, note) VALUES (3, 1.10, E'\"a\",(b)\\\\ \n'), (1, NULL, '')"
    )
    world.do("UPDATE orders SET amount = amount * 2, note = 'twice' WHERE customer = 1")
    world.do("UPDATE orders SET customer = 3 WHERE id = 1")
    world.do("DELETE FROM customers WHERE id = 2")  # and its order with it
    world.do("INSERT INTO customers (email) VALUES ('b@example.com')")
    world.do("UPDATE customers SET id = 77 WHERE id = 4")
