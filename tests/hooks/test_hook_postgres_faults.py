"""The ready-made hook `postgres`: what cannot be, what goes wrong, and what of it may be believed afterwards."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import psycopg
import pytest
from support import hook_programs
from support.forked_hooks import start
from support.hook_programs import context
from support.postgres import PostgresServer
from support.postgres_world import ORDERS, World, empty, work
from support.processes import PATIENCE, POLL_SECONDS

import ckptrun.hooking

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

SCHEMAS = Path(ckptrun.hooking.__file__).parent / "schema"


@pytest.fixture(scope="module")
def database(postgres_server: PostgresServer) -> str:
    return postgres_server.database()


@pytest.fixture
def bare(database: str) -> Iterator[World]:
    empty(database)
    world = World(database)
    yield world
    world.close()


@pytest.fixture
def world(bare: World) -> World:
    bare.do(ORDERS)
    return bare


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
        ({"dsn": "postgresql://me:more@secret@nowhere/db"}, "write an @ in a password as %40"),
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
            ended = {"by": "job", "code": 0, "final": True}
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


def test_an_undo_that_takes_too_long_says_what_to_raise_and_changes_nothing(world: World):
    checkpoint = world.checkpoint()
    work(world)
    after = world.rows()
    with world.connect("stop") as stop, stop.transaction():
        stop.execute("SELECT 1 FROM ckptrun.history WHERE seq = 2 FOR UPDATE")
        assert "timeout=10m" in world.refusal(checkpoint, timeout=3.0)
    assert world.rows() == after
