"""The user's job as a run knows it, whichever incarnation of it lives."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptrun.supervisor.dwelling import Here

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ckptrun.capsule.capsule import Capsule
    from ckptrun.supervisor.dwelling import Dwelling
    from ckptrun.supervisor.privilege import Privilege


@dataclass(frozen=True, slots=True)
class Job:
    """The user's command, as every fresh incarnation starts it."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    cwd: str
    deny_io_uring: bool
    private_tmp: Path | None
    privilege: Privilege
    portable: str = ""
    watch: Callable[[str, Capsule], None] = lambda _root, _capsule: None
    """Told of a new capsule and its root before anything of the job runs in it."""
    meeting: Mapping[str, Path] = field(default_factory=dict)
    """Where the job meets the supervisor: see `Rendezvous.shared`."""
    dwelling: Dwelling = field(default_factory=Here)


class Birth(enum.Enum):
    """How an incarnation comes to be."""

    FRESH = enum.auto()
    RESTORED = enum.auto()
    EARLIER = enum.auto()
    """An earlier process has started it afresh, and it has outlasted that."""
