"""Settings: what the user said, merged, parsed and checked.

Precedence: command line, then environment ``CKPTRUN_*``, then ``ckptrun.toml`` in the working directory, then
defaults. ``cli`` calls `resolve`; ``app`` and ``supervisor`` only read the frozen results.
"""

from __future__ import annotations

from ckptrun.settings.model import KeyChoice, KeyKind, LogFormat, RestartPolicy, RunSettings, StoreSettings

__all__ = ["KeyChoice", "KeyKind", "LogFormat", "RestartPolicy", "RunSettings", "StoreSettings"]
