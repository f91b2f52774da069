"""What the table of remedies is made of: an entry, its retry, and one finding of it.

Used by every module of this package. Pure: neither logs nor /proc are read here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

ANYBODY = "a process of the job"
_ANY_FILE = "a file of the job"


class During(StrEnum):
    """When CRIU says it."""

    DUMP = "checkpoint"
    RESTORE = "restore"


@dataclass(frozen=True, slots=True)
class Retry:
    """A second try that loses no state of the job.

    Args:
        flags: options of CRIU's that it is made with.
        pause: seconds to wait before, with the job running.
    """

    flags: tuple[str, ...] = ()
    pause: float = 0.0

    def __str__(self) -> str:
        return f"with {' '.join(self.flags)}" if self.flags else "as it was"


AGAIN = Retry(pause=0.2)
"""For what passes by itself: a message that is read, a connection that is accepted."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """One known cause.

    Args:
        name: one word for it, with hyphens: the check's name in ``doctor --pid``.
        during: when CRIU stumbles over it.
        cause: a clause; ``{who}`` is the process, ``{at}`` the descriptor and path in brackets, ``{file}`` the path.
        remedy: the next step, an imperative clause.
        log: what betrays it in CRIU's log. Groups ``pid``, ``fd``, ``path``, ``ino`` and ``hexino`` (of a socket) are
            evidence; ``rel`` is a path without its first slash, as CRIU's restore writes them. None: /proc only.
        retry: what ckptrun tries by itself, once.
        owned: the descriptor that CRIU was at belongs to it, so that process and number are evidence too.
        refused: /proc shows it before the job is stopped; a checkpoint is not even begun.
    """

    name: str
    during: During
    cause: str
    remedy: str
    log: re.Pattern[str] | None
    retry: Retry | None = None
    owned: bool = False
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """One cause that was found, with the evidence for it.

    Args:
        remedy: what it is.
        line: of the log; empty if /proc showed it.
        pid: of the process, as the job counts; 0: unknown.
        host_pid: the same process as this machine counts; 0: unknown, or gone.
        program: its name.
        fd: of the descriptor; -1: unknown, or none.
        path: of the file or socket.
        inode: of the socket; 0: unknown.
    """

    remedy: Remedy
    line: str = ""
    pid: int = 0
    host_pid: int = 0
    program: str = ""
    fd: int = -1
    path: str = ""
    inode: int = 0

    @property
    def cause(self) -> str:
        """The cause as a clause that names process, descriptor and path, as far as they are known."""
        return self.remedy.cause.format(who=self.who, at=self._at, file=self.path or _ANY_FILE)

    @property
    def sentence(self) -> str:
        """Cause and remedy."""
        return f"{self.cause}; {self.remedy.remedy}"

    @property
    def who(self) -> str:
        """The process by number and name."""
        if not self.pid:
            return ANYBODY
        names = [self.program] if self.program else []
        if self.host_pid not in (0, self.pid):
            names.append(f"{self.host_pid} on this machine")
        return f"process {self.pid} ({', '.join(names)})" if names else f"process {self.pid}"

    @property
    def _at(self) -> str:
        number = "" if self.fd < 0 else f"fd {self.fd}"
        place = ": ".join(filter(None, (number, self.path)))
        return f" ({place})" if place else ""


def entry(
    name: str,
    log: str | None,
    cause: str,
    remedy: str,
    *,
    during: During = During.DUMP,
    retry: Retry | None = None,
    owned: bool = False,
    refused: bool = False,
) -> Remedy:
    """Return an entry of the table; the log's text is a regular expression."""
    pattern = None if log is None else re.compile(log)
    return Remedy(name, during, cause, remedy, pattern, retry, owned, refused)
