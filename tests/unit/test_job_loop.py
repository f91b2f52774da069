"""What a loop says to ckptrun, by a socket of its own in ckptrun's place."""

from __future__ import annotations

import contextlib
import json
import math
import socket
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ckptrun import job
from ckptrun.job import _calls, _channel
from ckptrun.job.adapters._training import Training

if TYPE_CHECKING:
    from collections.abc import Iterator


class Listener:
    """Keeps what it is told, and answers what it is asked: in `refusal`'s words if there are any."""

    def __init__(self, address: str) -> None:
        self._said: list[dict[str, Any]] = []
        self.refusal: dict[str, str] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._address = address
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while data := self._socket.recv(1 << 20):
            said = json.loads(data)
            self._said.append(said)
            if "id" in said:
                answer = (
                    {"ok": True, "checkpoint": "a-0001"}
                    if not self.refusal
                    else {"ok": False, **self.refusal}
                )
                reply = {**answer, "id": said["id"], "run": "", "incarnation": 0}
                self._socket.sendto(json.dumps(reply).encode(), f"{_channel.REPLIES}/{said['id']}")

    def end(self) -> None:
        """Take all that was said until now, and no more."""
        if self._thread.is_alive():
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
                last.sendto(b"", self._address)
            self._thread.join(30)
            self._socket.close()

    def heard(self) -> list[dict[str, Any]]:
        """Return what was said until now, by the names of what matters."""
        self.end()
        names = ("do", "within", "metrics", "reason")
        return [{name: said[name] for name in names if name in said} for said in self._said]


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    with tempfile.TemporaryDirectory(prefix="meet-", dir="/tmp") as name:
        address = f"{name}/socket"
        Path(name, "r").mkdir()
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        monkeypatch.setattr(_channel, "SOCKET", address)
        monkeypatch.setattr(_channel, "REPLIES", f"{name}/r")
        monkeypatch.setattr(_calls, "_beaten", (0.0, 0.0, 0))
        monkeypatch.setattr(_calls, "_encoded", ((None, 0.0), b""))
        found = Listener(address)
        yield found
        found.end()


def beat(within: float) -> dict[str, Any]:
    return {"do": "heartbeat", "within": within}


CHECKPOINT = {"do": "checkpoint"}
WITHDRAWN = beat(_calls.WITHDRAWN)


def test_a_loop_promises_before_its_first_step_and_takes_the_promise_back_after_its_last(listener: Listener):
    assert list(job.steps([1, 2, 3], within=300)) == [1, 2, 3]
    assert listener.heard() == [beat(300), WITHDRAWN]  # those between came faster than any is sent


@pytest.fixture
def every_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_calls, "BEAT_SECONDS", 0.0)


@pytest.mark.usefixtures("every_beat")
def test_a_step_beats_when_it_is_done_and_before_the_next_item_is_fetched(listener: Listener):
    def items() -> Iterator[int]:
        for number in range(2):
            _channel.notice("fetch")
            yield number

    for _ in job.steps(items(), within=5):
        _channel.notice("work")
    fetch, work = {"do": "fetch"}, {"do": "work"}
    assert listener.heard() == [beat(5), fetch, work, beat(5), fetch, work, beat(5), WITHDRAWN]


def test_a_loop_that_is_left_early_or_fails_has_promised_nothing_any_more(listener: Listener):
    for _ in job.steps([1, 2], within=5):
        break
    with contextlib.suppress(ZeroDivisionError):
        for number in job.steps([0, 1], within=7):
            print(1 / number)
    assert listener.heard() == [beat(5), WITHDRAWN, beat(7), WITHDRAWN]


def test_a_loop_inside_of_another_gives_the_outer_ones_promise_back(listener: Listener):
    job.heartbeat(within=600)
    for _ in job.steps([1], within=50):
        assert list(job.steps([1], within=5)) == [1]
    assert listener.heard() == [beat(600), beat(50), beat(5), beat(50), beat(600)]


def test_a_promise_is_taken_back_also_when_ckptrun_has_no_room_for_it_just_then(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
):
    room = iter([True, False, False, True])
    post = _channel.post
    monkeypatch.setattr(_channel, "post", lambda data: next(room) and post(data))
    assert list(job.steps([1], within=300)) == [1]
    assert listener.heard() == [beat(300), WITHDRAWN]


def test_a_loop_that_promises_nothing_leaves_promises_alone(listener: Listener):
    assert list(job.steps("ab")) == ["a", "b"]
    assert listener.heard() == [{"do": "heartbeat"}]


def test_checkpoints_are_asked_for_after_so_many_steps_also_of_several_rounds(listener: Listener):
    loop = job.steps([1, 2], checkpoint_every=3)
    assert len(loop) == 2
    for _ in range(3):
        for _ in loop:
            _channel.notice("work")
    done = [said["do"] for said in listener.heard() if said["do"] != "heartbeat"]
    assert done == (["work"] * 3 + ["checkpoint"]) * 2


def test_a_checkpoint_that_fails_costs_a_loop_nothing(listener: Listener):
    listener.refusal = {"kind": "checkpoint", "error": "the disk is full"}
    assert list(job.steps([1, 2], checkpoint_every=1)) == [1, 2]
    assert listener.heard().count(CHECKPOINT) == 2


@pytest.mark.parametrize(
    "wrong", [{"within": 0}, {"within": math.nan}, {"checkpoint_every": 0}, {"checkpoint_every": 1.5}]
)
def test_what_makes_no_sense_is_refused_before_the_loop(wrong: dict[str, Any]):
    with pytest.raises(job.UsageError, match=next(iter(wrong))):
        job.steps([1], **wrong)


def test_what_has_no_length_has_none_in_a_loop_either():
    with pytest.raises(TypeError, match="len"):
        len(job.steps(iter([1])))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_rolled_back_for_one_reason_whatever_it_is(
    listener: Listener, value: float
):
    listener.refusal = {"kind": "refused", "error": "no checkpoint"}
    job.guard(loss=0.5, error=-1)
    with pytest.raises(
        job.RefusedError, match="error is not finite, and the job cannot go back: no checkpoint"
    ):
        job.guard(loss=0.5, error=value)
    assert listener.heard() == [{"do": "rollback", "reason": "error is not finite"}]


def test_what_is_no_number_is_not_guarded():
    with pytest.raises(job.UsageError, match=r"guard\(loss"):
        job.guard(loss="much")  # type: ignore[arg-type]


def test_only_the_first_process_of_a_machine_beats_and_reports_and_each_guards_its_own_loss(
    listener: Listener,
):
    class Loss(float):
        def detach(self) -> Loss:
            return self

        def mean(self) -> float:
            return float(self)

    listener.refusal = {"kind": "refused", "error": "no checkpoint"}
    second = Training(5, guard=True, checkpoint_every=1)
    second.begin(first=False)
    second.step()
    second.report({"loss": 1.0})
    second.remember(Loss("nan"))
    with pytest.raises(job.RefusedError):
        second.check()
    second.end()
    assert [said["do"] for said in listener.heard()] == ["rollback"]


def test_of_what_a_framework_logs_the_finite_numbers_are_reported(listener: Listener):
    training = Training(None, guard=False, checkpoint_every=None)
    training.report({"loss": 2.0})
    training.begin(first=True)
    training.report({"loss": 0.5, "step": 3, "norm": math.inf, "name": "7", "shape": (1, 2), "none": None})
    training.end()
    training.report({"loss": 3.0})
    reported = [said["metrics"] for said in listener.heard() if said["do"] == "report"]
    assert reported == [{"loss": 0.5, "step": 3.0}]


@pytest.mark.parametrize("what", ["epoch", "evaluation"])
def test_a_training_takes_its_checkpoints_after_what_it_was_told(listener: Listener, what: str):
    training = Training(None, guard=False, checkpoint_every=what)
    training.begin(first=True)
    for done in ("evaluation", "epoch", "evaluation", "epoch"):
        training.step()
        training.done(done)
    training.end()
    assert listener.heard().count(CHECKPOINT) == 2


@pytest.mark.parametrize("wrong", ["never", 0, True, 1.5])
def test_a_training_refuses_what_it_has_not(wrong: Any):
    with pytest.raises(job.UsageError, match="checkpoint_every"):
        Training(None, guard=False, checkpoint_every=wrong)
