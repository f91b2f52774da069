"""Checkpoints that cannot be taken: the job runs on unharmed to its own end; what is wrong is said with a remedy."""

from __future__ import annotations

import itertools
import signal
import socket
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import chain
import pytest
from injected import KILL_JOB, RAISE, SLEEP, Fault
from support.run import COMMITTED, RESTORED

if TYPE_CHECKING:
    from support.run import Lab, Result, Run

pytestmark = pytest.mark.slow

CHAIN = Path(__file__).with_name("chain.py")
JOB = (sys.executable, CHAIN)
OFTEN = ("--interval", "0.3s")
NO_CHECKPOINT = 76

CONNECTED = """
import socket, sys
from pathlib import Path
peer = socket.socket(socket.AF_UNIX)
peer.connect(sys.argv[1])
print("connected", flush=True)
peer.recv(1)
peer.close()
print("closed", flush=True)
sys.path.insert(0, sys.argv[2])
sys.argv[1:] = []
import chain
chain.main()
"""


def finish(lab: Lab, run: Run) -> Result:
    log = lab.work / "log.txt"
    run.until(
        "a first step", lambda: log.exists() and log.stat().st_size
    )  # a job that fills its memory first is slow
    (lab.work / "finish").touch()
    result = run.wait()
    assert result.code == 0, result.err
    assert chain.is_exact(lab.work, result.out.removeprefix("connected\nclosed\n")), result.err
    return result


def failures(lab: Lab) -> list[dict[str, str]]:
    return lab.events("checkpoint-failed")


def test_a_dump_that_criu_refuses_leaves_the_job_running_and_later_ones_succeed(lab: Lab):
    path = lab.folder / "peer"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        run = lab.start(sys.executable, "-c", CONNECTED, path, CHAIN.parent, options=OFTEN)
        peer, _ = listener.accept()
        with peer:
            run.says("connected to a process outside")
            for how in ((), ("--wait",)):
                asked = lab.ask("checkpoint", *how)
                assert asked.code == NO_CHECKPOINT, asked.err
                assert asked.out == ""
                assert "holds a Unix socket connected to a process outside" in asked.err
                assert "close that connection" in asked.err
                assert "internal" not in asked.err
            assert run.alive()
            peer.send(b"x")
            run.prints("closed")
        run.checkpoint()
        errors = finish(lab, run).err
    assert errors.count("the job runs on") == 1, errors
    assert "close that connection before a checkpoint" in errors


def test_a_job_that_cannot_be_dumped_ends_with_its_own_code_and_is_tried_ever_more_rarely(lab: Lab):
    path = lab.folder / "peer"
    script = CONNECTED.partition("peer.recv")[0] + "import time; peer.recv(1); time.sleep(1); sys.exit(9)"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        run = lab.start(sys.executable, "-c", script, path, options=("--interval", "0.2s"))
        peer, _ = listener.accept()
        with peer:
            run.until("failure", lambda: failures(lab))
            peer.send(b"x")  # a second more: less than the first pause, if the machine is not very busy
            assert run.wait().code == 9
    times = [datetime.fromisoformat(failure["time"]) for failure in failures(lab)]
    assert all((b - a).total_seconds() > 5 for a, b in itertools.pairwise(times)), "not every 0.2 s"


def test_a_connection_that_its_peer_has_not_accepted_yet_is_refused_like_any_other(lab: Lab):
    path = lab.folder / "peer"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        run = lab.start(sys.executable, "-c", CONNECTED, path, CHAIN.parent, options=("--interval", "off"))
        run.prints("connected")
        asked = lab.ask("checkpoint", "--wait")
        assert asked.code == NO_CHECKPOINT, "CRIU dumps it and could not restore it"
        assert "close that connection" in asked.err
        peer, _ = listener.accept()
        with peer:
            peer.send(b"x")
            run.prints("closed")
            run.checkpoint()
        finish(lab, run)


def test_a_dump_that_takes_too_long_is_given_up_and_the_job_runs_on(lab: Lab):
    fault = Fault("ckptrun.journal:Journal.capture", act=SLEEP, seconds=8.0, commits=0)
    lab.program = fault.program()
    run = lab.start(*JOB, options=(*OFTEN, "--max-freeze", "3s"))
    run.says("--max-freeze")
    before = chain_steps(lab)
    run.until("steps", lambda: chain_steps(lab) > before + 5)
    run.checkpoint()
    errors = finish(lab, run).err
    assert "for more than 3 s" in errors


def chain_steps(lab: Lab) -> int:
    return (lab.work / "log.txt").read_bytes().count(b"\n")


def test_who_waits_for_a_checkpoint_that_takes_too_long_is_told_so(lab: Lab):
    lab.program = Fault("ckptrun.journal:Journal.capture", act=SLEEP, seconds=3.0, commits=0).program()
    run = lab.start(*JOB, options=("--interval", "off", "--max-freeze", "0.5s"))
    run.job_pid()
    asked = lab.ask("checkpoint", "--wait")
    assert (asked.code, asked.out) == (NO_CHECKPOINT, ""), asked.err
    assert "for more than 0.5 s" in asked.err
    assert "raise --max-freeze" in asked.err
    finish(lab, run)


def test_who_waits_for_a_checkpoint_while_the_job_ends_is_told_so(lab: Lab):
    fault = Fault("ckptrun.criu.dumping:dump", act=KILL_JOB, commits=0)
    lab.program = fault.program()
    run = lab.start(*JOB, options=("--interval", "off"))
    run.job_pid()
    asked = lab.ask("checkpoint", "--wait")
    assert (asked.code, asked.out) == (NO_CHECKPOINT, ""), asked.err
    assert "the job ended while the checkpoint was being taken" in asked.err
    assert run.wait().code == 128 + signal.SIGKILL


def test_a_big_job_that_no_dump_can_be_quick_enough_for_ends_with_its_own_result(lab: Lab):
    run = lab.start(*JOB, 150, options=(*OFTEN, "--max-freeze", "0.005s"))
    run.says("--max-freeze")
    errors = finish(lab, run).err
    assert not lab.events(COMMITTED)
    assert "the job runs on" in errors


@pytest.mark.parametrize(
    "fault",
    [
        Fault("ckptrun.criu.capture:Capture._drain", nth=20, act=RAISE),
        Fault("ckptrun.criu.capture:Capture._announce", nth=5, act=RAISE),
        Fault("ckptrun.journal:Journal.capture", act=RAISE),
        Fault("ckptrun.capsule.streams:Streams.freeze", act=RAISE),
        Fault("ckptrun.supervisor.attempt:Attempt._staged", act=RAISE),
        Fault("ckptrun.store.writing:Writing._place", act=RAISE),
    ],
    ids=str,
)
def test_a_thread_that_dies_on_the_way_costs_one_checkpoint_and_the_job_is_unharmed(lab: Lab, fault: Fault):
    lab.program = fault.program()
    run = lab.start(*JOB, options=OFTEN)
    run.commit()
    run.until("failure", lambda: failures(lab) or lab.events("commit-failed"))
    run.checkpoint()
    before = chain_steps(lab)
    run.until("steps", lambda: chain_steps(lab) > before)
    run.restored(run.kill_job)
    errors = finish(lab, run).err
    assert "injected" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    "fault",
    [
        Fault("ckptrun.criu.staging:Slot.populate", act=KILL_JOB),
        Fault("ckptrun.journal:Journal.prepare", act=KILL_JOB),
        Fault("ckptrun.criu.dumping:dump", act=KILL_JOB),
        Fault("ckptrun.capsule.capsule:Capsule.spawn", "after", about="dump", act=KILL_JOB),
        Fault("ckptrun.criu.capture:Capture._announce", act=KILL_JOB),
        Fault("ckptrun.criu.capture:Capture._announce", nth=8, act=KILL_JOB),
        Fault("ckptrun.criu.capture:Capture._drain", nth=5, act=KILL_JOB),
        Fault("ckptrun.criu.capture:Capture._drain", nth=30, act=KILL_JOB),
        Fault("ckptrun.criu.capture:Capture.wait", act=KILL_JOB),
        Fault("ckptrun.criu.capture:Capture.wait", "after", act=KILL_JOB),
        Fault("ckptrun.capsule.streams:Streams.freeze", "after", act=KILL_JOB),
        Fault("ckptrun.journal:Journal.capture", act=KILL_JOB),
        Fault("ckptrun.journal:Journal.capture", "after", act=KILL_JOB),
    ],
    ids=str,
)
def test_a_dump_that_the_jobs_death_cuts_short_says_just_that(lab: Lab, fault: Fault):
    lab.program = fault.program()
    run = lab.start(*JOB, options=OFTEN)
    run.event(RESTORED)
    (failure,) = failures(lab)
    assert failure["reason"] == "the job ended while the checkpoint was being taken"
    run.checkpoint()
    errors = finish(lab, run).err
    assert "failed" not in errors
    assert "the job runs on" not in errors


def test_what_a_failed_dump_said_is_kept_for_explain(lab: Lab):
    path = lab.folder / "peer"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        run = lab.start(sys.executable, "-c", CONNECTED, path, CHAIN.parent, options=OFTEN)
        peer, _ = listener.accept()
        with peer:
            run.until("failure", lambda: failures(lab))
            (log,) = (lab.run_dir / "logs").iterdir()
            asked = lab.execute(lab.argv("explain", str(log)))
    assert asked.code == 0
    assert "close that connection" in asked.out
