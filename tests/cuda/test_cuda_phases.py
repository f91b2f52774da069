"""The hook's phases, from context to result, with processes that look as CUDA's do."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.cuda_standin import MODEL, UUIDS, Standin

from ckptrun.cuda.phases import run

if TYPE_CHECKING:
    from support.cuda_standin import Player

HOOK = Path(__file__).parents[2] / "hooks" / "cuda" / "hook.py"
OTHER = "GPU-deadbeef-0000-4106-c12f-20bd9faed9f6"


class Hook:
    def __init__(self, standin: Standin, way: str) -> None:
        self.standin, self.way = standin, way

    def __call__(self, phase: str, *players: Player, **context: Any) -> dict[str, Any]:
        options = {**self.standin.options, "driver": self.way, **context.pop("options", {})}
        pids = [pid for one in players for pid in (one.pid, one.child) if pid > 1]
        whole = {
            "phase": phase,
            "job": {"pids": pids},
            "options": options,
            "timeout": 200,
            "data": None,
            **context,
        }
        return run(whole)


@pytest.fixture
def hook(standin: Standin) -> Hook:
    return Hook(standin, "bindings")


@pytest.mark.parametrize("way", ["bindings", "program"])
def test_a_checkpoint_finds_the_gpu_released_and_the_job_runs_on_after_it(standin: Standin, way: str):
    hook = Hook(standin, way)
    players = [standin.play(memory=3 << 20), standin.play("imports"), standin.play(memory=4 << 20)]
    before = hook("pre-checkpoint", *players)
    assert before["done"] == ["suspended"]
    assert standin.states() == ["checkpointed", "checkpointed"]
    data = before["data"]
    assert [entry["pid"] for entry in data["processes"]] == [players[0].pid, players[2].pid]
    assert data["gpus"] == [{"uuid": UUIDS[0], "model": MODEL, "used": True}]
    assert before["events"][0]["bytes"] == 7 << 20
    assert len(json.dumps(data)) < 1000
    after = hook("post-checkpoint", *players, data=data, outcome={"ok": True, "error": None})
    assert after["done"] == ["running"]
    (resumed,) = after["events"]
    assert (resumed["event"], resumed["processes"]) == ("cuda-resumed", 2)
    assert resumed["locked_seconds"] >= resumed["seconds"] > 0
    assert standin.states() == ["running", "running"]


def test_the_job_runs_on_after_a_dump_that_failed(standin: Standin, hook: Hook):
    player = standin.play()
    data = hook("pre-checkpoint", player)["data"]
    after = hook("post-checkpoint", player, data=data, outcome={"ok": False, "error": "no"})
    assert after["done"] == ["running"]
    assert standin.states() == ["running"]


def test_a_hook_that_was_killed_half_way_is_put_right_by_its_other_half(standin: Standin, hook: Hook):
    players = [standin.play(), standin.play("imports"), standin.play()]
    standin.machine.step("lock", players[0].pid)
    standin.machine.step("checkpoint", players[0].pid)
    standin.machine.step("lock", players[2].pid)
    after = hook("post-checkpoint", *players, outcome={"ok": False, "error": "killed"})
    assert after == {"done": ["running"]}
    assert standin.states() == ["running", "running"]


def test_a_job_without_a_gpu_asks_no_driver(standin: Standin, hook: Hook):
    player = standin.play("imports")
    before = hook("pre-checkpoint", player)
    assert before == {"done": ["suspended"], "data": {"processes": []}}
    assert hook("post-checkpoint", player, data=before["data"]) == {"done": ["running"]}
    assert standin.log() == []


def test_a_forked_child_is_refused_by_name_before_anything_is_locked(standin: Standin, hook: Hook):
    player = standin.play("forks")
    before = hook("pre-checkpoint", player)
    assert before["outcome"] == "veto"
    assert f"forked-child: process {player.child} " in before["reason"]
    assert f"process {player.pid} " not in before["reason"]
    assert "spawn" in before["reason"]
    assert standin.done() == []


def test_a_monitor_is_refused_by_name(standin: Standin, hook: Hook):
    players = [standin.play(), standin.play("monitors")]
    before = hook("pre-checkpoint", *players)
    assert before["outcome"] == "veto"
    assert before["reason"].startswith(f"device-holder: process {players[1].pid} ")
    assert standin.done() == []


def test_what_is_allowed_by_name_is_not_refused(standin: Standin, hook: Hook):
    players = [standin.play(), standin.play("monitors")]
    assert hook("pre-checkpoint", *players, options={"allow": "mig,device-holder"})["done"] == ["suspended"]


def test_too_little_memory_is_said_before_anything_is_locked(standin: Standin, hook: Hook):
    before = hook("pre-checkpoint", standin.play(memory=1 << 60))
    assert before["outcome"] == "veto"
    assert "the machine has" in before["reason"]
    assert standin.done() == []


@pytest.mark.parametrize(
    ("fault", "outcome"), [(600, "retry"), ("die", "retry"), (2, "failed"), (801, "failed")]
)
def test_a_failure_says_whether_another_try_makes_sense(
    standin: Standin, hook: Hook, fault: str | int, outcome: str
):
    players = [standin.play(), standin.play()]
    standin.fault("lock" if fault == 600 else "checkpoint", fault, pid=players[1].pid)
    before = hook("pre-checkpoint", *players)
    assert before["outcome"] == outcome
    assert before.get("retry_after", 0) > 0 or outcome == "failed"
    assert f"process {players[1].pid}" in before["reason"]
    assert "led back" in before["reason"]
    assert set(standin.states()) == {"running"}


@pytest.mark.parametrize(
    ("code", "says"), [(801, "operation not supported"), (800, "operation not permitted")]
)
@pytest.mark.parametrize("way", ["bindings", "program"])
def test_a_driver_that_tells_no_state_is_named_and_not_taken_for_a_forked_child(
    standin: Standin, way: str, code: int, says: str
):
    player = standin.play()
    standin.fault("state", code)
    before = Hook(standin, way)("pre-checkpoint", player)
    assert before["outcome"] == "failed"
    assert before["reason"].startswith(f"the driver could not state process {player.pid}: {says}")
    assert standin.done() == []


def test_a_process_that_the_driver_gave_up_is_killed_and_named(standin: Standin, hook: Hook):
    players = [standin.play(), standin.play()]
    standin.fault("checkpoint", "fail", pid=players[0].pid)
    before = hook("pre-checkpoint", *players)
    assert before["outcome"] == "failed"
    assert f"process {players[0].pid} was killed" in before["reason"]
    assert players[0].process.wait(20) == -9
    assert standin.states() == ["running"]


def test_a_process_that_the_driver_gave_up_is_left_alone_on_request(standin: Standin, hook: Hook):
    players = [standin.play(), standin.play()]
    standin.fault("checkpoint", "fail", pid=players[0].pid)
    before = hook("pre-checkpoint", *players, options={"stuck": "leave"})
    assert before["outcome"] == "failed"
    assert "may wait for ever" in before["reason"]
    assert standin.states() == ["failed", "running"]


def test_a_restore_is_finished_and_checked(standin: Standin, hook: Hook):
    player = standin.play()
    data = hook("pre-checkpoint", player)["data"]
    before = hook("pre-restore", data=data)
    assert before["data"]["devices"] == {}
    after = hook("post-restore", player, data=before["data"], outcome={"ok": True, "error": None})
    assert after["done"] == ["running"]
    assert standin.states() == ["running"]


@pytest.mark.parametrize("way", ["bindings", "program"])
def test_a_restore_to_another_gpu_of_the_kind_maps_it(standin: Standin, way: str):
    hook = Hook(standin, way)
    player = standin.play()
    data = hook("pre-checkpoint", player)["data"]
    standin.gpus((OTHER,))
    before = hook("pre-restore", data=data)
    assert before["data"]["devices"] == {UUIDS[0]: OTHER}
    after = hook("post-restore", player, data=before["data"], outcome={"ok": True, "error": None})
    assert after["done"] == ["running"]


@pytest.mark.parametrize("way", ["bindings", "program"])
def test_a_map_names_the_gpus_too_that_the_job_did_not_use(tmp_path: Path, way: str):
    """The driver refuses any other, whatever CUDA_VISIBLE_DEVICES has hidden from the job."""
    with (
        contextlib.closing(Standin(tmp_path / "gpu", gpus=2)) as standin,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("PATH", str(standin.folder / "bin"), prepend=":")
        patch.setenv("PYTHONPATH", str(standin.folder / "site"))
        hook = Hook(standin, way)
        player = standin.play(gpus=[UUIDS[1]], devices=["nvidia1"])
        data = hook("pre-checkpoint", player)["data"]
        assert [(gpu["uuid"], gpu["used"]) for gpu in data["gpus"]] == [(UUIDS[0], False), (UUIDS[1], True)]
        standin.gpus((OTHER, UUIDS[0]))
        before = hook("pre-restore", data=data)
        assert before["data"]["devices"] == {UUIDS[1]: OTHER, UUIDS[0]: UUIDS[0]}
        after = hook("post-restore", player, data=before["data"], outcome={"ok": True, "error": None})
        assert after["done"] == ["running"], after


def test_a_gpu_that_sleeps_is_known_all_the_same(standin: Standin, hook: Hook):
    """Nobody uses it before a restore, and without persistence mode /proc then shows no UUID."""
    data = hook("pre-checkpoint", standin.play())["data"]
    standin.gpus(UUIDS[:1], asleep=True)
    assert hook("pre-restore", data=data)["data"]["devices"] == {}


def test_what_the_job_may_see_does_not_bind_the_hook(standin: Standin, monkeypatch: pytest.MonkeyPatch):
    """Its variables are the job's, and a restore needs CUDA initialised by who calls it."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    hook = Hook(standin, "bindings")
    player = standin.play()
    data = hook("pre-checkpoint", player)["data"]
    assert hook("post-checkpoint", player, data=data, outcome={"ok": True, "error": None})["done"] == [
        "running"
    ]
    assert {line["initialised"] for line in standin.log() if "initialised" in line} == {0}


def test_a_process_that_stays_wakes_the_gpus_up_before_the_lock_and_not_again(standin: Standin):
    player = standin.play()
    context = {
        "job": {"pids": [player.pid]},
        "options": {**standin.options, "driver": "bindings"},
        "timeout": 200,
    }
    with subprocess.Popen(
        [sys.executable, str(HOOK)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        print(json.dumps({"phase": "pre-checkpoint", **context}), file=process.stdin, flush=True)
        data = json.loads(process.stdout.readline())["data"]
        closing = {"phase": "post-checkpoint", "data": data, "outcome": {"ok": True, "error": None}}
        print(json.dumps({**closing, **context}), file=process.stdin, flush=True)
        assert json.loads(process.stdout.readline())["done"] == ["running"]
        process.stdin.close()
        assert process.wait(60) == 0
    calls = ["initialise" if "initialised" in line else line.get("call") for line in standin.log()]
    assert [call for call in calls if call not in {None, "state"}] == [
        "initialise",
        "lock",
        "checkpoint",
        "restore",
        "unlock",
    ]


@pytest.mark.parametrize(
    ("gpus", "driver", "model", "why"),
    [
        ((), "", MODEL, "no NVIDIA driver"),
        ((OTHER,), "580.65.06", "NVIDIA Other", f"among them {MODEL}"),
        ((OTHER,), "570.86.10", MODEL, "driver 570.86.10 here cannot move it"),
    ],
)
def test_a_machine_that_does_not_fit_is_refused_before_the_restore(
    standin: Standin, hook: Hook, gpus: tuple[str, ...], driver: str, model: str, why: str
):
    data = hook("pre-checkpoint", standin.play())["data"]
    standin.gpus(gpus, driver, model)
    before = hook("pre-restore", data=data)
    assert before["outcome"] == "failed"
    assert why in before["reason"]


def test_a_program_without_device_map_is_refused_for_other_gpus(standin: Standin):
    hook = Hook(standin, "program")
    (standin.folder / "no-device-map").touch()
    data = hook("pre-checkpoint", standin.play())["data"]
    standin.gpus((OTHER,))
    assert "--device-map" in hook("pre-restore", data=data)["reason"]


@pytest.mark.slow
def test_a_full_gpu_fails_the_restore_by_name(standin: Standin, hook: Hook):
    player = standin.play()
    data = hook("pre-checkpoint", player)["data"]
    standin.fault("restore", 2, times=1000)
    after = hook("post-restore", player, data=data, outcome={"ok": True, "error": None})
    assert after["outcome"] == "failed"
    assert "out of memory; end what else uses the GPU" in after["reason"]


def test_a_recorded_process_that_is_not_there_fails_the_restore(standin: Standin, hook: Hook):
    players = [standin.play(), standin.play()]
    data = hook("pre-checkpoint", *players)["data"]
    after = hook("post-restore", players[0], data=data, outcome={"ok": True, "error": None})
    assert after["outcome"] == "failed"
    assert str(players[1].pid) in after["reason"]


def test_nothing_is_done_after_a_restore_that_failed(standin: Standin, hook: Hook):
    data = hook("pre-checkpoint", standin.play())["data"]
    assert hook("post-restore", data=data, outcome={"ok": False, "error": "no"}) == {"done": ["running"]}


def test_no_way_to_the_driver_is_told_with_what_to_install(standin: Standin, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    before = Hook(standin, "program")("pre-checkpoint", standin.play())
    assert before["outcome"] == "failed"
    assert "no cuda-checkpoint on PATH" in before["reason"]
    assert "ckptrun[cuda]" in before["reason"]


def test_a_dry_run_changes_nothing(standin: Standin, hook: Hook):
    player = standin.play()
    before = hook("pre-checkpoint", player, dry_run=True)
    assert f"process {player.pid}" in before["reason"]
    assert standin.done() == []


def test_the_ready_made_hook_speaks_the_contract(standin: Standin):
    player = standin.play()
    context = {
        "phase": "pre-checkpoint",
        "job": {"pids": [player.pid]},
        "options": standin.options,
        "timeout": 200,
    }
    ended = subprocess.run(
        [sys.executable, str(HOOK)],
        input=json.dumps(context),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["done"] == ["suspended"]
    assert json.loads(ended.stdout)["events"][0]["by"] == "cuda-bindings"
