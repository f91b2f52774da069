"""The job's channel without a capsule: this process is the job, and all that it forks."""

from __future__ import annotations

import contextlib
import contextvars
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.meeting import Meeting, meet

from ckptrun import job
from ckptrun.core.events import Begin, Committed
from ckptrun.core.plans import Candidate, Resume
from ckptrun.job import _channel, _page, environment, heartbeat
from ckptrun.job._critical import around_critical
from ckptrun.job._errors import JobError, NotUnderCkptrunError, RefusedError, UnavailableError, UsageError
from ckptrun.supervisor.answers import OPEN_REQUESTS, OPEN_UNANSWERED
from ckptrun.supervisor.channel import KEPT_EARLY_BYTES, Asked
from ckptrun.supervisor.rendezvous import job_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

FOREIGNER = """
import os, socket, sys, time
parent = os.getpid()
if os.fork():
    os._exit(0)
while os.getppid() == parent:
    time.sleep(0.005)
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sock.sendto(sys.argv[2].encode(), sys.argv[1])
print("sent", flush=True)
"""
"""Sends a message once it has another parent."""


@pytest.fixture
def meeting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Meeting]:
    with meet(monkeypatch) as found:
        yield found


def echo(asked: Asked) -> None:
    asked.reply(said=asked.fields["word"])


def test_a_request_is_answered_and_leaves_nothing_behind(meeting: Meeting):
    meeting.start(echo=echo)
    assert _channel.request("echo", word="häuser")["said"] == "häuser"
    assert list(meeting.place.replies.iterdir()) == []


def test_many_threads_ask_at_once_and_each_gets_its_own_answer(meeting: Meeting):
    meeting.start(echo=echo)
    found: dict[int, str] = {}

    def ask(number: int) -> None:
        for turn in range(20):
            found[number] = _channel.request("echo", word=f"{number}.{turn}")["said"]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {number: f"{number}.19" for number in range(8)}


@pytest.mark.parametrize(
    ("kind", "error"), [("refused", RefusedError), ("usage", UsageError), ("of tomorrow", JobError)]
)
def test_a_refusal_is_raised_as_its_kind_says(meeting: Meeting, kind: str, error: type[JobError]):
    meeting.start(no=lambda asked: asked.fail(kind, "no checkpoint", "take one"))
    with pytest.raises(error, match="no checkpoint; take one"):
        _channel.request("no")


def test_a_request_that_nobody_knows_is_refused_by_name(meeting: Meeting):
    meeting.start()
    with pytest.raises(UsageError, match="'effect-begin'"):
        _channel.request("effect-begin")


def test_a_handler_that_breaks_is_told_to_the_job(meeting: Meeting):
    def broken(asked: Asked) -> None:
        raise ValueError(asked.do)

    meeting.start(broken=broken, echo=echo)
    with pytest.raises(JobError, match="internal error: ValueError"):
        _channel.request("broken")
    assert _channel.request("echo", word="on")["said"] == "on"


def test_no_answer_in_time_is_said(meeting: Meeting):
    meeting.start(silent=meeting.take)
    with pytest.raises(UnavailableError, match="silent"):
        _channel.request("silent", timeout=0.05)


def test_a_request_that_is_sent_again_is_carried_out_once(meeting: Meeting):
    meeting.start(slow=meeting.take)
    replies: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: replies.append(_channel.request("slow")))
    thread.start()
    (asked,) = meeting.wait(1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as again:
        again.bind(f"{meeting.place.senders}/again")
        again.settimeout(30)
        data = json.dumps(dict(asked.fields)).encode()
        again.sendto(data, meeting.socket)  # while it is under way
        asked.reply(number=7)
        again.sendto(data, meeting.socket)  # when it is done: the reply may have been lost
        with contextlib.suppress(BlockingIOError):
            thread.join(30)
    assert replies[0]["number"] == 7
    assert len(meeting.asked) == 1


def test_what_comes_before_the_job_counts_as_running_is_taken_then_in_order(meeting: Meeting):
    for name in ("first", "second"):
        meeting.channel.register(name, meeting.take)
    meeting.channel.start()
    meeting.channel.begin(2, "a-0001", {})
    meeting.channel.opened(os.getpid())
    assert _channel.notice("first")
    assert _channel.notice("second")
    deadline = time.monotonic() + 30
    while len(meeting.channel._early) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert meeting.asked == []
    meeting.live(2)
    assert [asked.do for asked in meeting.wait(2)] == ["first", "second"]


def test_a_request_that_a_restore_comes_upon_is_sent_again_to_the_next_incarnation(meeting: Meeting):
    meeting.start(slow=meeting.take)
    replies: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: replies.append(_channel.request("slow")))
    thread.start()
    (old,) = meeting.wait(1)
    meeting.channel.begin(2, "a-0001", {})
    meeting.channel.opened(os.getpid())
    meeting.live(2)
    new = meeting.wait(2)[1]
    old.reply(whose="the old one's")
    new.reply(whose="the new one's")
    thread.join(30)
    assert replies[0]["whose"] == "the new one's"
    assert new.fields["id"] == old.fields["id"]


def test_a_section_that_waited_through_a_restore_begins_after_what_is_to_be_told_of_it(
    meeting: Meeting, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("ckptrun.job._safepoint._callbacks", job._safepoint._Callbacks())
    meeting.start(critical=meeting.take)
    done: list[str] = []

    @job.on_restore
    def restored() -> None:
        with job.critical():  # a section of its own, not a part of one that is not entered yet
            done.append("callback")

    def enter() -> None:
        with job.critical():
            done.append("body")

    thread = threading.Thread(target=enter)
    thread.start()
    meeting.wait(1)
    meeting.channel.begin(2, "a-0001", {})
    meeting.channel.opened(os.getpid())
    meeting.live(2)
    for count in range(2, 8):  # the request of before again, and its end; then both sections
        meeting.wait(count)[count - 1].reply()
    thread.join(30)
    assert done == ["callback", "body"]
    asked = [(one.fields["action"], one.fields["section"]) for one in meeting.asked[1:]]
    assert [action for action, _ in asked] == ["enter", "leave"] * 3
    sections = [section for _, section in asked]
    assert sections[::2] == sections[1::2]
    assert len(set(sections)) == 3


def test_a_section_is_known_in_what_it_calls_in_other_threads_until_it_ends(meeting: Meeting):
    meeting.start(critical=lambda asked: asked.reply())
    told: list[bool] = []

    def ask(context: contextvars.Context) -> None:
        thread = threading.Thread(target=lambda: told.append(context.run(around_critical)))
        thread.start()
        thread.join(30)

    with job.critical(), job.critical():
        inside = contextvars.copy_context()
        ask(inside)
        ask(contextvars.Context())
    ask(inside)
    ask(contextvars.copy_context())
    with job.critical():
        ask(contextvars.copy_context())
        ask(inside)
        meeting.channel.begin(2, "", {})  # sections end with their incarnation
        ask(contextvars.copy_context())
    assert told == [True, False, False, False, True, False, False]


def test_a_checkpoint_that_a_restore_comes_upon_has_succeeded(meeting: Meeting):
    meeting.start(checkpoint=meeting.take)
    replies: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: replies.append(_channel.request("checkpoint", wait=True)))
    thread.start()
    meeting.wait(1)
    meeting.channel.begin(2, "a-0007", {})
    thread.join(30)
    assert replies[0]["checkpoint"] == "a-0007"


def test_a_process_that_waits_for_a_reply_keeps_its_promise_of_heartbeats(meeting: Meeting):
    beats = threading.Semaphore(0)
    meeting.start(slow=meeting.take, heartbeat=lambda _asked: beats.release())
    heartbeat(within=0.5)
    thread = threading.Thread(target=lambda: _channel.request("slow"))
    thread.start()
    assert all(beats.acquire(timeout=30) for _ in range(4))
    meeting.wait(1)[0].reply()
    thread.join(30)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    "words", ["{", "[1]", '{"do": 3}', '{"do": "note", "id": 5}', "{" * 50000, "\xff=\n=="]
)
def test_what_is_no_message_harms_nothing(meeting: Meeting, words: str):
    meeting.start(echo=echo)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as odd:
        odd.bind(f"{meeting.place.senders}/odd")
        for _ in range(3):
            odd.sendto(words.encode(), meeting.socket)
    assert _channel.request("echo", word="on")["said"] == "on"
    assert len(meeting.notes) <= 1


def test_a_sender_that_is_not_below_the_capsules_init_is_ignored(meeting: Meeting):
    meeting.start(note=meeting.take, echo=echo)
    word = json.dumps({"v": 1, "do": "note", "by": "somebody"})
    foreigner = [sys.executable, "-c", FOREIGNER, meeting.socket, word]
    assert subprocess.run(foreigner, check=True, capture_output=True).stdout == b"sent\n"
    assert _channel.notice("note", by="the job")
    assert _channel.request("echo", word="all is taken")["said"] == "all is taken"
    assert [asked.fields["by"] for asked in meeting.asked] == ["the job"]


def test_a_reply_goes_to_no_socket_outside_the_folder(meeting: Meeting):
    meeting.start(echo=echo)
    outside = meeting.place.notify / "elsewhere"
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as victim,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sly,
    ):
        victim.bind(str(outside))
        victim.setblocking(False)
        name = f"{meeting.place.senders}/link"
        sly.bind(name)
        Path(name).unlink()
        Path(name).symlink_to(outside)
        request = {"v": 1, "id": "x", "do": "echo", "word": "hello"}
        sly.sendto(json.dumps(request).encode(), meeting.socket)
        victim.sendto(json.dumps(request | {"id": "y"}).encode(), meeting.socket)
        assert _channel.request("echo", word="all is taken")["said"] == "all is taken"
        with pytest.raises(BlockingIOError):
            victim.recv(100)


def test_a_flood_of_notices_keeps_no_request_from_its_answer(meeting: Meeting):
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            _channel.notice("heartbeat")

    meeting.start(echo=echo, heartbeat=lambda _asked: None)
    thread = threading.Thread(target=flood)
    thread.start()
    try:
        for number in range(20):
            assert _channel.request("echo", word=number, timeout=30)["said"] == number
    finally:
        stop.set()
        thread.join(30)


def test_requests_of_who_cannot_be_answered_are_dropped_while_too_many_are_under_way(meeting: Meeting):
    meeting.start(slow=meeting.take, echo=echo)
    for number in range(3 * OPEN_UNANSWERED):
        while not _channel.notice("slow", number=number):
            time.sleep(0.001)  # the socket's queue is short
    assert _channel.request("echo", word="all is taken")["said"] == "all is taken"
    assert [asked.fields["number"] for asked in meeting.asked] == list(range(OPEN_UNANSWERED))
    for asked in meeting.asked:
        asked.reply()
    assert _channel.notice("slow", number=-1)
    assert meeting.wait(OPEN_UNANSWERED + 1)[-1].fields["number"] == -1


def test_a_handler_that_breaks_over_requests_that_cannot_be_answered_keeps_no_room(meeting: Meeting):
    def broken(asked: Asked) -> None:
        raise ValueError(asked.do)

    meeting.start(broken=broken, slow=meeting.take)
    for _ in range(2 * OPEN_UNANSWERED):
        while not _channel.notice("broken"):
            time.sleep(0.001)
    while not _channel.notice("slow"):
        time.sleep(0.001)
    assert meeting.wait(1)


def test_notices_that_look_like_requests_keep_no_room_of_requests(meeting: Meeting):
    meeting.channel.register("heartbeat", lambda _asked: None, answers=False)
    meeting.start(echo=echo)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"{meeting.place.senders}/odd")
        for number in range(OPEN_REQUESTS + 1):
            sock.sendto(json.dumps({"v": 1, "id": f"n{number}", "do": "heartbeat"}).encode(), meeting.socket)
    assert _channel.request("echo", word="on")["said"] == "on"


def test_what_comes_before_the_job_counts_as_running_is_kept_up_to_so_many_bytes(meeting: Meeting):
    meeting.channel.register("note", meeting.take)
    meeting.channel.start()
    meeting.channel.begin(2, "a-0001", {})
    meeting.channel.opened(os.getpid())
    text = "x" * (_channel.LIMIT - 200)
    fits = KEPT_EARLY_BYTES // len(_channel.encoded("note", {"text": text}))
    deadline = time.monotonic() + 30
    for number in range(2 * fits):
        while not _channel.notice("note", text=text):
            time.sleep(0.001)
        while number < fits and len(meeting.channel._early) <= number:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    while not _channel.notice("note", text="the last one"):  # it is small enough to be kept again
        time.sleep(0.001)
    while len(meeting.channel._early) <= fits:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert meeting.channel._early_bytes <= KEPT_EARLY_BYTES
    meeting.live(2)
    taken = [asked.fields["text"] for asked in meeting.wait(fits + 1)]
    assert taken == [*[text] * fits, "the last one"]


def test_a_forked_child_talks_by_sockets_of_its_own(meeting: Meeting):
    meeting.start(echo=echo)
    assert _channel.notice("echo")
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            assert _channel._notices is None
            code = 0 if _channel.request("echo", word="child", timeout=30)["said"] == "child" else 2
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_what_does_not_fit_or_is_no_json_is_refused_before_it_is_sent(meeting: Meeting):
    meeting.start()
    with pytest.raises(UsageError, match="bytes"):
        _channel.request("echo", word="x" * _channel.LIMIT)
    with pytest.raises(UsageError, match="JSON"):
        _channel.request("echo", word=object())
    assert list(meeting.place.replies.iterdir()) == []


def test_the_largest_request_arrives(meeting: Meeting):
    meeting.start(echo=lambda asked: asked.reply(size=len(asked.fields["word"])))
    size = _channel.LIMIT - 200
    assert _channel.request("echo", word="x" * size)["size"] == size


def test_the_page_says_who_the_job_is(meeting: Meeting):
    meeting.channel.observe(Begin(0.0, Resume((Candidate("a-0003", 3), Candidate("a-0002", 2)))))
    meeting.channel.begin(4, "a-0003", {})
    meeting.channel.restoring({"restores": 5})
    page = _page.read()
    assert (page.incarnation, page.origin, page.restores) == (4, "a-0003", 6)
    assert (page.run, page.lineage, page.newest, page.committed) == ("run-a", "train", "a-0003", 3)
    meeting.channel.observe(Committed(1.0, "b-0001", 4, 0.1))
    assert (_page.read().newest, _page.read().committed) == ("b-0001", 4)


def test_restores_are_counted_from_the_checkpoint_and_from_this_run(meeting: Meeting):
    for known, counted in ((0, 1), (0, 2), (7, 8), (1, 9)):
        meeting.channel.restoring({"restores": known})
        assert _page.read().restores == counted
        assert meeting.channel.facts()["restores"] == counted


def test_a_page_that_is_being_written_is_never_read_in_half(meeting: Meeting):
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            meeting.page.set(incarnation=number, restores=number, newest=f"{number:064d}")

    thread = threading.Thread(target=write)
    thread.start()
    reader = _page.Reader(str(meeting.place.page))
    try:
        for _ in range(3000):
            page = reader.read()
            if page.incarnation:
                assert page.incarnation == page.restores == int(page.newest)
    finally:
        stop.set()
        thread.join(30)


def test_a_page_whose_writer_was_stopped_in_the_middle_says_what_was_true_before(tmp_path: Path):
    path = tmp_path / "page"
    path.write_bytes(_page.pack(2, _page.Page(7)).ljust(_page.SIZE, b"\0"))
    reader = _page.Reader(str(path))
    assert reader.read().incarnation == 7
    with path.open("r+b") as file:
        file.write(_page.pack(3, _page.Page(8)))
    assert reader.read().incarnation == 7


def test_the_environment_of_today_is_told(meeting: Meeting):
    meeting.start()
    assert environment() == {"TODAY": "yes", "BYTES": "\udcff"}
    path = meeting.place.page.parent / "environment.json"
    assert path.stat().st_mode & 0o777 == 0o600
    size = path.stat().st_size
    meeting.place.tell_environment({"ANOTHER": "x" * 1000})
    assert path.stat().st_size == size  # a reader that was frozen finds it as it was


def test_the_job_is_led_to_the_folders_by_two_variables_and_nothing_else():
    before = {"PYTHONPATH": "/mine", "NOTIFY_SOCKET": "/run/systemd/notify", "HOME": "/home/me"}
    assert job_environment(before) == {
        "PYTHONPATH": "/mine:/dev/shm/.ckptrun/sdk",
        "NOTIFY_SOCKET": "/dev/shm/.ckptrun/notify/socket",
        "HOME": "/home/me",
    }
    assert job_environment({})["PYTHONPATH"] == "/dev/shm/.ckptrun/sdk"
    assert job_environment({"PYTHONPATH": ""})["PYTHONPATH"] == "/dev/shm/.ckptrun/sdk"


def test_without_ckptrun_nothing_is_asked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    with pytest.raises(NotUnderCkptrunError, match="ckptrun -- COMMAND"):
        _channel.request("checkpoint")
    assert not _channel.notice("heartbeat")


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
def test_a_sender_is_known_by_what_it_is_when_it_sends(meeting: Meeting):
    meeting.start(word=meeting.take)
    child = os.fork()
    if child == 0:
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            sock.connect(meeting.socket)
            os.setgid(65533)
            os.setuid(65534)
            sock.send(b'{"v": 1, "do": "word"}')
        finally:
            os._exit(0)
    (asked,) = meeting.wait(1)
    os.waitpid(child, 0)
    assert (asked.pid, asked.user) == (child, (65534, 65533))
