"""How a job's standard streams are connected, and where they stood at a freeze: what a checkpoint knows of them."""

from __future__ import annotations

import os
from dataclasses import astuple, dataclass, field
from typing import TYPE_CHECKING, Any

from ckptrun.capsule.redirect import FileMark

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptrun.core.model import Json

STDIN, STDOUT, STDERR, KEYS, SCREEN, SIZES = "stdin", "stdout", "stderr", "keys", "screen", "sizes"
_NUMBERS = {STDIN: 0, STDOUT: 1, STDERR: 2, KEYS: 3, SCREEN: 4, SIZES: 5}


@dataclass(frozen=True, slots=True)
class Wiring:
    """One incarnation's ends of the pipes.

    Args:
        ends: stream -> descriptor to install in the job root; closed by `Streams.wired`.
        names: stream -> CRIU's name of the pipe, by which a dump of this incarnation refers to it.
        mask: bit n is set when descriptor n is the terminal.
    """

    ends: Mapping[str, int]
    names: Mapping[str, str]
    mask: int

    def fds(self) -> dict[int, int]:
        """Return descriptor number in the job root -> descriptor here."""
        return {_NUMBERS[name]: fd for name, fd in self.ends.items()}


@dataclass(frozen=True, slots=True)
class Position:
    """Where the streams stood at a freeze; bytes since the lineage began.

    Args:
        names: see `Wiring.names`.
        mask: see `Wiring.mask`.
        written: output stream -> bytes the job had written.
        consumed: bytes of piped standard input the job had read.
        digest: of those bytes, hexadecimal, by which a later run knows the same input again.
        files: output stream -> where the regular file it goes to ended.
    """

    names: Mapping[str, str]
    mask: int
    written: Mapping[str, int] = field(default_factory=dict)
    consumed: int = 0
    digest: str = ""
    files: Mapping[str, FileMark] = field(default_factory=dict)

    def to_json(self) -> dict[str, Json]:
        """Return it for the checkpoint's facts."""
        return {
            "names": dict(self.names),
            "mask": self.mask,
            "written": dict(self.written),
            "consumed": self.consumed,
            "digest": self.digest,
            "files": {name: list(astuple(mark)) for name, mark in self.files.items()},
        }

    @classmethod
    def from_json(cls, value: Any) -> Position:
        """Read what `to_json` wrote."""
        files = {name: FileMark(*mark) for name, mark in value["files"].items()}
        return cls(value["names"], value["mask"], value["written"], value["consumed"], value["digest"], files)


def pipe_name(fd: int) -> str:
    """Return CRIU's name of a pipe, by either end."""
    return f"pipe:[{os.fstat(fd).st_ino}]"
