"""The ready-made hook `postgres` as a program, against a real server: what a restore finds in the tables."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import psycopg
import pytest
from support import hook_programs
from support.forked_hooks import call, start
from support.hook_programs import context
from support.postgres import PostgresServer
from support.processes import PATIENCE, POLL_SECONDS

import ckptrun.hooking

SCHEMAS = Path(ckptrun.hooking.__file__).parent / "schema"

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
        assert self.call("post-commit", name, data=data).result == {"done": ["trimmed"]}
        return name, data

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


@pytest.fixture(scope="module")
def database(postgres_server: PostgresServer) -> str:
    return postgres_server.database()


@pytest.fixture
def bare(database: str) -> Iterator[World]:
    """An empty database: the same one every time, because making one costs more than a test."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        connection.execute(
            "DROP SCHEMA IF EXISTS ckptrun CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public"
        )
        connection.execute("GRANT ALL ON SCHEMA public TO public")
    world = World(database)
    yield world
    world.close()


@pytest.fixture
def world(bare: World) -> World:
    bare.do(ORDERS)
    return bare


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


def test_every_change_after_the_checkpoint_is_taken_back_and_its_repetition_gets_the_same_numbers(
    world: World,
):
    checkpoint = world.checkpoint()
    before = world.rows()
    work(world)
    after = world.rows()
    assert before != after
    counts = world.restore(checkpoint)
    assert world.rows() == before
    assert counts["orders"] == {"undone": 7, "kept": 0}
    work(world)
    assert world.rows() == after


def test_a_second_restore_finds_nothing_to_do(world: World):
    checkpoint = world.checkpoint()
    before = world.rows()
    work(world)
    world.restore(checkpoint)
    assert world.restore(checkpoint)["orders"] == {"undone": 0, "kept": 0}
    assert world.rows() == before


def test_restores_of_one_checkpoint_again_and_again_and_of_older_ones(world: World):
    first = world.checkpoint()
    at_first = world.rows()
    work(world)
    second = world.checkpoint()
    at_second = world.rows()
    for _ in range(2):
        world.do("DELETE FROM orders")
        world.do("UPDATE customers SET email = email || 'x'")
        world.restore(second)
        assert world.rows() == at_second
    world.restore(first)
    assert world.rows() == at_first
    assert "does not know checkpoint c-2" in world.refusal(second)
    work(world)
    world.restore(world_third := world.checkpoint())
    assert world.rows() == at_second, world_third


def test_a_dry_run_counts_and_changes_nothing(world: World):
    checkpoint = world.checkpoint()
    work(world)
    after = world.rows()
    counts = world.restore(checkpoint, dry_run=True)
    assert counts["orders"] == {"undone": 7, "kept": 0}
    assert world.rows() == after
    assert world.restore(checkpoint) == counts


def test_writers_wait_from_before_the_freeze_until_after_the_thaw(world: World):
    data = world.begin("c-1")
    world.do("SET lock_timeout = '200ms'")
    with pytest.raises(psycopg.errors.LockNotAvailable):
        world.do("INSERT INTO customers (email) VALUES ('late')")
    assert len(world.rows()[0]) == 2, "readers do not wait"
    world.end("c-1", data)
    world.do("INSERT INTO customers (email) VALUES ('late')")
    assert world.restore(("c-1", data))["customers"]["undone"] == 1


def test_an_open_transaction_that_has_written_puts_the_checkpoint_off_and_is_not_harmed(world: World):
    world.options["wait"] = 1
    world.checkpoint()
    with world.job.transaction():
        world.do("INSERT INTO customers (email) VALUES ('in the middle')")
        result = world.refused_checkpoint()
        assert result["outcome"] == "retry"
        assert "customers" in result["reason"]
        assert "(job)" in result["reason"]
        world.do("INSERT INTO orders (customer) VALUES (3)")
    checkpoint = world.checkpoint()
    assert world.restore(checkpoint)["customers"]["undone"] == 0


def test_what_remains_of_the_dead_jobs_transactions_is_ended_before_the_undo(world: World):
    checkpoint = world.checkpoint()
    before = world.rows()
    leftover = world.connect("leftover")
    leftover.execute("BEGIN")
    leftover.execute("INSERT INTO customers (email) VALUES ('half')")
    world.restore(checkpoint)
    assert world.rows() == before
    with pytest.raises(psycopg.OperationalError):
        leftover.execute("COMMIT")


def test_a_failed_checkpoint_lets_writers_in_and_is_forgotten(world: World):
    data = world.begin("c-1")
    assert world.end("c-1", data, ok=False) == {"done": ["released"]}
    world.do("INSERT INTO customers (email) VALUES ('free')")
    assert "does not know checkpoint c-1" in world.refusal(("c-1", data))


def test_locks_lost_before_the_end_are_said_and_remembered(world: World):
    data = world.begin("c-1")
    world.do("SELECT pg_terminate_backend(%s, 5000)", data["holder"])
    result = world.end("c-1", data)
    assert "raise option hold" in result["reason"]
    assert result["outcome"] == "failed"
    answer = world.call("pre-restore", "c-1", data={**data, **result["data"]})
    assert answer.event("postgres-undone")["exact"] is False


def test_only_what_the_jobs_connections_did_is_taken_back(world: World):
    world.options["application_name"] = "job"
    world.do("INSERT INTO customers (email) VALUES ('x'), ('y'), ('z')")
    checkpoint = world.checkpoint()
    other = world.connect("other")
    other.execute("INSERT INTO customers (email) VALUES ('theirs')")
    other.execute("UPDATE customers SET email = 'x by other' WHERE email = 'x'")
    world.do("UPDATE customers SET email = 'x by job' WHERE email = 'x by other'")
    world.do("UPDATE customers SET email = 'y by job' WHERE email = 'y'")
    other.execute("UPDATE customers SET email = 'y by other' WHERE email = 'y by job'")
    world.do("DELETE FROM customers WHERE email = 'z'")
    world.do("INSERT INTO customers (email) VALUES ('mine')")
    world.job.close()  # dead
    counts = world.restore(checkpoint)
    world.job = world.connect("job")
    assert counts["customers"] == {"undone": 3, "kept": 1}
    emails = [row[1] for row in world.rows()[0]]
    assert sorted(emails) == ["a@example.com", "b@example.com", "theirs", "x by other", "y by other", "z"]


def test_rows_of_every_kind_of_column_come_back_as_they_were(bare: World):
    world = bare
    world.options["tables"] = ['"Odd-Table"']
    world.do("CREATE TYPE mood AS ENUM ('sad', 'happy')")
    world.do("""
        CREATE TABLE "Odd-Table" (
          "The Key" bigint GENERATED ALWAYS AS IDENTITY, part text, gone int, f float8, n numeric, b bytea, j json,
          jb jsonb, a text[], ts timestamptz, d date, iv interval, m mood, mo money, u uuid DEFAULT gen_random_uuid(),
          twice float8 GENERATED ALWAYS AS (f * 2) STORED, ok boolean, PRIMARY KEY (part, "The Key"));
        ALTER TABLE "Odd-Table" DROP COLUMN gone;
        INSERT INTO "Odd-Table" (part, f, n, b, j, jb, a, ts, d, iv, m, mo, ok) VALUES
          ('p', 0.1, 'NaN', '\\x00ff', '{"a":  1, "a": 2}', 'null', '{a,NULL,"b c"}', 'infinity', '0044-03-15 BC',
           '-1 day +02:03:04.000005', 'happy', 12.5, true),
          ('', 'NaN', NULL, '', NULL, NULL, '{}', '2000-01-01 00:00:00.000001+05:30', NULL, NULL, NULL, NULL, false);
        SET datestyle = 'German'; SET intervalstyle = 'sql_standard'; SET timezone = 'Asia/Kolkata';
        SET extra_float_digits = -15; SET bytea_output = 'escape'
    """)
    checkpoint = world.checkpoint()
    text = 'SELECT array_agg(t::text ORDER BY part) FROM "Odd-Table" t'
    before = world.value(text)
    world.do("""UPDATE "Odd-Table" SET f = 7, n = 0, b = NULL, j = '{"a":1,"a":2}', jb = NULL, ts = now(), iv = '1 day',
                m = NULL, mo = 0, u = NULL""")
    world.do('DELETE FROM "Odd-Table"')
    world.do("""INSERT INTO "Odd-Table" (part) VALUES ('p')""")
    world.restore(checkpoint)
    assert world.value(text) == before
    assert world.value("SELECT nextval(pg_get_serial_sequence('\"Odd-Table\"', 'The Key'))") == 3


def test_an_emptied_table_is_filled_again_and_users_triggers_neither_fire_nor_change(world: World):
    world.do("""
        CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
          $$ BEGIN NEW.updated = clock_timestamp(); RETURN NEW; END $$;
        CREATE TRIGGER touch BEFORE INSERT OR UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION touch();
        CREATE TRIGGER off BEFORE INSERT ON customers FOR EACH ROW EXECUTE FUNCTION touch();
        ALTER TABLE customers DISABLE TRIGGER off
    """)
    states = (
        "SELECT array_agg(tgname || tgenabled::text ORDER BY tgname) FROM pg_trigger WHERE NOT tgisinternal"
    )
    checkpoint = world.checkpoint()
    before, triggers = world.rows(), world.value(states)
    world.do("UPDATE customers SET email = 'x' WHERE id = 1")
    world.do("TRUNCATE customers, orders RESTART IDENTITY")
    world.do("INSERT INTO customers (email) VALUES ('new')")
    world.restore(checkpoint)
    assert world.rows() == before
    assert world.value(states) == triggers


def test_a_row_that_the_jobs_trigger_changes_again_is_taken_back(world: World):
    world.do("""
        CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS
          $$ BEGIN UPDATE orders SET note = 'seen' WHERE id = NEW.id; RETURN NULL; END $$;
        CREATE TRIGGER a_first AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION again()
    """)
    checkpoint = world.checkpoint()
    before = world.rows()
    world.do("INSERT INTO orders (customer) VALUES (1), (2)")
    assert world.restore(checkpoint)["orders"]["kept"] == 0
    assert world.rows() == before


def test_what_one_statement_did_to_several_tables_is_taken_back(bare: World):
    world = bare
    world.options["tables"] = ["tree,up", "down", "loose"]
    world.do("""
        CREATE TABLE tree (id int PRIMARY KEY, above int REFERENCES tree ON DELETE CASCADE);
        CREATE TABLE up (id int PRIMARY KEY);
        CREATE TABLE down (id int PRIMARY KEY, up int NOT NULL REFERENCES up ON UPDATE CASCADE ON DELETE CASCADE);
        CREATE TABLE loose (id int PRIMARY KEY, up int REFERENCES up ON UPDATE CASCADE ON DELETE SET NULL,
                            place int UNIQUE DEFERRABLE INITIALLY DEFERRED);
        INSERT INTO tree VALUES (1, NULL), (2, 1), (3, 2), (4, 2);
        INSERT INTO up VALUES (1), (2); INSERT INTO down VALUES (1, 1), (2, 2);
        INSERT INTO loose VALUES (1, 1, 1), (2, 2, 2)
    """)
    tables = ("tree", "up", "down", "loose")
    keys = "SELECT array_agg(conname || condeferrable || condeferred ORDER BY conname) FROM pg_constraint"
    checkpoint = world.checkpoint()
    before, constraints = world.rows(*tables), world.value(keys)
    world.do("INSERT INTO tree VALUES (9, 8), (8, 1)")
    world.do("DELETE FROM tree WHERE id = 2")
    world.do("UPDATE up SET id = id + 10")
    world.do("UPDATE loose SET place = 3 - place")
    world.do("DELETE FROM up WHERE id = 12")
    world.do("DELETE FROM loose WHERE id = 2")
    assert {name: count["kept"] for name, count in world.restore(checkpoint).items()} == dict.fromkeys(
        tables, 0
    )
    assert world.rows(*tables) == before
    assert world.value(keys) == constraints


def test_a_writer_without_rights_to_the_history_writes_it(world: World):
    world.checkpoint()
    world.do("CREATE ROLE clerk LOGIN")
    world.do("GRANT SELECT, INSERT ON customers TO clerk; GRANT USAGE ON SEQUENCE customers_id_seq TO clerk")
    world.options["role"] = "clerk"
    checkpoint = world.checkpoint()
    with psycopg.connect(world.dsn, user="clerk") as clerk:
        clerk.execute("INSERT INTO customers (email) VALUES ('by clerk')")
    world.do("INSERT INTO customers (email) VALUES ('by tester')")
    assert world.restore(checkpoint)["customers"] == {"undone": 1, "kept": 0}
    assert [row[1] for row in world.rows()[0]][2:] == ["by tester"]
    world.do("DROP OWNED BY clerk; DROP ROLE clerk")


def test_the_history_is_kept_for_the_newest_checkpoints_only(world: World):
    world.options["keep"] = 2
    checkpoints = []
    for n in range(4):
        checkpoints.append(world.checkpoint())
        world.do("INSERT INTO customers (email) VALUES (%s)", f"customer {n}")
    assert world.value("SELECT count(*) FROM ckptrun.history") == 2
    assert "option keep" in world.refusal(checkpoints[1])
    assert world.restore(checkpoints[2])["customers"]["undone"] == 2


def test_a_complete_run_leaves_nothing_behind_and_an_interrupted_one_all(world: World):
    checkpoint = world.checkpoint()
    work(world)
    ended = {"by": "job", "code": 1}
    assert world.call("on-exit", "c-1", exit=ended).result == {"done": ["kept"]}
    assert world.value("SELECT count(*) FROM ckptrun.history") > 0
    assert world.call("on-exit", "c-1", exit={**ended, "code": 0}).result == {"done": ["forgotten"]}
    for table in ("history", "positions", "lineages"):
        assert world.value(f"SELECT count(*) FROM ckptrun.{table}") == 0
    assert world.value("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal") == 0
    assert "does not know" in world.refusal(checkpoint)


def test_a_run_that_was_taken_over_undoes_nothing(world: World):
    checkpoint = world.checkpoint()
    world.epoch = 2
    world.checkpoint()
    world.epoch = 0  # of a run that cannot reach its store
    world.checkpoint()
    world.epoch = 1
    assert "taken over" in world.refusal(checkpoint)
    assert "taken over" in world.refused_checkpoint()["reason"]


def test_two_lineages_share_a_table_only_if_their_changes_can_be_told_apart(world: World):
    world.checkpoint()
    world.lineage = "other"
    assert "lineage 'train' declares" in world.refused_checkpoint()["reason"]
    world.options["application_name"] = "other"
    assert "lineage 'train' declares" in world.refused_checkpoint()["reason"]
    world.lineage, world.options["application_name"] = "train", "job"
    world.checkpoint()
    world.lineage, world.options["application_name"] = "other", "other"
    world.checkpoint()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ('DROP TRIGGER "!ckptrun_history" ON orders', "triggers, which have been removed"),
        ('ALTER TABLE orders DISABLE TRIGGER "!ckptrun_history"', "triggers, which have been removed"),
        ("ALTER TABLE orders ADD COLUMN later int", "orders had other columns"),
        ("DROP TABLE orders", "table orders is not in the database"),
        ("ALTER TABLE orders RENAME TO o; CREATE TABLE orders (LIKE o)", "was another table"),
        ("DROP SCHEMA ckptrun CASCADE", 'schema "ckptrun" does not exist'),
    ],
)
def test_a_history_with_a_gap_is_refused_by_name(world: World, damage: str, words: str):
    checkpoint = world.checkpoint()
    world.do("INSERT INTO customers (email) VALUES ('after')")
    world.do(damage)
    assert words in world.refusal(checkpoint)
    assert len(world.rows("customers")[0]) == 3


def test_a_trigger_that_was_removed_is_there_again_at_the_next_checkpoint(world: World):
    old = world.checkpoint()
    world.do('DROP TRIGGER "!ckptrun_history" ON orders')
    new = world.checkpoint()
    world.do("DELETE FROM orders")
    assert world.restore(new)["orders"]["undone"] == 3
    assert "triggers, which have been removed" in world.refusal(old)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tables": ["nothing"]}, "table nothing is not in the database"),
        ({"tables": ["a b"]}, "is no name of a table"),
        ({"tables": ["seen"]}, "seen is no plain table"),
        ({"tables": ["keyless"]}, "table keyless has no primary key"),
        ({"tables": ["orders"], "mode": "delete"}, "tables=orders:id"),
        ({"tables": ["orders:what"], "mode": "delete"}, "no column 'what'"),
        ({"tables": ["orders:id"], "mode": "mark"}, "ADD COLUMN rewound_at timestamptz"),
        ({"tables": ["orders:id"], "mode": "delete", "role": "clerk"}, "go with mode=undo"),
        ({"dsn": "secret=secret"}, "no connection string"),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_checkpoint(
    world: World, options: dict[str, Any], words: str
):
    world.do("CREATE VIEW seen AS SELECT * FROM orders; CREATE TABLE keyless (a int)")
    world.options.update(options)
    result = world.refused_checkpoint()
    assert result["outcome"] == "failed"
    assert words in result["reason"]
    assert "secret" not in json.dumps(result)


def test_tables_of_anothers_are_refused(world: World):
    world.do("CREATE ROLE stranger LOGIN; GRANT ALL ON customers, orders TO stranger")
    world.options["dsn"] = world.dsn.replace("tester@", "stranger@")
    assert "must own table customers" in world.refused_checkpoint()["reason"]
    world.do("DROP OWNED BY stranger; DROP ROLE stranger")


def test_tables_that_changes_cascade_to_are_named(world: World):
    world.options["tables"] = ["customers"]
    answer = world.call("pre-checkpoint", "c-1")
    assert answer.event("postgres-undeclared")["tables"] == ["orders"]


def test_a_checkpoint_of_another_mode_or_without_the_hook_is_refused(world: World):
    checkpoint = world.checkpoint()
    assert "policy=ignore" in world.refusal((checkpoint[0], None))
    world.options.update(mode="delete", tables=["orders:id"])
    assert "taken with mode=undo" in world.refusal(checkpoint)


MODES = {
    "delete": "",
    "move": "",
    "mark": "ALTER TABLE customers ADD rewound_at timestamptz; ALTER TABLE orders ADD rewound_at timestamptz",
}


@pytest.mark.parametrize("mode", MODES)
def test_rows_put_in_after_the_checkpoint_are_known_by_the_column_that_grows(world: World, mode: str):
    world.do(MODES[mode] or "SELECT 1")
    world.options.update(mode=mode, tables=["customers:id", "orders:id"])
    checkpoint = world.checkpoint()
    before = world.rows()
    world.do("INSERT INTO customers (email) VALUES ('c'), ('d')")
    world.do("INSERT INTO orders (customer) VALUES (3), (1), (4)")
    assert world.restore(checkpoint, dry_run=True)["orders"] == {"undone": 3}
    for times in (1, 0):  # the second finds nothing
        assert world.restore(checkpoint) == {
            "orders": {"undone": 3 * times},
            "customers": {"undone": 2 * times},
        }
    if mode == "mark":
        assert [row[0] for row in world.rows("customers WHERE rewound_at IS NOT NULL")[0]] == [3, 4]
        assert len(world.rows("orders WHERE rewound_at IS NULL")[0]) == 3
    else:
        assert world.rows() == before
    if mode == "move":
        assert [row[0] for row in world.rows("customers_rewound")[0]] == [3, 4]
        assert (
            world.value("SELECT max(ckptrun_checkpoint || ckptrun_lineage) FROM orders_rewound") == "c-1train"
        )
    assert world.value("SELECT to_regnamespace('ckptrun') IS NULL"), "nothing is installed"


def test_all_rows_of_a_table_that_was_empty_came_after(world: World):
    world.do("DELETE FROM orders")
    world.options.update(mode="delete", tables="orders:id")
    checkpoint = world.checkpoint()
    world.do("INSERT INTO orders (customer) VALUES (1), (2)")
    assert world.restore(checkpoint) == {"orders": {"undone": 2}}


def test_a_hook_that_is_killed_in_the_middle_has_changed_nothing_and_the_next_does_it(world: World):
    checkpoint = world.checkpoint()
    before = world.rows()
    work(world)
    after = world.rows()
    # the undo stops where it settles this row
    stop = world.connect("stop")
    stop.execute("BEGIN")
    stop.execute("SELECT 1 FROM ckptrun.history WHERE seq = 2 FOR UPDATE")
    about = {"id": checkpoint[0], "trigger": "interval", "created": 1.5}
    given = context("pre-restore", options=world.options, epoch=1, checkpoint=about, data=checkpoint[1])
    hook = start("postgres", given)
    stuck = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ckptrun' AND wait_event_type = 'Lock'"
        " AND datname = current_database() AND query LIKE '%ckptrun.history%'"
    )
    deadline = time.monotonic() + PATIENCE
    while not world.value(stuck):
        assert time.monotonic() < deadline
        time.sleep(POLL_SECONDS)
    hook.kill()
    assert hook.wait().code == -signal.SIGKILL
    stop.execute("ROLLBACK")
    assert world.rows() == after
    world.restore(checkpoint)
    assert world.rows() == before


def test_the_locks_are_gone_when_the_one_who_began_the_checkpoint_is_dead(world: World):
    """As the end of ckptrun itself between the phases: here a process that ends after the hook's."""
    began = os.fork()
    if not began:
        try:
            world.begin("c-1")
        finally:
            os._exit(0)
    os.waitpid(began, 0)
    world.do("SET lock_timeout = '60s'")
    world.do("INSERT INTO customers (email) VALUES ('at once, not after the 120 s of option hold')")


def test_a_server_that_is_down_is_said_in_every_phase_and_later_tries_succeed():
    with PostgresServer() as server:
        world = World(server.url)
        world.do(ORDERS)
        checkpoint = world.checkpoint()
        before = world.rows()
        work(world)
        server.stop()
        for phase in ("pre-checkpoint", "post-checkpoint", "post-commit", "pre-restore", "on-exit"):
            ended = {"by": "job", "code": 0}
            result = world.call(phase, checkpoint[0], data=checkpoint[1], exit=ended).result
            wanted = "failed" if phase in {"post-commit", "on-exit"} else "retry"
            assert result["outcome"] == wanted, (phase, result)
            assert "Connection refused" in result["reason"], result
            assert "done" not in result
        server.start()
        world.job = world.connect("job")
        world.restore(checkpoint)
        assert world.rows() == before
        world.close()


def test_a_missing_package_is_said_with_what_to_install(world: World, tmp_path: Path):
    (tmp_path / "psycopg.py").write_text("raise ModuleNotFoundError('no psycopg', name='psycopg')")
    answer = hook_programs.call(
        "postgres", "pre-restore", {"PYTHONPATH": str(tmp_path)}, options=world.options
    )
    assert answer.result["outcome"] == "failed"
    assert "pip install 'ckptrun[postgres]'" in answer.result["reason"]


def test_the_options_are_as_the_schema_says(world: World):
    described = json.loads((hook_programs.HOOKS / "postgres" / "hook.json").read_text())
    jsonschema.validate(described, json.loads((SCHEMAS / "hook.json").read_text()))
    jsonschema.validate(world.options, described["options"])
