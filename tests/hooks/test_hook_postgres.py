"""The ready-made hook `postgres` as a program, against a real server: what a restore finds in the tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
from support.postgres_world import ORDERS, World, empty, work

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.postgres import PostgresServer


pytestmark = pytest.mark.slow


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


def test_a_dry_run_of_any_other_phase_installs_nothing_and_keeps_nobody_out(world: World):
    for phase in ("pre-checkpoint", "post-checkpoint", "post-commit", "on-exit"):
        done = {"outcome": {"ok": True, "error": None}, "exit": {"by": "job", "code": 0, "final": True}}
        assert world.call(phase, "c-1", dry_run=True, **done).result.get("outcome", "ok") == "ok"
    assert world.job.execute("SELECT to_regnamespace('ckptrun')").fetchone() == (None,)
    held = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'ckptrun-hold:%'"
    assert world.job.execute(held + " AND datname = current_database()").fetchone() == (0,)
    reason = world.call("pre-checkpoint", "c-1", dry_run=True).result["reason"]
    assert reason == "would keep writers out of customers, orders until the checkpoint is taken"


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
    other.execute("INSERT INTO customers (email) VALUES ('z')")
    world.do("INSERT INTO customers (email) VALUES ('mine too')")
    world.job.close()  # dead
    counts = world.restore(checkpoint)
    world.job = world.connect("job")
    assert counts["customers"] == {"undone": 3, "kept": 2}
    emails = [row[1] for row in world.rows()[0]]
    assert sorted(emails) == ["a@example.com", "b@example.com", "theirs", "x by other", "y by other", "z"]


def test_rows_of_every_kind_of_column_come_back_as_they_were(bare: World):
    world = bare
    world.options["tables"] = ['"Odd-Table"']
    world.options["dsn"] += "?options=-c%20datestyle%3DSQL,DMY%20-c%20intervalstyle%3Dsql_standard"
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


def test_the_history_reaches_back_to_what_can_still_be_restored_and_no_further(world: World):
    """The second is pinned, say; of the others only the newest is kept."""
    checkpoints = []
    for n in range(5):
        checkpoints.append(world.checkpoint())
        world.do("INSERT INTO customers (email) VALUES (%s)", f"customer {n}")
        world.kept = ["c-2"] if n else []
    assert world.value("SELECT count(*) FROM ckptrun.history") == 4
    assert world.job.execute("SELECT checkpoint FROM ckptrun.positions ORDER BY id").fetchall() == [
        ("c-2",),
        ("c-5",),
    ]
    for one in (0, 2, 3):
        assert "the store had let go of it" in world.refusal(checkpoints[one])
    assert world.restore(checkpoints[1])["customers"]["undone"] == 4


def test_a_commit_forgets_nothing_that_came_after_it_or_where_nobody_knows_what_is_kept(world: World):
    """Another checkpoint may be under way when the hooks of a commit run."""
    first, second = world.checkpoint(), world.checkpoint()
    data = world.begin("c-9")
    world.kept = []
    world.commit(*second)
    data |= world.end("c-9", data)["data"]
    world.do("INSERT INTO customers (email) VALUES ('later')")
    assert world.call("post-commit", "c-9", data=data).result == {"done": ["trimmed"]}
    assert world.call("post-commit", "c-9", data=data, kept=None).result == {"done": ["trimmed"]}
    assert "the store had let go of it" in world.refusal(first)
    assert world.restore(("c-9", data))["customers"]["undone"] == 1
    assert world.restore(second)["customers"]["undone"] == 0


def test_a_complete_run_leaves_nothing_behind_and_an_interrupted_one_all(world: World):
    checkpoint = world.checkpoint()
    work(world)
    ended = {"by": "job", "code": 1, "final": False}
    assert world.call("on-exit", "c-1", exit=ended).result == {"done": ["kept"]}
    assert world.value("SELECT count(*) FROM ckptrun.history") > 0
    assert world.call("on-exit", "c-1", exit={**ended, "code": 0, "final": True}).result == {
        "done": ["forgotten"]
    }
    for table in ("history", "positions", "lineages"):
        assert world.value(f"SELECT count(*) FROM ckptrun.{table}") == 0
    assert world.value("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal") == 0
    assert "does not know" in world.refusal(checkpoint)


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
