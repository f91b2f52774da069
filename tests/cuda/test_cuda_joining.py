"""The hook joins a run by itself once the job has a GPU open, or a checkpoint with its data is restored."""

from __future__ import annotations

import os
import threading
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ckptrun.app.hooks import CUDA, cuda_standby
from ckptrun.capsule import helper as helpers
from ckptrun.core.model import Trigger
from ckptrun.cuda.finding import in_use
from ckptrun.hooking.contract import Hook, Phase, Surroundings
from ckptrun.hooking.phases import Hooks
from ckptrun.supervisor.hooks import RunsHooks, Standby

if TYPE_CHECKING:
    from pathlib import Path

    from support.cuda_standin import Standin

TAKE = SimpleNamespace(id="a-0001", trigger=Trigger.INTERVAL)
RESTORE = SimpleNamespace(checkpoint="a-0001")


class Run:
    """The hooks of a run whose job is these processes; a line in a file stands for what the hook does."""

    def __init__(self, standin: Standin, *pids: int) -> None:
        self.did = standin.folder / "did"
        program = ("/bin/sh", "-c", f"echo $CKPTRUN_PHASE >> {self.did}")
        self.made = 0

        def make() -> Hook:
            self.made += 1
            return Hook(CUDA, dict.fromkeys(Phase, program))

        needed = partial(in_use, devices=str(standin.devices))
        around = Surroundings("job", "1", ("true",), "/", dict(os.environ))
        self.hooks = RunsHooks(Hooks((), around), Standby(CUDA, needed, make))
        self.job = SimpleNamespace(
            opened=True,
            ended=threading.Event(),
            number=1,
            pids=lambda: list(pids),
            job_pid=lambda: pids[0],
            root=lambda: "/",
        )

    def checkpoint(self) -> list[str]:
        around = self.hooks.checkpoint(TAKE, self.job)
        return self._through(around)

    def restore(self, data: dict[str, Any]) -> list[str]:
        facts = SimpleNamespace(trigger="interval", hooks=data)
        return self._through(self.hooks.restore(RESTORE, self.job, facts, 0.0))

    def _through(self, around: Any) -> list[str]:
        around.open(lambda: False)
        around.close()
        return self.did.read_text().split() if self.did.exists() else []


def test_it_joins_at_the_first_checkpoint_that_finds_a_gpu_in_use_and_stays(standin: Standin):
    player = standin.play("imports")
    run = Run(standin, player.pid, os.getpid())
    assert run.checkpoint() == []
    with (standin.devices / "nvidiactl").open():
        assert run.checkpoint() == ["pre-checkpoint", "post-checkpoint"]
    assert run.checkpoint() == ["pre-checkpoint", "post-checkpoint"] * 2
    assert run.made == 1


def test_it_joins_at_a_restore_of_a_checkpoint_with_its_data(standin: Standin):
    run = Run(standin, os.getpid())
    assert run.restore({"postgres": {}}) == []
    assert run.restore({CUDA: {"processes": []}}) == ["pre-restore", "post-restore"]


def test_the_ready_made_one_stands_by_unless_it_was_asked_for(tmp_path: Path):
    helper = helpers.find()
    standby = cuda_standby((), os.environ, tmp_path, helper)
    assert standby is not None
    hook = standby.make()
    assert (hook.name, hook.timeout, hook.order) == (CUDA, 300, 95)
    assert hook.options["devices"] == "/dev"
    assert cuda_standby((hook,), os.environ, tmp_path, helper) is None
    assert standby.needed([os.getpid()]) is False
