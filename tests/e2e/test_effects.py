"""Effects of a real job, killed and restored here and elsewhere: the world outside is as if nothing had happened."""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.postgres import PostgresServer
    from support.run import Lab

pytestmark = pytest.mark.slow

JOB = (sys.executable, Path(__file__).parent / "jobs" / "effects_job.py")


class Outside:
    """A service that remembers every call, and names it in its answer."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        calls = self.calls

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                calls.append(self.path[1:])
                body = f"got-{self.path[1:]}".encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def outside(lab: Lab) -> Iterator[Outside]:
    service = Outside()
    lab.environment = {"OUTSIDE": service.url}
    yield service
    service.server.shutdown()
    service.server.server_close()


def words(out: str, name: str) -> list[list[str]]:
    return [line.split()[1:] for line in out.splitlines() if line.split()[:1] == [name]]


AS_IF_NOTHING = [
    "open",
    "mail-hello-welcome",
    "charge",
    "take-a",
    "take-b",
    "release-b-b-got-take-b",
    "mail-second-bye",
]


@pytest.mark.usefixtures("held")
def test_after_a_failure_nothing_is_repeated_what_was_dropped_is_undone_and_the_rest_is_sent(
    lab: Lab, outside: Outside
):
    run = lab.start(*JOB)
    run.prints("ready")
    run.until("the first mail", lambda: "mail-hello-welcome" in outside.calls)
    shown = {row["key"]: row["state"] for row in lab.ask("effects", "--json").json}
    assert shown == {
        "open": "done", "welcome": "sent", "charge": "done", "a": "done", "b": "done", "bye": "queued"
    }  # fmt: skip
    run.restored(run.kill_job)
    run.until("it is ready again", lambda: run.stdout.data.count(b"\nready") == 2)
    assert {row["key"] for row in lab.ask("effects", "--json").json if row["pending"]} == {"b"}
    result = run.finish()
    assert result.code == 0, result.err
    assert sorted(outside.calls) == sorted(AS_IF_NOTHING)
    first, second = words(result.out, "charged")
    assert first == second  # the result, and the key of the step
    assert first[1] != words(result.out, "key")[0][0]
    assert lab.events("effects-rewound")[0]["pend"] == 2
    assert [event["key"] for event in lab.events("effect-undone")] == ["b"]
    again = lab.run(*JOB)
    assert again.code == 0, again.err
    assert words(again.out, "charged")[0] != first
    assert outside.calls.count("charge") == 2


@pytest.mark.usefixtures("held")
def test_a_ledger_in_postgresql_goes_with_the_job_to_another_machine_and_is_waited_for(
    lab: Lab, outside: Outside, postgres_server: PostgresServer
):
    lab.options = ("--ledger", postgres_server.database(), "--require-ledger")
    run = lab.start(*JOB)
    run.prints("ready")
    run.until("the first mail", lambda: "mail-hello-welcome" in outside.calls)
    plan = lab.ask("restore", "--dry-run", "--json", *lab.options[:2])
    assert plan.code == 0, plan.err
    assert [(row["action"], row["key"]) for row in plan.json["effects"]] == [
        ("keep", "charge"), ("pend", "a"), ("pend", "b"), ("cancel", "bye")
    ]  # fmt: skip
    postgres_server.stop()
    try:
        before = len(lab.events())
        run.kill_job()
        run.event("restore-failed", after=before)
    finally:
        postgres_server.start()
    run.event("job-restored", after=before)
    run.kill_supervisor()
    lab.lose_machine()
    result = lab.start(*JOB).finish()
    assert result.code == 0, result.err
    assert sorted(outside.calls) == sorted(AS_IF_NOTHING)


@pytest.mark.usefixtures("held")
def test_a_ledger_that_was_lost_is_said_and_refused_where_it_is_required(lab: Lab, outside: Outside):
    run = lab.start(*JOB)
    run.prints("ready")
    run.kill_supervisor()
    lab.lose_machine()
    plan = lab.ask("restore", "--dry-run", "--json").json
    assert plan["lost"]
    assert "it is empty" in plan["warning"]
    refused = lab.start(*JOB, options=("--require-ledger",)).wait()
    assert refused.code == 74, refused.err
    assert "is not the one that the checkpoint counts on: it is another ledger, or a new one" in refused.err
    result = lab.start(*JOB).finish()
    assert result.code == 0, result.err
    assert "effects may be repeated" in result.err
    assert outside.calls.count("charge") == 2  # the one thing that a lost ledger costs


OUTBOX = """
import json, os

def hook(context):
    with open("calls", "a") as file:
        print(json.dumps(context["messages"]), file=file)
    if os.path.exists("down"):
        raise OSError("the outbox is down")
    return {"released": [message["key"] for message in context["messages"]]}
"""
DEFERRING = """
import pathlib, time
from ckptrun import job
from ckptrun.job import effects

effects.deferred("first", {"n": 1})
job.checkpoint(wait=True)
effects.deferred("second", {"again": job.restores()})
print("ready", flush=True)
while pathlib.Path("hold").exists():
    time.sleep(0.01)
"""


@pytest.mark.usefixtures("held")
def test_messages_without_a_sender_go_to_a_hook_after_the_commit_again_after_a_failure_and_at_the_end(
    lab: Lab,
):
    (lab.work / "outbox.py").write_text(OUTBOX)
    (lab.work / "down").touch()
    run = lab.start(
        sys.executable, "-c", DEFERRING, options=("--hook", "outbox:hook?messages=yes&phases=post-commit")
    )
    run.prints("ready")
    run.event("hook")

    def shown() -> dict[str, tuple[str, str]]:
        return {row["key"]: (row["state"], row["sender"]) for row in lab.ask("effects", "--json").json}

    waits = ("queued", "hooks")
    run.until("it waits again", lambda: shown() == {"first": waits, "second": waits})
    assert "queued, for hooks" in lab.ask("effects").out
    plan = lab.ask("restore", "--dry-run", "--json").json
    assert [(row["action"], row["key"]) for row in plan["effects"]] == [
        ("cancel", "second"),
        ("hand", "first"),
    ]
    (lab.work / "down").unlink()
    run.restored(run.kill_job)
    run.until("it is ready again", lambda: run.stdout.data.count(b"ready\n") == 2)
    result = run.finish()
    assert result.code == 0, result.err
    calls = [json.loads(line) for line in (lab.work / "calls").read_text().splitlines()]
    assert [[(one["key"], one["payload"]) for one in call] for call in (calls[0], calls[-1])] == [
        [("first", {"n": 1})], [("first", {"n": 1}), ("second", {"again": 1})]
    ]  # fmt: skip
    assert calls[0][0]["id"] == calls[-1][0]["id"]
    assert [event["key"] for event in lab.events("effect-sent")] == ["first", "second"]


def test_a_message_that_no_hook_takes_is_named_at_once_and_at_the_end(lab: Lab):
    job = "from ckptrun.job import effects; effects.deferred('alone', 1)"
    result = lab.run(sys.executable, "-c", job)
    assert result.code == 0
    assert "message 'alone' has no sender and waits for a hook that takes messages" in result.err
    assert "1 message waits for a hook, the first is 'alone': no hook takes messages" in result.err
