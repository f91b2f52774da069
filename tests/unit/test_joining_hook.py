"""A hook that is to join a run and cannot: the checkpoint fails with the reason, and is answered."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from ckptrun.core.commands import TakeCheckpoint
from ckptrun.core.events import DumpFailed
from ckptrun.core.model import Trigger
from ckptrun.errors import ConfigurationError
from ckptrun.hooking.phases import Hooks
from ckptrun.supervisor.checkpointing import Checkpointer
from ckptrun.supervisor.hooks import RunsHooks, Standby

if TYPE_CHECKING:
    from ckptrun.hooking.contract import Hook


def test_gpus_are_looked_for_before_hooks_take_them_out_of_the_jobs_hands() -> None:
    """What a checkpoint depends on is gathered in the freeze, where a job that the hook cuda has suspended has none."""
    order: list[str] = []
    bracket = SimpleNamespace(is_open=False)
    around = SimpleNamespace(
        bracket=bracket, open=lambda *_, **__: order.append("hooks"), close=lambda *_: None
    )
    tools = SimpleNamespace(
        hooks=SimpleNamespace(checkpoint=lambda *_: around, any=True),
        binaries=SimpleNamespace(look_for_gpus=lambda pids: order.append(f"look at {pids}")),
        alone=threading.Lock(),
        post=order.append,
        note=print,
        keep_log=lambda *_: None,
    )
    slot = SimpleNamespace(populate=lambda _: None, touch=lambda _: None)
    arena = SimpleNamespace(take=lambda _: slot, give=lambda _: None)
    incarnation = SimpleNamespace(pids=lambda: [1 << 22], dead=lambda: False)
    checkpointer = Checkpointer(
        cast("Any", tools), cast("Any", arena), cast("Any", None), 60.0, lambda _: "", dict
    )
    checkpointer.begin()
    checkpointer.abandon()
    checkpointer.take(
        TakeCheckpoint("t-1", Trigger.REQUEST, hold=False, deadline=None), cast("Any", incarnation)
    )
    assert order[:2] == [f"look at {[1 << 22]}", "hooks"]


def lacking() -> Hook:
    raise ConfigurationError("cuda: the Python module cuda.bindings is not there", hint="install it")


def test_a_hook_that_cannot_join_fails_the_checkpoint_by_name() -> None:
    posted: list[Any] = []
    hooks = RunsHooks(Hooks(), Standby("cuda", lambda _pids: True, lacking))
    tools = SimpleNamespace(hooks=hooks, post=posted.append, note=print, keep_log=lambda *_: None)
    incarnation = SimpleNamespace(opened=False, ended=threading.Event(), number=1, dead=lambda: False)
    unused = cast("Any", None)
    checkpointer = Checkpointer(cast("Any", tools), unused, unused, 60.0, unused, unused)
    for name in ("t-0001", "t-0002"):  # nor does it take part unseen the next time
        command = TakeCheckpoint(name, Trigger.REQUEST, hold=False, deadline=None)
        checkpointer.take(command, cast("Any", incarnation))
    assert [(event.id, event.reason, event.skipped) for event in posted if isinstance(event, DumpFailed)] == [
        (name, "cuda: the Python module cuda.bindings is not there; install it", False)
        for name in ("t-0001", "t-0002")
    ]
