"""What a checkpoint must remember besides images and files, and how the manifest says it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ckptrun.capsule.capsule import ROOT_PID, Tree
from ckptrun.capsule.wiring import Position
from ckptrun.criu.connections import KEEP_FLAGS
from ckptrun.errors import CorruptError
from ckptrun.supervisor.compat import Compat

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptrun.core.model import Json

FACTS_VERSION = 1
HELPER_KEY = "helper"
"""Key of the static helper's bytes among a checkpoint's files: the job root runs from them."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts of one checkpoint.

    Args:
        position: where the standard streams stood.
        last_pid: the highest PID in the tree.
        helper: digest of the static helper the job root runs from.
        journal: the file records, as the journal writes them.
        monotonic: the job's CLOCK_MONOTONIC at the freeze, nanoseconds.
        boottime: the job's CLOCK_BOOTTIME at the freeze, nanoseconds.
        privilege: what kind of capsule it was made in (`Privilege.kind`).
        uid: whom the job ran as, inside its capsule.
        criu_flags: what CRIU was told of connections, and must be told again.
        compat: what it depends on: CPU, kernel, CRIU, libraries; checked before a restore.
        affinity: CPUs of the threads that have others than the job root, by PID inside the capsule.
        channel: what the job was told and has promised; see `Channel.facts`.
        trigger: why it was taken; empty in older checkpoints.
        hooks: by hook, the data it wants back; see `ckptrun.hooking`.
        tree: PIDs of the job root and of the user's command; those of every older checkpoint where absent.
        state: which state of the job's is among the contents; see `ckptrun.appstate.mark`.
    """

    position: Position
    last_pid: int
    helper: str
    journal: Json
    monotonic: int
    boottime: int
    privilege: str
    uid: int
    criu_flags: tuple[str, ...]
    compat: Compat
    affinity: Mapping[str, Sequence[int]] = field(default_factory=dict)
    channel: Mapping[str, Json] = field(default_factory=dict)
    trigger: str = ""
    hooks: Mapping[str, dict[str, Json]] = field(default_factory=dict)
    state: Mapping[str, Json] = field(default_factory=dict)
    tree: Tree = field(default_factory=Tree)

    def to_json(self) -> dict[str, Json]:
        """Return the facts for the manifest."""
        return {
            "version": FACTS_VERSION,
            "streams": self.position.to_json(),
            "last_pid": self.last_pid,
            "helper": self.helper,
            "journal": self.journal,
            "monotonic": self.monotonic,
            "boottime": self.boottime,
            "privilege": self.privilege,
            "uid": self.uid,
            "criu_flags": list(self.criu_flags),
            "compat": self.compat.to_json(),
            "affinity": {pid: list(cpus) for pid, cpus in self.affinity.items()},
            "channel": dict(self.channel),
            "trigger": self.trigger,
            "hooks": dict(self.hooks),
            "state": dict(self.state),
            "root_pid": self.tree.root,
            "first_pid": self.tree.first,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Facts:
        """Read what `to_json` wrote.

        Raises:
            CorruptError: it does not parse, or is of a version this program does not know.
        """
        if value.get("version") != FACTS_VERSION:
            raise CorruptError(
                f"the checkpoint's facts are not of version {FACTS_VERSION}",
                hint="use the version of ckptrun that took it",
            )
        try:
            return cls(
                Position.from_json(value["streams"]),
                value["last_pid"],
                value["helper"],
                value["journal"],
                value["monotonic"],
                value["boottime"],
                value["privilege"],
                value["uid"],
                tuple(value.get("criu_flags", KEEP_FLAGS)),
                Compat.from_json(value.get("compat")),
                value.get("affinity", {}),
                value.get("channel", {}),
                value.get("trigger", ""),
                value.get("hooks", {}),
                value.get("state", {}),
                Tree(value.get("root_pid", ROOT_PID), value.get("first_pid", ROOT_PID + 1)),
            )
        except (KeyError, TypeError) as error:
            raise CorruptError(f"the checkpoint's facts do not parse: {error!r}") from error
