"""Finds the hooks of a run, and serves ``ckptrun hooks``."""

from __future__ import annotations

import os
import secrets
import time
from typing import TYPE_CHECKING, Any

from ckptrun.capsule import helper as helpers
from ckptrun.cuda.finding import in_use
from ckptrun.errors import ConfigurationError
from ckptrun.hooking.contract import TIMEOUT_SECONDS, Checkpoint, Hook, Message, Occasion, Phase, Surroundings
from ckptrun.hooking.phases import Hooks
from ckptrun.supervisor.hooks import Standby

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from ckptrun.capsule.helper import Helper
    from ckptrun.hooking.messages import Mailbag
    from ckptrun.settings import HookSettings, RunSettings


CUDA = "cuda"


def launcher(helper: Helper) -> tuple[str, ...]:
    """Return what starts a hook: see ``ckptrun/capsule/stub/hook.c``."""
    return (str(helper.path), "hook", str(os.getpid()))


def find_hooks(
    settings: HookSettings, environment: Mapping[str, str], cwd: Path, helper: Helper
) -> tuple[Hook, ...]:
    """Return the hooks that are asked for, in the order in which they begin.

    Raises:
        ConfigurationError: one is not there, cannot be run, or has an option that is wrong.
    """
    if not settings:
        return ()
    from ckptrun.hooking.discovery import Discovery  # noqa: PLC0415 -- most runs have no hooks
    from ckptrun.hooking.spec import Spec, gathered  # noqa: PLC0415 -- likewise

    specs = gathered(settings.specs, settings.tables, settings.environ)
    if settings.folder:
        specs.insert(0, Spec(str(settings.folder), {}, str(settings.folder)))
    return Discovery(settings.where or cwd, cwd, environment, launcher(helper)).hooks(specs)


def run_hooks(
    hooks: Sequence[Hook],
    settings: RunSettings,
    helper: Helper,
    epoch: Callable[[], int],
    tell: Callable[[str], None],
    record: Callable[..., None],
    mailbag: Mailbag,
) -> Hooks:
    """Return what runs a run's hooks; see `Hooks`."""
    around = Surroundings(
        settings.name, secrets.token_hex(8), settings.command, str(settings.cwd), settings.environment
    )
    return Hooks(
        tuple(hooks), around, launcher(helper), epoch=epoch, tell=tell, record=record, mailbag=mailbag
    )


def cuda_standby(
    hooks: Sequence[Hook], environment: Mapping[str, str], cwd: Path, helper: Helper
) -> Standby | None:
    """Return the hook ``cuda``, to join in once a process of the job has a GPU open; None if it was asked for."""
    if any(hook.name == CUDA for hook in hooks):
        return None

    def make() -> Hook:
        from ckptrun.hooking.discovery import Discovery  # noqa: PLC0415 -- as above
        from ckptrun.hooking.spec import Spec  # noqa: PLC0415 -- as above

        (hook,) = Discovery(cwd, cwd, environment, launcher(helper)).hooks([Spec(CUDA, {}, CUDA)])
        return hook

    return Standby(CUDA, in_use, make)


def listing(settings: HookSettings, environment: Mapping[str, str], cwd: Path) -> list[dict[str, Any]]:
    """Return the hooks that are asked for, in their order, and after them the ready-made ones that are not.

    Raises:
        ConfigurationError: see `find_hooks`.
    """
    from ckptrun.hooking import discovery  # noqa: PLC0415 -- runs without hooks do without

    asked = find_hooks(settings, environment, cwd, helpers.find())
    rows: list[dict[str, Any]] = [
        {
            "name": hook.name,
            "configured": True,
            "phases": [str(phase) for phase in hook.phases],
            "aborts": [str(phase) for phase in hook.phases if hook.aborts(phase)],
            "timeout": hook.timeout,
            "options": sorted(hook.options),
            "source": hook.source,
            "description": hook.description,
        }
        for hook in asked
    ]
    used = {hook.source for hook in asked}
    for folder in discovery.ready_made().values():
        if str(folder) in used:
            continue
        about = discovery.description(folder)
        rows.append(
            {
                "name": about["name"],
                "configured": False,
                "phases": about["phases"],
                "aborts": [],
                "timeout": about.get("timeout", TIMEOUT_SECONDS),
                "options": sorted(about.get("options", {}).get("properties", {})),
                "source": str(folder),
                "description": about["description"],
            }
        )
    return rows


def attempt(
    phase: str,
    settings: HookSettings,
    environment: Mapping[str, str],
    cwd: Path,
    *,
    data: dict[str, Any] | None,
    dry_run: bool,
) -> list[dict[str, Any]]:
    """Run the hooks of a phase with a made-up context; return how each call went.

    Raises:
        ConfigurationError: see `find_hooks`; or no hook takes part in this phase.
    """
    helper = helpers.find()
    occasion = _made_up(Phase(phase))
    asked = [
        hook for hook in find_hooks(settings, environment, cwd, helper) if occasion.phase in hook.programs
    ]
    if not asked:
        raise ConfigurationError(
            f"there is no hook for {phase} here",
            hint="name one: --hook SPEC, or [hooks.NAME] in ckptrun.toml",
        )
    around = Surroundings(
        "hooks-test", secrets.token_hex(8), ("true",), str(cwd), environment, dry_run=dry_run
    )
    hooks = Hooks(asked, around, launcher(helper), epoch=lambda: 1, mailbag=_MadeUp())
    rans = hooks.run(
        occasion.phase, occasion, asked, {} if data is None else {hook.name: data for hook in asked}
    )
    return [
        {
            "hook": ran.hook.name,
            "phase": phase,
            "outcome": str(ran.result.outcome),
            "reason": ran.result.reason,
            "retry_after": ran.result.retry_after,
            "done": list(ran.result.done),
            "released": list(ran.result.released),
            "data": ran.result.data,
            "events": list(ran.result.events),
            "seconds": round(ran.seconds, 4),
            "stderr": ran.stderr,
        }
        for ran in rans
    ]


class _MadeUp:
    """A `Mailbag` with a message that no job has written."""

    def __init__(self) -> None:
        self._waits = True

    def take(self, skip: Collection[str], most: int, size: int) -> list[Message]:
        del most, size
        waits = self._waits and "test" not in skip
        return [
            Message("ckptrun-test", "test", {"text": "a message of 'ckptrun hooks test'"}, time.time())
        ] * waits

    def released(self, keys: Collection[str], hook: str) -> None:
        del keys, hook
        self._waits = False

    def returned(self, keys: Collection[str], why: str) -> None:
        del keys, why


def _made_up(phase: Phase) -> Occasion:
    """Return an occasion as a run might have it, of a job that is not there."""
    checkpoint = Checkpoint("test-0001", "request", time.time())
    closing = phase in {Phase.POST_CHECKPOINT, Phase.POST_RESTORE}
    return Occasion(
        phase,
        1,
        None if phase in {Phase.ON_FAILURE, Phase.ON_EXIT} else checkpoint,
        outcome={"ok": True, "error": None} if closing else None,
        cause={"kind": "exit", "code": 1, "signal": None, "text": "exit code 1"}
        if phase is Phase.ON_FAILURE
        else None,
        exit={"by": "job", "code": 0, "final": True} if phase is Phase.ON_EXIT else None,
    )
