"""Finds the hooks of a run, and serves ``ckptrun hooks``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ckptrun.capsule.helper import Helper
    from ckptrun.hooking.contract import Hook
    from ckptrun.settings import HookSettings


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
    return Discovery(cwd, environment, launcher(helper)).hooks(specs)
