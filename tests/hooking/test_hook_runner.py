"""Real processes that do everything a hook must not: the runner is back in time, and says what was wrong."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from hookkit import LAUNCHER, script
from support.processes import PATIENCE

from ckptrun.hooking.contract import Outcome
from ckptrun.hooking.pipes import STDERR_BYTES
from ckptrun.hooking.runner import Call, Ended, judge, run

LONG = 60.0
SHORT = 0.3


def execute(path: Path | str, stdin: bytes = b"{}", timeout: float = LONG, **environment: str) -> Ended:
    return run(LAUNCHER, Call((str(path),), "/", {"PATH": os.environ["PATH"], **environment}, stdin, timeout))


def reason(ended: Ended, timeout: float = LONG) -> str:
    result = judge(ended, timeout)
    assert result.outcome is Outcome.FAILED
    return result.reason


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def until(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_hook_reads_its_context_and_answers(tmp_path: Path):
    path = script(tmp_path / "h", 'answer(outcome="retry", retry_after=3, reason=given["word"])')
    result = judge(execute(path, b'{"word": "later"}'), LONG)
    assert (result.outcome, result.retry_after, result.reason) == (Outcome.RETRY, 3.0, "later")


def test_saying_nothing_and_ending_well_is_ok(tmp_path: Path):
    assert judge(execute(script(tmp_path / "h", "", python=False)), LONG).outcome is Outcome.OK


def test_a_context_larger_than_a_pipe_arrives_whole_also_while_the_hook_writes_first(tmp_path: Path):
    body = "import sys\nsys.stderr.write('x' * 300_000)\nprint(json.dumps({'reason': str(len(given['much']))}))\n"
    path = script(tmp_path / "h", body)
    assert judge(execute(path, b'{"much": "' + b"y" * 500_000 + b'"}'), LONG).reason == "500000"


def test_a_hook_that_does_not_read_its_context_is_none_the_worse(tmp_path: Path):
    path = script(tmp_path / "h", "exec <&-; exit 0", python=False)
    assert judge(execute(path, b" " * 500_000), LONG).outcome is Outcome.OK


def test_a_hook_that_hangs_is_killed_with_all_of_its_group(tmp_path: Path):
    note = tmp_path / "pids"
    path = script(tmp_path / "h", f"sleep 100 & echo $! $$ > {note}; wait", python=False)
    ended = execute(path, timeout=SHORT)
    assert "did not end within 0.3 s" in reason(ended, SHORT)
    if note.exists():  # on a slow machine it may have been killed before
        for pid in note.read_text().split():
            until(lambda pid=pid: gone(int(pid)))


@pytest.mark.slow
def test_a_hook_that_ignores_sigterm_is_killed_with_sigkill(tmp_path: Path):
    path = script(tmp_path / "h", "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(1)")
    ended = execute(path, timeout=1.0)
    assert ended.timed_out
    assert ended.code in {-signal.SIGKILL, -signal.SIGTERM}


@pytest.mark.slow
def test_a_hook_gets_sigterm_first_although_ckptrun_blocks_it(tmp_path: Path):
    body = """
        signal.signal(signal.SIGTERM, lambda *_: (print("told to end", file=sys.stderr), sys.exit(0)))
        print("ready", file=sys.stderr, flush=True)
        time.sleep(100)
    """
    path = script(tmp_path / "h", body)
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        ended = execute(path, timeout=2.0)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
    assert ended.timed_out
    assert "ready" not in ended.stderr or "told to end" in ended.stderr


def test_a_flood_on_stdout_is_drained_and_a_failure(tmp_path: Path):
    path = script(
        tmp_path / "h", "sys.stdout.write('{' + ' ' * 5_000_000)\nprint('the end', file=sys.stderr)"
    )
    ended = execute(path)
    assert "more than 1 MiB" in reason(ended)
    assert ended.code == 0, "it could not write all"


def test_a_flood_without_end_lasts_no_longer_than_its_time(tmp_path: Path):
    path = script(tmp_path / "h", "while True: sys.stdout.write('x' * 65536)")
    assert execute(path, timeout=SHORT).timed_out


@pytest.mark.parametrize(
    "text", ["nonsense", "[1]", '"word"', '{"outcome": "great"}', '{"what": 1}', "{" * 100_000]
)
def test_what_is_no_result_is_a_failure_that_shows_it(tmp_path: Path, text: str):
    (tmp_path / "text").write_text(text)
    path = script(tmp_path / "h", f"cat {tmp_path}/text", python=False)
    assert "standard output" in reason(execute(path)) or "its result" in reason(execute(path))


def test_a_daemon_that_keeps_the_pipes_open_is_not_waited_for(tmp_path: Path):
    body = """
        child = os.fork()
        if child == 0:
            os.setsid()
            time.sleep(1000)
        answer(reason=str(child))
    """
    ended = execute(script(tmp_path / "h", body))
    daemon = int(judge(ended, LONG).reason)
    try:
        assert not ended.timed_out
        assert not gone(daemon)
    finally:
        os.kill(daemon, signal.SIGKILL)


def test_a_daemon_that_floods_the_pipes_does_not_hold_the_runner(tmp_path: Path):
    body = """
        child = os.fork()
        if child == 0:
            os.setsid()
            signal.alarm(60)
            while True: os.write(2, b"x" * 65536)
        print(child, flush=True)
        sys.exit(3)
    """
    ended = execute(script(tmp_path / "h", body))
    os.kill(int(ended.stdout), signal.SIGKILL)
    assert ended.code == 3
    assert len(ended.stderr) <= STDERR_BYTES


def test_a_hook_that_dies_of_a_signal_is_a_failure_that_names_it(tmp_path: Path):
    path = script(
        tmp_path / "h", "print('at the brink', file=sys.stderr, flush=True)\nos.kill(os.getpid(), 11)"
    )
    assert reason(execute(path)) == "it died of SIGSEGV: at the brink"


def test_the_last_line_of_stderr_is_the_reason_of_an_exit_code(tmp_path: Path):
    path = script(
        tmp_path / "h", "echo first >&2; echo 'no route to host' >&2; echo >&2; exit 3", python=False
    )
    assert reason(execute(path)) == "no route to host"


def test_an_exit_code_alone_is_said(tmp_path: Path):
    assert reason(execute(script(tmp_path / "h", "exit 3", python=False))) == "exit code 3"


def test_an_exit_code_has_the_last_word_over_a_result(tmp_path: Path):
    path = script(tmp_path / "h", """echo '{"outcome": "ok", "reason": "half done"}'; exit 1""", python=False)
    assert reason(execute(path)) == "half done"


def test_exit_code_75_asks_for_another_try(tmp_path: Path):
    path = script(tmp_path / "h", "echo busy >&2; exit 75", python=False)
    result = judge(execute(path), LONG)
    assert (result.outcome, result.reason, result.retry_after) == (Outcome.RETRY, "busy", None)


def test_only_the_end_of_stderr_is_kept(tmp_path: Path):
    path = script(tmp_path / "h", "sys.stderr.write('x' * 1_000_000 + 'end')")
    ended = execute(path)
    assert len(ended.stderr) == STDERR_BYTES
    assert ended.stderr.endswith("end")


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (None, 0, "No such file"),
        ("#!/bin/sh\n", 0o644, "Permission denied"),
        ("echo hi\n", 0o755, "Exec format error"),
    ],
)
def test_what_cannot_be_started_is_said(tmp_path: Path, content: str | None, mode: int, says: str):
    path = tmp_path / "h"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    assert says in reason(execute(path))


def test_a_folder_that_is_gone_is_said(tmp_path: Path):
    ended = run(LAUNCHER, Call(("/bin/true",), str(tmp_path / "gone"), {}, b"", LONG))
    assert "cannot be started in" in reason(ended)


def test_no_descriptor_is_left_open(tmp_path: Path):
    path = script(tmp_path / "h", "exit 0", python=False)
    execute(path)
    before = set(Path("/proc/self/fd").iterdir())
    for _ in range(3):
        execute(path)
        execute(tmp_path / "missing")
    assert (
        set(Path("/proc/self/fd").iterdir()) <= before
    )  # what tests before this one left may be closed meanwhile
