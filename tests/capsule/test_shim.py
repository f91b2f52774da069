"""The shim, as an unprivileged process, and a sidecar's end of its socket."""

from __future__ import annotations

import os
import resource
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from live import wait_until
from shims import PATH
from support.processes import PATIENCE

from ckptrun.capsule import hello, listener
from ckptrun.capsule.helper import built_path
from ckptrun.capsule.spec import Identity, Program, to_file

if TYPE_CHECKING:
    from shims import Room

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to take everything from the shim")

LARGEST = 100_000
SLEEP = ("sleep", "100")


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_the_shim_is_small(architecture: str):
    binary = built_path().parents[1] / architecture / built_path().name
    if not binary.exists():
        pytest.skip("not built here")
    assert binary.stat().st_size < LARGEST


def test_a_shim_says_what_its_container_is(room: Room):
    sidecar, started = room.both("python3", "train.py", "--with space", env={"KEY": "a=b"})
    shim = sidecar.shim
    assert shim.pid == started.pid
    assert shim.hello.argv == ("python3", "train.py", "--with space")
    assert shim.hello.env == {"PATH": PATH, "KEY": "a=b"}, "and nothing of the shim's own"
    assert (shim.hello.cwd, shim.hello.version) == ("/", "1.2.3")
    assert (shim.hello.root_pid, shim.hello.ended, shim.hello.kept) == (None, None, {})
    assert shim.identity == Identity(1000, 1000, (1000, 2000))
    assert shim.no_new_privs
    assert os.path.samestat(os.fstat(shim.hello.stdio[1]), os.fstat(started.process.stdout.fileno()))  # type: ignore[union-attr]


def test_a_job_runs_as_the_container_does_and_its_end_is_told_until_it_is_taken(room: Room):
    sidecar, started = room.both("job")
    pid = sidecar.start("sh", "-c", "id -u; grep -e CapBnd -e NoNewPrivs /proc/self/status; exit 7")
    assert started.line() == "1000"
    assert int(started.line().split()[1], 16) == 0
    assert started.line().split()[1] == "1"
    assert sidecar.exit() == (pid, 7)
    sidecar.die()
    again = room.sidecar()
    assert os.waitstatus_to_exitcode(again.take().hello.ended or 0) == 7
    assert again.exit()[1] == 7
    again.shim.taken()
    again.die()
    last = room.sidecar()
    assert last.take().hello.ended is None
    last.shim.end(75)
    assert started.wait() == 75
    wait_until(lambda: last.lost, what="the sidecar is told")


def test_a_job_killed_by_a_signal_is_told_so(room: Room):
    sidecar, _ = room.both("job")
    pid = sidecar.start(*SLEEP)
    os.kill(pid, signal.SIGKILL)
    assert sidecar.exit() == (pid, -signal.SIGKILL)


@pytest.mark.parametrize(("command", "code"), [("no-such-command", 127), ("/etc", 126)])
def test_a_command_that_cannot_be_executed_comes_through(room: Room, command: str, code: int):
    sidecar, started = room.both("job")
    sidecar.start(command)
    assert sidecar.exit()[1] == code
    assert started.line("stderr").startswith(f"ckptrun: {command} cannot be executed")


@pytest.mark.parametrize(
    ("argv", "cwd", "stage"), [(["/no/such/root"], "/", "exec"), (["/bin/true"], "/no/such/folder", "cwd")]
)
def test_a_start_that_fails_is_answered_and_can_be_tried_again(
    room: Room, argv: list[str], cwd: str, stage: str
):
    sidecar, started = room.both("job")
    with pytest.raises(FileNotFoundError) as caught:
        sidecar.shim.start(Program(argv, {}, cwd))
    assert caught.value.filename == stage
    sidecar.start("sh", "-c", "echo here")
    assert started.line() == "here"


def test_a_job_that_ends_at_once_was_started_all_the_same(room: Room):
    sidecar, _ = room.both("job")
    for _ in range(20):
        pid = sidecar.shim.start(Program(["/bin/false"], {}, "/"))
        wait_until(lambda pid=pid: (pid, 1 << 8) in sidecar.exits, what="its end")  # type: ignore[misc]


def test_the_containers_signals_are_told_and_the_job_gets_none(room: Room):
    sidecar, started = room.both("job")
    sidecar.start("sh", "-c", "trap 'echo trapped' TERM; echo ready; while :; do sleep 0.1; done")
    assert started.line() == "ready"
    for sig in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT, signal.SIGUSR2):
        os.kill(started.pid, sig)
        wait_until(lambda sig=sig: sig in sidecar.signals, what=sig.name)  # type: ignore[misc]
    assert len(sidecar.signals) == 6


def test_a_signal_that_comes_between_two_sidecars_is_told_to_the_second(room: Room):
    sidecar, started = room.both("job")
    pid = sidecar.start(*SLEEP)
    sidecar.die()
    os.kill(started.pid, signal.SIGTERM)
    wait_until(lambda: not pending(started.pid), what="the shim has read it")
    again = room.sidecar()
    again.take()
    wait_until(lambda: again.signals == [signal.SIGTERM], what="SIGTERM")
    assert again.shim.root_pid == pid


def pending(pid: int) -> int:
    """Return the signals that wait for a process, as bits."""
    return int(status(pid)["ShdPnd"], 16)


def status(pid: int) -> dict[str, str]:
    pairs = (line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {key: value.strip() for key, value in pairs}


def test_a_job_and_its_pipes_outlive_the_sidecar(room: Room):
    sidecar, _ = room.both("job")
    second, third = (room.folder / name for name in ("second", "third"))
    for fifo in (second, third):  # one would be opened again before who has written its line has closed it
        os.mkfifo(fifo)
        fifo.chmod(0o666)
    reader, writer = os.pipe()
    script = f"echo one; read line < {second}; echo two; read line < {third}"
    pid = sidecar.start("sh", "-c", script, fds={1: writer}, keep={"stdout": reader})
    os.close(writer)
    assert os.read(reader, 100) == b"one\n"
    os.close(reader)
    sidecar.die()
    second.write_text("go\n")
    again = room.sidecar()
    assert again.take().hello.root_pid == pid
    kept = again.shim.hello.kept["stdout"]
    assert os.read(kept, 100) == b"two\n", "what it writes without a sidecar"
    third.write_text("go\n")
    assert again.exit() == (pid, 0)
    assert os.read(kept, 100) == b""


def test_what_is_kept_can_be_exchanged(room: Room):
    sidecar, _ = room.both("job")
    reader, writer = os.pipe()
    other, end = os.pipe()
    sidecar.start(*SLEEP, keep={"a": writer})
    sidecar.shim.keep({"b": end})
    os.close(writer)
    assert os.read(reader, 1) == b"", "nobody holds the other end any more"
    sidecar.die()
    again = room.sidecar()
    assert list(again.take().hello.kept) == ["b"]
    again.shim.keep({})
    os.close(end)
    os.close(again.shim.hello.kept["b"])
    assert os.read(other, 1) == b""


@pytest.mark.parametrize(("script", "code"), [("exit 3", 3), ("kill -9 $PPID", 137), ("exit 0", 0)])
def test_a_shim_whose_job_ended_waits_for_a_sidecar_and_then_ends_as_the_job_did(
    room: Room, script: str, code: int
):
    sidecar, started = room.both("job", env={"CKPTRUN_SHIM_PATIENCE": "0"})
    reader, writer = os.pipe()
    sidecar.start("sh", "-c", f"read line; {script}", fds={0: reader})
    os.close(reader)
    sidecar.die()
    assert started.process.poll() is None
    os.close(writer)
    assert started.wait() == code


def test_a_shim_that_is_stopped_before_any_sidecar_came_ends(room: Room):
    started = room.shim("job")
    wait_until(lambda: int(status(started.pid)["SigBlk"], 16) & 1 << signal.SIGTERM - 1, what="the shim runs")
    os.kill(started.pid, signal.SIGTERM)
    assert started.wait() == 128 + signal.SIGTERM


def test_a_shim_without_a_command_says_how_it_is_used(room: Room):
    started = room.shim()
    assert started.wait() == 64
    line = started.line("stderr")
    assert "no command was given" in line
    assert "ckptrun-shim -- COMMAND" in line


def test_a_container_without_the_volume_is_told_to_mount_it(room: Room):
    started = room.shim("job", env={"CKPTRUN_SHIM_SOCKET": "/no/such/volume/run/shim.sock"})
    assert started.wait() == 78
    assert started.line("stderr").startswith("ckptrun: /no/such/volume is not there: mount the volume")


def test_a_shim_of_another_protocol_is_refused_with_both_versions(
    room: Room, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(hello, "PROTOCOL", 2)
    sidecar = room.sidecar("9.9.9")
    started = room.shim("job")
    assert started.wait() == 78
    wait_until(lambda: sidecar.refusals, what="the sidecar is told")
    for words in (started.line("stderr"), f"{sidecar.refusals[0]} {sidecar.refusals[0].hint}"):
        assert "1.2.3" in words
        assert "9.9.9" in words
        assert "the same image" in words


def test_a_shim_of_another_version_is_refused_unless_it_does_not_know_its_own(room: Room):
    sidecar = room.sidecar("1.2.4")
    started = room.shim("job")
    assert started.wait() == 78
    said = started.line("stderr")
    assert "the shim of ckptrun 1.2.3 (protocol 1), the sidecar is ckptrun 1.2.4" in said
    assert "the same image" in said
    (room.folder / "VERSION").unlink()
    room.shim("job")
    sidecar.take()


def test_a_shim_of_another_version_that_has_a_job_is_not_sent_away(room: Room):
    sidecar, started = room.both("job")
    pid = sidecar.start(*SLEEP)
    sidecar.die()
    newer = room.sidecar("1.2.4")
    wait_until(lambda: newer.refusals, what="the sidecar is told")
    assert "its job is left alone" in newer.refusals[0].message
    assert "delete the pod" in newer.refusals[0].hint
    newer.listener.close()
    assert room.sidecar().take().hello.root_pid == pid
    assert started.process.poll() is None


def test_a_second_shim_is_refused_and_the_first_does_not_notice(room: Room):
    sidecar, first = room.both("job")
    second = room.shim("other")
    assert second.wait() == 78
    assert "has one already" in second.line("stderr")
    sidecar.start("sh", "-c", "echo here")
    assert first.line() == "here"


def test_the_next_container_is_served_when_the_first_is_gone(room: Room):
    sidecar, first = room.both("job")
    first.process.kill()
    wait_until(lambda: sidecar.lost, what="the first is lost")
    second = room.shim("again")
    assert sidecar.take().pid == second.pid


def test_nonsense_is_refused_and_the_next_shim_served(room: Room):
    sidecar = room.sidecar()
    for words in (b"hello", b"hello 1 x", b"hello 1 1.2.3 0", b"bye", b"hello 1 1.2.3 1; rm", b"\xff" * 3000):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(str(room.folder / "run/shim.sock"))
            connection.send(words)
            assert connection.recv(4096).startswith(b"refused ")
    wait_until(lambda: len(sidecar.refusals) == 6, what="each is told")
    room.shim("job")
    sidecar.take()


def test_a_process_of_somebody_elses_is_not_taken_for_the_job(room: Room):
    room.sidecar()
    spec = to_file([b"cwd", b"/"])
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(str(room.folder / "run/shim.sock"))
        socket.send_fds(connection, [b"hello 1 1.2.3 1"], [spec, 0, 1, 2])
        assert connection.recv(4096) == b"", "not served"
    os.close(spec)


def test_who_connects_and_says_nothing_is_let_go_and_the_shim_served(
    room: Room, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(listener, "HELLO_SECONDS", 0.05)
    sidecar = room.sidecar()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(str(room.folder / "run/shim.sock"))
        assert connection.recv(4096) == b"", "not refused: it may be a slow machine's shim"
    monkeypatch.undo()
    room.shim("job")
    sidecar.take()


def test_a_listener_that_was_short_of_descriptors_serves_again(room: Room):
    sidecar = room.sidecar()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            connection.connect(str(room.folder / "run/shim.sock"))
            connection.shutdown(socket.SHUT_RDWR)  # it had its descriptor already; for the next there is none
            time.sleep(2 * listener.PAUSE_SECONDS)  # nobody tells of an accept that failed
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    room.shim("job")
    sidecar.take()


def test_a_start_after_the_shim_died_is_an_error_and_no_hang(room: Room):
    sidecar, started = room.both("job")
    started.process.kill()
    wait_until(sidecar.shim.ended.is_set, what="the connection ends")
    with pytest.raises(OSError, match=r"shim is gone|closed|Bad file"):
        sidecar.start(*SLEEP)


def test_orphans_of_the_job_become_the_shims_and_are_reaped(room: Room):
    sidecar, started = room.both("job")
    sidecar.start("sh", "-c", "echo $$; read line; exec sleep 100")
    orphan = int(started.line())
    os.kill(sidecar.shim.root_pid or 0, signal.SIGKILL)
    sidecar.exit()
    wait_until(lambda: int(status(orphan)["PPid"]) == started.pid, what="the shim has adopted it")
    os.kill(orphan, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{orphan}").exists(), what="it is reaped")


@pytest.mark.slow  # ten seconds: that is the point
def test_a_shim_that_waits_long_says_for_what_once(room: Room):
    started = room.shim("job")
    line = started.line("stderr")
    assert line.startswith("ckptrun: no sidecar answers at")
    assert "No such file or directory" in line
    sidecar = room.sidecar()
    sidecar.take()
    for fd in sidecar.shim.hello.stdio:
        os.close(fd)
    sidecar.shim.end(0)
    assert started.process.communicate(timeout=PATIENCE)[1] == b""
