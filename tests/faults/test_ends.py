"""SIGKILL for ckptrun anywhere between the end of its job and its own: the same command again ends as it would have.

A job whose end is in the store is not run again, whatever else was still to be done; any other goes on from its
checkpoint. No mail is lost or sent twice, no hook is left out, and nothing is thrown away that a restore needs.
"""

from __future__ import annotations

import json
import signal
import sys
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from injected import RAISE, Fault
from support import postgres
from support.run import RESTORED, STARTED

from ckptrun.core.model import RunState
from ckptrun.store.repository import Lineage, open_backend

if TYPE_CHECKING:
    from support.postgres import PostgresServer
    from support.run import Lab, Result, Run

pytestmark = pytest.mark.slow
postgres_server = postgres.postgres_server

JOB = """
import sys, time
from pathlib import Path
import mailing
from ckptrun import job
from ckptrun.job import effects, state

effects.deferred("first", {"text": "first"}, mailing.send)
job.checkpoint(wait=True)
effects.deferred("last", {"text": "last"}, mailing.send)
state.put("step", b"2")
print("ready", flush=True)
while not Path("go").exists():
    time.sleep(0.01)
sys.exit(int(Path("go").read_text()))
"""
MAILING = """
from pathlib import Path
def send(payload, key):
    with Path(__file__).with_name("mails").open("a") as file:
        print(payload["text"], file=file)
"""
HOOK = f"""#!{sys.executable} -IS
import json, pathlib, sys
with pathlib.Path(__file__).with_name("told").open("a") as file:
    print(json.dumps(json.load(sys.stdin)["exit"]), file=file)
"""
WELL = {"by": "job", "code": 0, "final": True}
WRITER, CLOSE = "ckptrun.store.writer:Writer", "ckptrun.supervisor.vault:Vault.close"
HOOKS, BOOK = "ckptrun.supervisor.hooks:RunsHooks", "ckptrun.effects.book:Book"

UNKNOWN = [
    Fault("ckptrun.supervisor.incarnation:Incarnation._report"),
    Fault(f"{WRITER}.set_run", about="FINISHED"),
]
"""The job has ended well, and the store does not know it."""
UNFINISHED = {
    Fault(f"{WRITER}.set_run", "after", about="FINISHED"): 1,
    Fault(f"{HOOKS}.end"): 1,
    Fault(f"{HOOKS}.end", "after"): 2,
    Fault(f"{BOOK}.close"): 2,
    Fault(f"{WRITER}.keep_state"): 2,
    Fault(f"{WRITER}.close"): 2,
}
"""The store knows it, and not all that follows is done; and how often the hook is told in all."""


class Place:
    """A lab with a job that ends when it is let, its mails, and what its hook was told."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.folder = lab.folder / "beside"
        self.folder.mkdir()
        for name, text in (("job.py", JOB), ("mailing.py", MAILING), ("hook", HOOK)):
            (self.folder / name).write_text(text)
        (self.folder / "hook").chmod(0o755)
        self.options = ("--interval", "off", "--hook", f"{self.folder / 'hook'}?phases=on-exit")

    def start(self, *options: str) -> Run:
        return self.lab.start(sys.executable, self.folder / "job.py", options=(*self.options, *options))

    def cut_off(self, fault: Fault, code: int = 0, *options: str) -> None:
        """Run until the fault strikes, the job having ended with `code`."""
        lab = self.lab
        lab.program = fault.program()
        run = self.start(*options)
        lab.program = type(lab).program
        self.go(run, code)
        assert run.wait().code == -signal.SIGKILL, run.story()
        lab.expect_nothing_left()

    def go(self, run: Run, code: int = 0) -> None:
        run.prints("ready")
        fresh = self.lab.work / "fresh"
        fresh.write_text(str(code))
        fresh.replace(self.lab.work / "go")

    def again(self) -> tuple[Result, list[str]]:
        """Run the same command again; return its result and how its incarnations began."""
        known = len(self.lab.events())
        result = self.start().wait()
        began = [event["event"] for event in self.lab.events()[known:]]
        return result, [name for name in began if name in {STARTED, RESTORED}]

    @property
    def told(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "told").read_text().splitlines()]

    def is_over(self) -> bool:
        """Check that everything that follows a good end is done, once."""
        assert sorted((self.folder / "mails").read_text().split()) == ["first", "last"]
        head = Lineage(open_backend(self.lab.store), self.lab.name, None).head()
        assert head is not None
        assert head.state or head.seq > 1, "what the job has put into its state since its first checkpoint"
        return (head.owner, head.run.state, head.run.ending) == (None, RunState.FINISHED, False)


@pytest.fixture
def place(lab: Lab) -> Place:
    return Place(lab)


@pytest.mark.parametrize("fault", UNKNOWN, ids=str)
def test_a_job_whose_end_the_store_does_not_know_goes_on_from_its_checkpoint(place: Place, fault: Fault):
    place.cut_off(fault)
    result, began = place.again()
    assert (result.code, began) == (0, [RESTORED]), result.err
    assert place.told == [WELL]
    assert place.is_over()


@pytest.mark.parametrize("fault", UNFINISHED, ids=str)
def test_a_job_whose_end_the_store_knows_is_not_run_again_and_what_follows_is_done(
    place: Place, fault: Fault
):
    place.cut_off(fault)
    assert place.lab.ask("ls", "--json").json[0]["state"] == "interrupted"
    result, began = place.again()
    assert (result.code, began) == (0, []), result.err
    assert "had ended well when ckptrun was killed" in result.err
    assert place.told == [WELL] * UNFINISHED[fault]
    assert place.is_over()


def test_a_run_whose_end_is_all_in_the_store_is_not_seen_through_again(place: Place):
    place.cut_off(Fault(f"{WRITER}.close", "after"))
    assert place.is_over()
    result, began = place.again()
    assert (result.code, began) == (0, [STARTED]), result.err
    assert place.told == [WELL] * 2, "of two runs"


def test_a_run_that_gives_up_is_told_to_its_hooks_before_the_store_and_can_be_gone_on_with(place: Place):
    place.cut_off(Fault(CLOSE), 3, "--restart", "never")
    (place.lab.work / "go").write_text("0")
    result, began = place.again()
    assert (result.code, began) == (0, [RESTORED]), result.err
    assert place.told == [{"by": "job", "code": 3, "final": False}, WELL]
    assert place.is_over()


def test_a_stopped_run_is_told_to_its_hooks_before_the_store_and_can_be_gone_on_with(place: Place):
    lab = place.lab
    lab.program = Fault(CLOSE).program()
    run = place.start()
    lab.program = type(lab).program
    run.prints("ready")
    run.process.send_signal(signal.SIGTERM)
    assert run.wait().code == -signal.SIGKILL, run.story()
    (lab.work / "go").write_text("0")
    result, began = place.again()
    assert (result.code, began) == (0, [RESTORED]), result.err
    assert place.told == [{"by": "ckptrun", "code": 75, "final": False}, WELL]
    assert place.is_over()


def test_hooks_are_told_of_an_end_that_the_store_does_not_take(place: Place):
    place.lab.program = Fault(f"{WRITER}.set_run", about="FINISHED", nth=0, act=RAISE).program()
    run = place.start()
    place.go(run)
    result = run.wait()
    assert result.code == 0
    assert "the end of this run could not be recorded" in result.err
    assert place.told == [{**WELL, "final": False}]


@pytest.mark.parametrize("fresh", [True, False], ids=["--fresh", "restore --at"])
def test_who_asks_for_something_else_gets_that_in_place_of_the_rest_of_an_end(place: Place, fresh: bool):
    lab = place.lab
    place.cut_off(Fault(f"{HOOKS}.end"))
    known = len(lab.events())
    if fresh:
        run = place.start("--fresh")
        run.event(STARTED, after=known)
    else:
        (checkpoint,) = lab.checkpoints()
        run = lab.restore("--at", checkpoint["id"])
        assert run.event(RESTORED, after=known)["checkpoint"] == checkpoint["id"]
    assert run.wait().code == 0


WRITING = """
import os, time
from pathlib import Path
import psycopg
from ckptrun import job
connection = None
def connect():
    global connection
    connection = psycopg.connect(os.environ["DSN"], autocommit=True, application_name="writing")
connect()
job.on_restore(connect)
connection.execute("UPDATE total SET n = n + 1")
job.checkpoint(wait=True)
with job.critical():
    connection.execute("UPDATE total SET n = n + 10")
"""


@pytest.mark.parametrize(
    "fault",
    [Fault(f"{HOOKS}.end"), Fault("ckptrun.supervisor.ledger:Effects.finish"), Fault(CLOSE, "after")],
    ids=str,
)
def test_the_history_of_tables_is_forgotten_only_when_nothing_goes_back_in_it_any_more(
    lab: Lab, postgres_server: PostgresServer, fault: Fault
):
    dsn = postgres_server.database()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE total (id int PRIMARY KEY DEFAULT 1, n int)")
        connection.execute("INSERT INTO total (n) VALUES (0)")
        lab.environment = {"DSN": dsn}
        job = (sys.executable, "-c", WRITING)
        options = ("--interval", "off", "--hook", "postgres?dsn=$DSN&tables=total&application_name=writing")
        lab.program = fault.program()
        run = lab.start(*job, options=options)
        assert run.wait().code == -signal.SIGKILL, run.story()
        lab.program = type(lab).program
        again = lab.start(*job, options=options).wait()
        assert again.code == 0, again.err
        runs = len(lab.events(STARTED))
        assert connection.execute("SELECT n FROM total").fetchone() == (11 * runs,)
        assert connection.execute("SELECT count(*) FROM ckptrun.lineages").fetchone() == (0,)
        assert runs == (2 if fault.when == "after" else 1)
