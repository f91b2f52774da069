"""Settings: what the user said, merged, parsed and checked.

Precedence: command line, then environment ``CKPTRUN_*``, then ``ckptrun.toml`` in the working directory,
then defaults. ``cli`` calls ``resolve_run`` and ``resolve_store``; ``app`` and ``supervisor`` read those.
"""

from __future__ import annotations

from ckptrun.core.config import RestartPolicy
from ckptrun.settings.environment import adopt_store_credentials, job_environment
from ckptrun.settings.model import HookSettings, KeyChoice, KeyKind, LogFormat, RunSettings, StoreSettings
from ckptrun.settings.pod import Pod, find_pod
from ckptrun.settings.resolve import (
    Elsewhere,
    check_preserved,
    resolve_hooks,
    resolve_ledger,
    resolve_run,
    resolve_store,
)

__all__ = [
    "Elsewhere",
    "HookSettings",
    "KeyChoice",
    "KeyKind",
    "LogFormat",
    "Pod",
    "RestartPolicy",
    "RunSettings",
    "StoreSettings",
    "adopt_store_credentials",
    "check_preserved",
    "find_pod",
    "job_environment",
    "resolve_hooks",
    "resolve_ledger",
    "resolve_run",
    "resolve_store",
]
