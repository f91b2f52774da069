"""The ready-made hook `webhook` against a real HTTP server."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import TYPE_CHECKING, Any

import pytest
from support.hook_programs import HOOKS, Answer, call, call_inside
from support.ports import free_ports
from support.receiver import Delivery, Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "s3cr3t-key"
PATH = "/services/T000/B000/t0ken"
PHASES = json.loads((HOOKS / "webhook" / "hook.json").read_text())["phases"]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def post(
    receiver: Receiver | str, phase: str = "post-commit", fields: dict[str, Any] | None = None, **options: Any
):
    base = receiver if isinstance(receiver, str) else receiver.url
    return call_inside("webhook", phase, options={"url": f"{base}{PATH}", **options}, **(fields or {}))


def signature(delivery: Delivery, secret: str = SECRET) -> str:
    moment = delivery.headers["X-Ckptrun-Timestamp"]
    text = moment.encode() + b"." + delivery.body
    return "sha256=" + hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()


def is_silent(answer: Answer) -> bool:
    return not any(secret in answer.out + answer.err for secret in (SECRET, "t0ken"))


@pytest.mark.parametrize("phase", PHASES)
def test_posts_every_phase_signed(receiver: Receiver, phase: str):
    answer = post(receiver, phase, secret=SECRET)
    assert answer.result["done"] == ["posted"]
    (delivery,) = receiver.deliveries
    assert (delivery.path, delivery.json["phase"]) == (PATH, phase)
    assert delivery.headers["X-Ckptrun-Signature"] == signature(delivery)
    assert is_silent(answer)


def test_the_message_has_what_happened_and_nothing_that_may_be_secret(receiver: Receiver):
    cause = {"kind": "oom", "code": None, "signal": 9, "text": "out of memory"}
    post(receiver, "on-failure", {"cause": cause, "data": {"hidden": "d4ta"}}, secret=SECRET)
    (delivery,) = receiver.deliveries
    assert delivery.json["cause"] == cause
    assert delivery.json["checkpoint"]["id"] == "c-1"
    assert not {"options", "data", "job", "command"} & set(delivery.json)
    assert SECRET.encode() not in delivery.body
    assert b"d4ta" not in delivery.body


def test_without_a_secret_nothing_is_signed(receiver: Receiver):
    assert post(receiver).code == 0
    assert not {"X-Ckptrun-Signature", "X-Ckptrun-Timestamp"} & set(receiver.deliveries[0].headers)


def test_the_idempotency_key_is_the_same_for_the_same_event_and_no_other(receiver: Receiver):
    other = {"id": "c-2", "trigger": "interval", "created": 0}
    for fields in ({}, {}, {"incarnation": 4}, {"checkpoint": other}, {"run": "run-2"}, {"lineage": "else"}):
        post(receiver, fields=fields)
    post(receiver, "on-exit")
    keys = [delivery.headers["Idempotency-Key"] for delivery in receiver.deliveries]
    assert keys[0] == keys[1]
    assert len(set(keys)) == len(keys) - 1


def test_a_try_that_fails_is_repeated_with_the_same_key(receiver: Receiver):
    receiver.answers[:] = [(503, {}), (429, {"Retry-After": "0"}), (200, {})]
    assert post(receiver).code == 0
    assert len({delivery.headers["Idempotency-Key"] for delivery in receiver.deliveries}) == 1
    assert len(receiver.deliveries) == 3


def test_tries_are_counted(receiver: Receiver):
    receiver.answers[:] = [(500, {})] * 9
    answer = post(receiver, retries=1)
    assert answer.reason == f"{receiver.url} did not take the message: it answers 500"
    assert len(receiver.deliveries) == 2


def test_what_will_not_pass_is_not_repeated(receiver: Receiver):
    receiver.answers[:] = [(403, {})]
    assert "it answers 403" in post(receiver).reason
    assert len(receiver.deliveries) == 1


def test_a_pause_beyond_the_hooks_time_is_not_waited_for(receiver: Receiver):
    receiver.answers[:] = [(503, {"Retry-After": "3600"})]
    assert "it answers 503" in post(receiver).reason
    assert len(receiver.deliveries) == 1


def test_a_receiver_that_never_answers_fails_in_its_time(receiver: Receiver):
    receiver.answers[:] = [None]
    answer = post(receiver, retries=0, patience=0.1, secret=SECRET)
    assert answer.reason.endswith("no answer within 0.1 s")
    assert is_silent(answer)


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_password_that_is_not_encoded_is_not_taken_for_a_place(dry_run: bool):
    url = f"http://me:{SECRET}/more@127.0.0.1:1/"
    answer = call("webhook", "on-exit", options={"url": url}, dry_run=dry_run)
    assert answer.reason.startswith("url= is not a URL; correct it")
    assert SECRET not in answer.out + answer.err


def test_a_receiver_that_is_down_is_named_without_the_secrets():
    (port,) = free_ports(1)
    answer = post(f"http://user:{SECRET}@127.0.0.1:{port}", retries=1)
    assert answer.reason.startswith(f"http://127.0.0.1:{port} did not take the message: it cannot be reached")
    assert is_silent(answer)


def test_a_redirect_on_the_same_host_is_followed(receiver: Receiver):
    receiver.answers[:] = [(308, {"Location": "/moved"})]
    assert post(receiver, secret=SECRET).code == 0
    first, second = receiver.deliveries
    assert (second.path, second.body) == ("/moved", first.body)


def test_a_redirect_to_another_host_is_refused(receiver: Receiver):
    with Receiver() as other:
        receiver.answers[:] = [(307, {"Location": f"{other.url}/t0ken"})]
        answer = post(receiver, secret=SECRET)
    assert answer.reason.endswith(f"it redirects to {other.url}; if that is right, give that URL")
    assert other.deliveries == []
    assert is_silent(answer)


def test_redirects_that_turn_a_post_into_a_get_and_loops_are_refused(receiver: Receiver):
    receiver.answers[:] = [(302, {"Location": "/moved"})]
    assert "turns a POST into a GET" in post(receiver).reason
    receiver.answers[:] = [(307, {"Location": "/again"})] * 9
    assert "more than 3 times" in post(receiver).reason


def test_slack_gets_a_sentence_in_which_nothing_of_the_jobs_is_markup(receiver: Receiver):
    cause = {"kind": "exit", "code": 1, "signal": None, "text": "exit code 1 <!channel> & more"}
    post(receiver, "on-failure", {"cause": cause}, format="slack")
    (delivery,) = receiver.deliveries
    assert set(delivery.json) == {"text"}
    text = delivery.json["text"]
    assert text == "*train* on-failure `c-1` (incarnation 3) - exit code 1 &lt;!channel&gt; &amp; more"


def test_the_proxy_of_the_environment_is_used(receiver: Receiver):
    options = {"url": "http://hooks.invalid/x", "retries": 0}
    env = {"http_proxy": receiver.url, "no_proxy": ""}
    assert call("webhook", "on-exit", env, options=options).code == 0
    assert receiver.deliveries[0].path == "http://hooks.invalid/x"


def test_credentials_in_the_url_are_sent_as_such(receiver: Receiver):
    base = receiver.url.replace("http://", "http://user:pa%20ss@")
    assert post(base).code == 0
    assert receiver.deliveries[0].headers["authorization"] == "Basic dXNlcjpwYSBzcw=="


def test_a_dry_run_posts_nothing(receiver: Receiver):
    answer = post(receiver, fields={"dry_run": True})
    assert answer.result["reason"] == f"would POST post-commit to {receiver.url}"
    assert receiver.deliveries == []
    assert is_silent(answer)


def message(key: str, payload: Any = None) -> dict[str, Any]:
    return {"id": f"ckptrun-{key}", "key": key, "payload": payload or {"about": key}, "queued": 1.5}


MESSAGES = [message("a"), message("b"), message("c")]


def test_messages_are_posted_in_place_of_the_notice_each_with_its_key(receiver: Receiver):
    answer = post(receiver, fields={"messages": MESSAGES}, secret=SECRET)
    assert answer.result == {"outcome": "ok", "done": ["posted"], "released": ["a", "b", "c"]}
    sent = [(one.headers["Idempotency-Key"], one.json) for one in receiver.deliveries]
    assert sent == [(one["id"], one["payload"]) for one in MESSAGES]
    assert receiver.deliveries[0].headers["X-Ckptrun-Signature"] == signature(receiver.deliveries[0])


def test_a_message_that_is_refused_holds_back_those_after_it_and_those_before_it_are_sent(receiver: Receiver):
    receiver.answers[:] = [(200, {}), (400, {})]
    answer = post(receiver, fields={"messages": MESSAGES}, secret=SECRET)
    assert (answer.result["outcome"], answer.result["released"]) == ("failed", ["a"])
    assert answer.result["reason"].startswith("message 'b': http://127.0.0.1")
    assert "it answers 400" in answer.result["reason"]
    assert len(receiver.deliveries) == 2
    assert is_silent(answer)


def test_messages_that_the_hooks_time_is_too_short_for_are_left_for_the_next_call(receiver: Receiver):
    answer = post(receiver, fields={"messages": MESSAGES, "timeout": 0.01})
    assert answer.result == {"outcome": "ok", "done": ["posted"], "released": ["a"]}


def test_a_text_is_sent_to_slack_as_such_and_no_message_at_all_as_nothing(receiver: Receiver):
    post(receiver, fields={"messages": [message("a", "hello")]}, format="slack")
    assert receiver.deliveries[0].json == {"text": "hello"}
    assert post(receiver, fields={"messages": []}).result["done"] == ["posted"]
    assert len(receiver.deliveries) == 1


def test_a_dry_run_posts_no_message(receiver: Receiver):
    answer = post(receiver, fields={"messages": MESSAGES, "dry_run": True})
    assert answer.result["reason"] == f"would POST 3 messages to {receiver.url}"
    assert "released" not in answer.result
    assert receiver.deliveries == []
