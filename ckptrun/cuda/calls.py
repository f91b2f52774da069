"""One call of the hook ``cuda``, read from its context, and what its process keeps from one call to the next."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptrun.cuda import finding, gpus
from ckptrun.cuda.choosing import AUTO, choose
from ckptrun.cuda.operation import Clock, Limits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptrun.cuda.driver import Driver

SUSPENDED, RUNNING = "suspended", "running"
"""What ``done`` names: the post-conditions of pre-checkpoint, and of the two phases that close."""
_MARGIN_SECONDS = 3.0
"""Of the hook's time, what is kept for starting and ending it."""


@dataclass(frozen=True)
class Options:
    """The hook's own options; see ``hooks/cuda/hook.json``.

    Args:
        lock: seconds for submitted work to end.
        move: seconds for one process's memory to move, each way.
        stuck: ``kill`` or ``leave``: what becomes of a process that cannot be led back to running.
        allow: names of entries of `ckptrun.cuda.known` that do not count.
        driver: ``auto``, ``bindings`` or ``program``.
        program: path of ``cuda-checkpoint``; empty for the one on PATH.
        devices: folder of the device files.
        information: folder where the driver tells of itself.
    """

    lock: float = 10.0
    move: float = 120.0
    stuck: str = "kill"
    allow: tuple[str, ...] = ()
    driver: str = AUTO
    program: str = ""
    devices: str = finding.DEVICES
    information: str = str(gpus.FOLDER)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Options:
        """Read them from a context."""
        known = {name: value for name, value in values.items() if name in cls.__dataclass_fields__}
        if isinstance(allow := known.get("allow", ()), str):
            known["allow"] = tuple(name for name in allow.split(",") if name)
        return cls(**known)


class Ways:
    """The way to the driver, found once: where a process stays for the closing phase, nothing has to start in that."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Driver] = {}

    def to(self, options: Options) -> Driver:
        """Return the way that the options ask for.

        Raises:
            CudaError: there is none.
        """
        key = options.driver, options.program
        if key not in self._found:
            self._found[key] = choose(*key)
        return self._found[key]

    def close(self) -> None:
        """End all helpers."""
        for driver in self._found.values():
            driver.close()
        self._found = {}


class Call:
    """One phase's context, read.

    Args:
        context: as the contract has it.
        ways: see `Ways`.
    """

    def __init__(self, context: Mapping[str, Any], ways: Ways) -> None:
        self.options = Options.of(context.get("options") or {})
        timeout = float(context.get("timeout") or 300.0)
        self.clock = Clock(max(timeout - _MARGIN_SECONDS, timeout / 2))
        self.limits = Limits(lock=self.options.lock, move=self.options.move, back=self.clock.left / 3)
        self.pids: list[int] = list(context["job"]["pids"])
        self.data: dict[str, Any] = dict(context.get("data") or {})
        self.ok = (context.get("outcome") or {}).get("ok", True)
        self.dry_run = bool(context.get("dry_run"))
        self.machine = Path(self.options.information)
        self._ways = ways

    def driver(self) -> Driver:
        """Return the way to the driver.

        Raises:
            CudaError: there is none.
        """
        return self._ways.to(self.options)
