"""The control channel, over real sockets."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from ckptrun import errors
from ckptrun.supervisor import control
from ckptrun.supervisor.control import ControlServer, failure
from ckptrun.supervisor.control_client import SOCKET_NAME, NoLiveRunError, ask, is_live, socket_address

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Run:
    """A server whose requests and replies the test sees."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.requests: list[tuple[dict[str, Any], control.Reply]] = []
        self.arrived = threading.Event()
        self.answer: dict[str, Any] | Exception | None = {"ok": True}
        self.server = ControlServer(run_dir, self.handle)
        self.server.start()

    def handle(self, request: dict[str, Any], reply: control.Reply) -> None:
        self.requests.append((request, reply))
        self.arrived.set()
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is not None:
            reply(self.answer)

    def ask(self, timeout: float | None = 5.0, **request: Any) -> dict[str, Any]:
        return ask(self.run_dir, "train", request, timeout=timeout)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run(tmp_path / "run")
    yield made
    made.server.close()


def raw(run: Run, data: bytes) -> bytes:
    """Send bytes as they are and return all that comes back."""
    with socket_address(run.run_dir, SOCKET_NAME) as address, socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(address)
        sock.sendall(data)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def test_a_request_gets_the_reply_of_the_run(run: Run):
    run.answer = {"ok": True, "pid": 7}
    assert run.ask(request="status") == {"pid": 7}
    assert run.requests[0][0] == {"request": "status"}


def test_a_reply_may_come_later_from_another_thread(run: Run):
    run.answer = None
    timer = threading.Timer(0.2, lambda: run.requests[0][1]({"ok": True, "id": "c1"}))
    timer.start()
    assert run.ask(request="checkpoint", wait=True, timeout=None) == {"id": "c1"}
    timer.join()


def test_one_slow_reply_holds_up_nobody_else(run: Run):
    run.answer = None
    waiting = threading.Thread(target=lambda: run.ask(request="checkpoint", wait=True, timeout=None))
    waiting.start()
    assert run.arrived.wait(5)
    run.answer = {"ok": True, "pid": 7}
    assert run.ask(request="status")["pid"] == 7
    run.requests[0][1]({"ok": True})
    waiting.join(5)
    assert not waiting.is_alive()


def test_only_the_first_reply_counts(run: Run):
    run.answer = {"ok": True, "n": 1}
    assert run.ask(request="status") == {"n": 1}
    run.requests[0][1]({"ok": True, "n": 2})
    assert run.ask(request="status") == {"n": 1}


@pytest.mark.parametrize(
    "kind",
    [errors.StoreError, errors.NoCheckpointError, errors.HeldError, errors.DumpError, errors.UsageError],
)
def test_an_error_reaches_the_asking_command_with_its_exit_code(run: Run, kind: type[errors.CkptrunError]):
    run.answer = failure(kind("the disk is full", hint="make room"))
    with pytest.raises(errors.CkptrunError, match=r"run 'train': the disk is full; make room") as caught:
        run.ask(request="checkpoint")
    assert caught.value.exit_code == kind.exit_code


def test_a_handler_that_raises_is_an_error_of_that_request_alone(run: Run):
    run.answer = ZeroDivisionError("oops")
    with pytest.raises(errors.CkptrunError, match="ZeroDivisionError"):
        run.ask(request="status")
    run.answer = {"ok": True}
    assert run.ask(request="status") == {}


@pytest.mark.parametrize(
    "line", [b"{\n", b"[]\n", b'{"request": "explode"}\n', b"\xff\n", b"x" * 70_000 + b"\n"]
)
def test_what_is_no_request_is_refused_and_never_handled(run: Run, line: bytes):
    reply = json.loads(raw(run, line))
    assert (reply["ok"], reply["exit_code"]) == (False, 64)
    assert not run.requests


def test_a_client_that_goes_away_does_no_harm(run: Run):
    run.answer = None
    with socket_address(run.run_dir, SOCKET_NAME) as address:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(address)
        sock.sendall(b'{"request": "status"}\n')
        assert run.arrived.wait(5)
        sock.close()
    run.requests[0][1]({"ok": True})
    run.answer = {"ok": True}
    assert run.ask(request="status") == {}


def test_a_reply_of_many_megabytes_arrives_whole(run: Run):
    run.answer = {"ok": True, "blob": "x" * 5_000_000}
    assert len(run.ask(request="status")["blob"]) == 5_000_000


def test_without_a_live_run_the_message_says_how_to_start_one(tmp_path: Path):
    with pytest.raises(NoLiveRunError, match=r"no live run of 'train'.*ckptrun --name train") as caught:
        ask(tmp_path / "none", "train", {"request": "status"}, timeout=1)
    assert caught.value.exit_code == 64


def test_a_run_that_does_not_answer_in_time_is_named(run: Run):
    run.answer = None
    with pytest.raises(errors.NoAnswerError, match=r"'train' did not answer within 0\.1 s") as caught:
        run.ask(request="status", timeout=0.1)
    assert caught.value.exit_code == 69, "70 would say that ckptrun has a defect"


def test_a_run_that_ends_before_it_answers_is_named(run: Run):
    run.answer = None
    timer = threading.Timer(0.1, run.server.close)
    timer.start()
    with pytest.raises(errors.NoAnswerError, match="ended before it answered"):
        run.ask(request="stop", timeout=None)
    timer.join()


def test_closing_sends_the_replies_that_are_ready(tmp_path: Path):
    run = Run(tmp_path / "run")
    run.answer = None
    got: list[dict[str, Any]] = []
    asking = threading.Thread(target=lambda: got.append(run.ask(request="stop", timeout=None)))
    asking.start()
    assert run.arrived.wait(5)
    run.requests[0][1]({"ok": True, "id": "c9"})
    run.server.close()
    asking.join(5)
    assert got == [{"id": "c9"}]
    assert not is_live(run.run_dir)
    assert not (run.run_dir / SOCKET_NAME).exists()


def test_a_path_longer_than_a_socket_address_works(tmp_path: Path):
    run_dir = tmp_path / ("d" * 120) / ("e" * 120)
    run = Run(run_dir)
    assert run.ask(request="status") == {}
    run.server.close()


def test_only_the_owner_can_enter_the_runs_directory(run: Run):
    assert run.run_dir.stat().st_mode & 0o777 == 0o700
    assert (run.run_dir / SOCKET_NAME).stat().st_mode & 0o777 == 0o600


def test_another_user_is_turned_away(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    monkeypatch.setattr(control, "_may_ask", lambda _sock: False)
    with pytest.raises(errors.NoAnswerError, match="ended before it answered"):
        run.ask(request="status")
    assert not run.requests


def test_the_same_user_and_root_may_ask_and_others_not(monkeypatch: pytest.MonkeyPatch):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert control._may_ask(ours)
        uid = os.getuid()
        monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
        assert control._may_ask(ours) == (uid == 0)


def test_the_socket_of_a_killed_supervisor_is_replaced(tmp_path: Path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    with socket_address(run_dir, SOCKET_NAME) as address:
        dead = socket.socket(socket.AF_UNIX)
        dead.bind(address)
        dead.close()
    assert not is_live(run_dir)
    run = Run(run_dir)
    assert run.ask(request="status") == {}
    run.server.close()


def test_a_second_supervisor_never_takes_a_live_ones_socket(run: Run):
    with pytest.raises(errors.HeldError, match="'run' lives on this machine"):
        ControlServer(run.run_dir, run.handle)
    assert run.ask(request="status") == {}


def test_closing_leaves_the_socket_of_a_later_run_alone(tmp_path: Path):
    first = Run(tmp_path / "run")
    (first.run_dir / SOCKET_NAME).unlink()
    second = Run(tmp_path / "run")
    first.server.close()
    assert second.ask(request="status") == {}
    second.server.close()


def test_a_server_that_was_never_started_closes(tmp_path: Path):
    server = ControlServer(tmp_path / "run", lambda _request, _reply: None)
    server.close()
    assert not is_live(tmp_path / "run")


def test_an_idle_server_costs_no_cpu(run: Run):
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.05
    assert run.ask(request="status") == {}
