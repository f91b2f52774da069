"""Idempotency keys: stable over replays, another for each repetition, and sent by the adapters."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import boto3
import httpx
import pytest
from botocore.stub import ANY, Stubber
from effectkit import Supervisor, under

from ckptrun.effects.ledger import open_ledger
from ckptrun.job import _keys, effects
from ckptrun.job._errors import UsageError
from ckptrun.job.adapters import boto3 as boto3_adapter
from ckptrun.job.adapters import httpx as httpx_adapter
from ckptrun.job.adapters.requests import Session

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.charging import Charging


class Memory:
    """The part of the job's memory that keys live in: `back` is a restore."""

    def __init__(self) -> None:
        self._kept = (dict(_keys._counters), _keys._scope)

    def back(self) -> None:
        _keys._counters.clear()
        _keys._counters.update(self._kept[0])
        _keys._scope = self._kept[1]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    before = Memory()
    _keys._counters.clear()
    _keys._scope = ""
    supervisor = Supervisor(open_ledger(f"sqlite://{tmp_path}/effects.sqlite", "train"), 1)
    supervisor.book.fresh()
    with under(supervisor, monkeypatch):
        yield supervisor
    before.back()


def test_a_key_differs_for_each_repetition_and_is_repeated_by_a_replay(run: Supervisor):
    first = effects.key("step", 1)
    memory = Memory()
    later = [effects.key("step", 1), effects.key("step", 2), effects.key("step", 1), effects.key("step", "1")]
    assert len({first, *later}) == 5
    memory.back()
    run.book.rewind(run.book.mark())
    assert [
        effects.key("step", 1),
        effects.key("step", 2),
        effects.key("step", 1),
        effects.key("step", "1"),
    ] == later
    assert all(len(key) < 64 and key.isascii() for key in later)


def test_a_job_that_starts_anew_after_it_has_finished_gets_other_keys(run: Supervisor):
    first = effects.key("step")
    run.book.close()
    run.book.fresh()
    _keys._counters.clear()
    _keys._scope = ""
    assert effects.key("step") != first


def test_keys_inside_an_effect_are_its_own_whether_it_is_replayed_or_not(run: Supervisor):
    inside: list[str] = []

    def step() -> None:
        inside.extend([effects.key(), effects.key("part"), effects.key("part")])

    mark, memory = run.book.mark(), Memory()
    effects.once("a", step)
    after = effects.key("part")
    assert len({*inside, after}) == 4
    memory.back()
    run.book.rewind(mark)
    effects.once("a", step)  # it is given the result, and does not run
    assert effects.key("part") == after
    effects.once("b", step)
    assert not set(inside[:3]) & set(inside[3:])


@pytest.mark.usefixtures("run")
def test_outside_an_effect_a_key_needs_a_name():
    with pytest.raises(UsageError, match="needs a name"):
        effects.key()


@pytest.mark.usefixtures("run")
def test_a_forked_child_counts_apart():
    effects.key("step")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, effects.key("step").encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reading, 100).decode()
    os.close(reading)
    os.close(writing)
    assert theirs
    assert theirs != effects.key("step")


def crash_after(charge: Any) -> Any:
    def dies() -> None:
        charge()
        raise KeyboardInterrupt

    return dies


def clients(charging: Charging) -> dict[str, Any]:
    def with_requests() -> Any:
        with Session() as session:
            return session.post(charging.url, params={"amount": 5}).json()

    def with_httpx() -> Any:
        with httpx_adapter.with_keys(httpx.Client()) as client:
            return client.post(charging.url, params={"amount": 5}).json()

    def with_async_httpx() -> Any:
        async def charge() -> Any:
            async with httpx_adapter.with_keys(httpx.AsyncClient()) as client:
                return (await client.post(charging.url, params={"amount": 5})).json()

        return asyncio.run(charge())

    return {"requests": with_requests, "httpx": with_httpx, "async httpx": with_async_httpx}


@pytest.mark.parametrize("library", ["requests", "httpx", "async httpx"])
def test_a_charge_whose_record_was_lost_is_repeated_and_charged_once(
    run: Supervisor, charging: Charging, library: str
):
    charge = clients(charging)[library]
    mark, memory = run.book.mark(), Memory()
    with pytest.raises(KeyboardInterrupt):
        effects.once("charge", crash_after(charge), unsettled="retry")
    memory.back()
    run.book.rewind(mark)
    assert effects.once("charge", charge, unsettled="retry") == {"charge": 1}
    assert len(charging.requests) == 2
    assert list(charging.charges.values()) == [5]
    assert charge() == {"charge": 2}  # a step of its own
    memory.back()
    assert charge() == {"charge": 2}  # and its replay


@pytest.mark.usefixtures("run")
def test_a_key_that_was_given_is_kept_and_reading_carries_none(charging: Charging):
    with Session() as session:
        session.post(charging.url, params={"amount": 1}, headers={"Idempotency-Key": "mine"})
        assert "Idempotency-Key" not in session.get(charging.url).request.headers
    with httpx_adapter.with_keys(httpx.Client()) as client:
        client.post(charging.url, params={"amount": 1}, headers={"Idempotency-Key": "mine"})
    assert charging.charges == {"mine": 1}


@pytest.mark.usefixtures("run")
def test_boto3_sends_tokens_that_a_replay_repeats():
    place = {"region_name": "us-east-1", "aws_access_key_id": "x", "aws_secret_access_key": "y"}
    tokens: list[str] = []
    queue = boto3_adapter.with_keys(boto3.client("sqs", **place))
    tasks = boto3_adapter.with_keys(boto3.client("ecs", **place))
    for client, name in ((queue, "SendMessage"), (tasks, "RunTask")):
        client.meta.events.register(
            f"before-parameter-build.{client.meta.service_model.service_name}.{name}",
            lambda params, **_: tokens.append(params.get("MessageDeduplicationId") or params["clientToken"]),
        )
    url = "https://sqs.us-east-1.amazonaws.com/1/orders.fifo"
    memory = Memory()
    for _ in range(2):
        with Stubber(queue) as stub, Stubber(tasks) as other:
            for _ in range(2):
                stub.add_response(
                    "send_message",
                    {"MessageId": "1"},
                    {
                        "QueueUrl": url,
                        "MessageBody": "m",
                        "MessageGroupId": "g",
                        "MessageDeduplicationId": ANY,
                    },
                )
            other.add_response("run_task", {}, {"taskDefinition": "t", "clientToken": ANY})
            for _ in range(2):
                queue.send_message(QueueUrl=url, MessageBody="m", MessageGroupId="g")
            tasks.run_task(taskDefinition="t")
        memory.back()
    assert tokens[:3] == tokens[3:]
    assert len(set(tokens)) == 3
