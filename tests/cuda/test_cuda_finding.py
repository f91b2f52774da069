"""Which processes have to do with CUDA, what speaks against saving them, and what the doctor says."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.cuda_standin import MODEL, UUIDS, Standin

from ckptrun.cuda import doctor, gpus, room
from ckptrun.cuda.calls import Options
from ckptrun.cuda.finding import Kind, Look, in_use, kind_of, look, looks
from ckptrun.cuda.known import TABLE, Scene, refusals
from ckptrun.supervisor.binaries import Binaries

if TYPE_CHECKING:
    from support.cuda_standin import Player

NOTHING = Look(1, 1, "python", 0, frozenset(), frozenset(), ())
CUDA = replace(
    NOTHING,
    devices=frozenset({"nvidiactl", "nvidia-uvm", "nvidia0"}),
    mapped=frozenset({"/usr/lib/libcuda.so.580.65.06", "/venv/nvidia/nccl/lib/libnccl.so.2"}),
    threads=("python", "cuda-EvtHandlr"),
)


def kinds(standin: Standin, *players: Player) -> list[Kind]:
    found = looks([pid for one in players for pid in (one.pid, one.child) if pid > 1], str(standin.devices))
    return [kind_of(one, found) for one in found]


def test_what_a_process_has_to_do_with_cuda_shows_in_proc(standin: Standin):
    players = [standin.play(role) for role in ("computes", "imports", "monitors", "forks")]
    assert kinds(standin, *players) == [
        Kind.COMPUTES,
        Kind.LIBRARY,
        Kind.HOLDER,
        Kind.COMPUTES,
        Kind.FORKED,
    ]
    assert [in_use([one.pid], str(standin.devices)) for one in players] == [True, False, True, True]


def test_only_nvidias_devices_count(standin: Standin):
    assert not in_use([os.getpid()])
    assert look(os.getpid(), str(standin.devices)).devices == frozenset()
    with (standin.devices / "nvidia-fs0").open("w"), (standin.folder / "nvidia0").open("w"):
        assert not in_use([os.getpid()], str(standin.devices))
    with (standin.devices / "nvidia1").open():
        assert in_use([os.getpid()], str(standin.devices))
        assert look(os.getpid(), str(standin.devices)).devices == {"nvidia1"}


def test_a_checkpoint_depends_on_the_gpu_that_its_job_had_before_it_was_suspended(standin: Standin):
    player, binaries = standin.play(), Binaries(devices=str(standin.devices))
    for step in ("lock", "checkpoint", None):
        binaries.look_for_gpus([player.pid])
        if step:
            standin.machine.step(step, player.pid)
            assert binaries.mapped([player.pid]).gpu, step
    assert not binaries.mapped([player.pid]).gpu


def test_processes_that_are_gone_are_passed_over(standin: Standin):
    player = standin.play()
    player.process.kill()
    os.waitid(os.P_PID, player.pid, os.WEXITED | os.WNOWAIT)
    assert looks([player.pid, 1 << 22], str(standin.devices)) == []
    assert not in_use([1 << 22], str(standin.devices))


def scene(*computing: Look, driver: tuple[int, ...] = (580, 65)) -> Scene:
    return Scene(driver, computing, computing)


def with_environment(one: Look, **environment: str) -> Look:
    made = replace(one)
    made.__dict__["environment"] = environment
    return made


def names(*computing: Look, driver: tuple[int, ...] = (580, 65)) -> list[str]:
    return [one.known.name for one in refusals(scene(*computing, driver=driver))]


def rank(number: int, **environment: str) -> Look:
    made = replace(CUDA, host_pid=number, pid=number, threads=("python", "cuda-EvtHandlr", "pt_nccl_watchdg"))
    return with_environment(made, **environment)


def test_one_process_with_pytorchs_nccl_library_is_fine():
    assert names(with_environment(CUDA)) == []
    assert names(rank(1)) == []


def test_two_processes_that_do_not_speak_nccl_are_fine():
    assert names(with_environment(CUDA), with_environment(replace(CUDA, host_pid=2, pid=2))) == []


SAFE = {"NCCL_NVLS_ENABLE": "0", "NCCL_P2P_DISABLE": "1", "NCCL_CUMEM_HOST_ENABLE": "0"}


@pytest.mark.parametrize(
    ("environment", "driver", "expected"),
    [
        ({}, 580, ["nccl-nvls", "nccl-p2p", "nccl-shm"]),
        (SAFE, 580, []),
        ({**SAFE, "NCCL_P2P_DISABLE": "0"}, 580, ["nccl-p2p"]),
        ({**SAFE, "NCCL_P2P_DISABLE": "0", "NCCL_CUMEM_ENABLE": "0"}, 580, ["nccl-ipc"]),
        ({**SAFE, "NCCL_P2P_DISABLE": "0", "NCCL_CUMEM_ENABLE": "0"}, 610, []),
        ({**SAFE, "NCCL_NVLS_ENABLE": "1"}, 610, ["nccl-nvls"]),
        ({**SAFE, "NCCL_CUMEM_HOST_ENABLE": "1"}, 580, ["nccl-shm"]),
        ({**SAFE, "NCCL_CUMEM_HOST_ENABLE": "1", "NCCL_SHM_DISABLE": "1"}, 580, []),
        (SAFE, 550, ["old-driver"]),
    ],
)
def test_what_nccl_does_by_default_is_refused_and_the_variables_avoid_it(
    environment: dict[str, str], driver: int, expected: list[str]
):
    assert names(rank(1, **environment), rank(2, **environment), driver=(driver, 1)) == expected


def test_a_group_is_refused_if_one_member_lacks_the_variables():
    found = refusals(scene(rank(1, **SAFE), rank(2)))
    assert {one.culprits[0].host_pid for one in found} == {2}
    assert str(found[0]).startswith("nccl-nvls: process 2 (python) speaks NCCL")


def test_mig_and_mps_are_refused():
    assert names(with_environment(CUDA, CUDA_VISIBLE_DEVICES="MIG-5c89")) == ["mig"]
    assert names(with_environment(replace(CUDA, devices=CUDA.devices | {"nvidia-caps/nvidia-cap21"}))) == [
        "mig"
    ]
    assert names(with_environment(CUDA, CUDA_MPS_PIPE_DIRECTORY="/tmp/mps")) == ["mps"]
    assert [one.known.name for one in refusals(Scene((580,), [CUDA], [with_environment(CUDA)], True))] == [
        "mig"
    ]


def test_every_entry_names_what_happens_and_a_remedy():
    assert len({known.name for known in TABLE}) == len(TABLE)
    assert all(known.what and known.happens and known.remedy for known in TABLE)
    text = (Path(__file__).parents[2] / "docs" / "gpu.md").read_text()
    assert all(f"`{known.name}`" in text for known in TABLE)


def test_the_machine_tells_its_gpus(standin: Standin):
    machine = gpus.this_machine(standin.driver)
    assert (machine.driver, machine.version) == ("580.65.06", (580, 65, 6))
    assert machine.gpus == (gpus.Gpu(UUIDS[0], MODEL, "nvidia0"),)
    assert gpus.this_machine(standin.folder / "none") == gpus.Gpus("", ())


def test_memory_on_the_gpu_is_asked_of_nvidia_smi_and_is_unknown_without_it(
    standin: Standin, monkeypatch: pytest.MonkeyPatch
):
    players = [standin.play(memory=3 << 20), standin.play(memory=5 << 20)]
    assert gpus.memory_of([players[1].pid]) == {players[1].pid: 5 << 20}
    assert gpus.partitioned() is False
    monkeypatch.setenv("PATH", "/nonexistent")
    assert gpus.memory_of([players[1].pid]) == {}
    assert gpus.partitioned() is None


def test_a_memory_cgroup_without_room_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(room, "_CGROUP", tmp_path)
    monkeypatch.setattr(room, "_groups", lambda _: iter([tmp_path / "job"]))
    (tmp_path / "job").mkdir()
    for name, value in (("max", 3 << 20), ("current", 2 << 20), ("stat", f"inactive_file {1 << 18}\n")):
        (tmp_path / "job" / f"memory.{name}").write_text(str(value))
    assert room.too_little({1: 1 << 20}) == ""
    assert room.too_little({1: 1 << 20, 2: 1 << 19}).endswith("its memory cgroup /job has room for 0.0 GB")
    (tmp_path / "job" / "memory.max").write_text("max")
    assert room.too_little({1: 1 << 20, 2: 1 << 19}) == ""


def test_the_doctor_says_in_one_line_that_there_is_no_driver(tmp_path: Path):
    (check,) = doctor.machine_checks(tmp_path)
    assert check.ok
    assert "no NVIDIA driver" in check.detail


def test_the_doctor_prints_the_matrix_of_the_driver_found(standin: Standin):
    checks = {check.name: check for check in doctor.machine_checks(standin.driver)}
    assert checks["gpu driver"].detail == f"580.65.06: {MODEL} ({UUIDS[0]})"
    assert checks["cuda checkpoints"].detail.startswith("by cuda-bindings")
    assert checks["gpu: restore on other GPUs of the same kind"].detail == "yes"
    assert checks["gpu: memory shared by CUDA IPC"].detail == "no: from 610 on"
    assert "NCCL_NVLS_ENABLE=0" in checks["gpu: nccl-nvls"].detail
    assert all(check.ok for check in checks.values())


def test_the_doctor_names_a_driver_that_is_too_old(tmp_path: Path):
    old = Standin(tmp_path / "old", driver="535.183.01")
    checks = {check.name: check for check in doctor.machine_checks(old.driver)}
    assert not checks["gpu driver"].ok
    assert "570" in checks["gpu driver"].remedy


def test_the_doctor_tells_of_a_process_what_will_be_saved_and_what_not(standin: Standin):
    player = standin.play("forks")
    checks = doctor.process_checks([player.pid, player.child], str(standin.devices))
    assert [(check.name, check.ok) for check in checks] == [("cuda", True), ("cuda: forked-child", False)]
    assert f"process {player.pid} " in checks[0].detail
    assert f"process {player.child} " in checks[1].detail
    assert doctor.process_checks([standin.play("imports").pid], str(standin.devices)) == []


def test_options_of_the_hook_are_those_of_its_schema():
    hook = json.loads((Path(__file__).parents[2] / "hooks" / "cuda" / "hook.json").read_text())
    properties = hook["options"]["properties"]
    defaults = Options.of({name: value["default"] for name, value in properties.items()})
    assert set(properties) == set(Options.__dataclass_fields__)
    assert defaults == Options()
