"""Reads what a shim says when it connects: `stub/shim.c` sends it, `shim` serves who has said it.

Everything but the peer's PID is the word of an unprivileged process, and is read strictly.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ckptrun.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

PROTOCOL = 1
_MESSAGE = 4096
_MOST_FDS = 64
_LARGEST_SPEC = 16 << 20
_CREDENTIALS = struct.Struct("3i")
UNKNOWN = "unknown"
"""The version that a shim names which has found none."""
_NOT_OURS = "nothing but the shim is to use that socket"


class MisfitError(ConfigurationError):
    """The container of a shim and this sidecar do not go together, whichever shim comes.

    Args:
        running: its job runs, or has ended and nobody has been told: the shim is not sent away, or both were lost.
    """

    def __init__(self, message: str, *, hint: str, running: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.running = running


@dataclass(frozen=True, slots=True)
class Hello:
    """What a shim says of itself.

    Args:
        version: of the ckptrun that installed it.
        argv: the job's command.
        env: the container's environment.
        cwd: the container's working directory.
        stdio: the container's descriptors 0, 1 and 2; they are the receiver's now.
        kept: descriptors that an earlier sidecar had it keep, by name; they are the receiver's now.
        root_pid: the job root's PID, if one runs.
        ended: wait status of a job root whose end no sidecar has taken yet.
    """

    version: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    stdio: tuple[int, int, int]
    kept: Mapping[str, int]
    root_pid: int | None
    ended: int | None

    @property
    def begun(self) -> bool:
        """Whether a job was started whose end nobody has taken."""
        return self.root_pid is not None or self.ended is not None


def receive(connection: socket.socket, pid: int, version: str) -> Hello:
    """Read the hello of process `pid`, within the connection's timeout.

    Raises:
        MisfitError: the shim is of another protocol or version than ckptrun `version`.
        ConfigurationError: it is no shim.
        OSError: the peer is gone, or says nothing, or its job has just ended: a shim will connect again.
    """
    message, fds, flags, _ = socket.recv_fds(connection, _MESSAGE, _MOST_FDS)
    if not message:
        raise OSError(0, "it is gone again")
    try:
        return _parse(pid, message.decode(errors="replace").split(" "), fds, flags, version)
    except BaseException:
        for fd in fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        raise


def _parse(pid: int, words: list[str], fds: list[int], flags: int, version: str) -> Hello:
    strange = ConfigurationError(f"process {pid} connected to the sidecar and is no shim", hint=_NOT_OURS)
    if len(words) < 3 or words[0] != "hello" or not re.fullmatch(r"\d{1,9}", words[1]):
        raise strange
    if int(words[1]) != PROTOCOL or (version and words[2] not in {version, UNKNOWN}):
        raise _misfit(words, version)
    if len(words) != 4 or not re.fullmatch(r"-?\d{1,9}", words[3]):
        raise strange
    if len(fds) < 4 or flags & socket.MSG_CTRUNC:
        raise strange
    try:
        pairs = _pairs(fds[0])
        (cwd,) = (value for key, value in pairs if key == "cwd")
        kept = dict(zip((value for key, value in pairs if key == "kept"), fds[4:], strict=True))
    except (OSError, ValueError) as error:
        raise strange from error
    running = int(words[3])
    if running > 0 and not is_child(running, pid):
        raise OSError(0, "the job has ended meanwhile")  # it will say so when it connects again
    os.close(fds[0])
    return Hello(
        _named(words[2]),
        tuple(value for key, value in pairs if key == "arg"),
        dict(value.partition("=")[::2] for key, value in pairs if key == "env"),
        cwd,
        (fds[1], fds[2], fds[3]),
        kept,
        running if running > 0 else None,
        -running - 1 if running < 0 else None,
    )


def _misfit(words: list[str], version: str) -> MisfitError:
    running = len(words) > 3 and words[3] != "0"
    left = "; its job is left alone, without checkpoints" if running else ""
    then = ", and delete the pod: the next one goes on from the newest checkpoint" if running else ""
    return MisfitError(
        f"the job's container has the shim of ckptrun {_named(words[2])} (protocol {words[1]}), "
        f"the sidecar is ckptrun {version or UNKNOWN} (protocol {PROTOCOL}){left}",
        hint=f"give the init container ckptrun-install and the sidecar the same image: one tag, or one digest{then}",
        running=running,
    )


def peer(connection: socket.socket) -> int:
    """Return the PID of whom a connection is with, by the kernel's word; 0 if it is not in our PID namespace."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid: int = _CREDENTIALS.unpack(data)[0]
    return pid


def status_of(pid: int) -> dict[str, list[int]]:
    """Return the numbers of a process's status that tell as whom it runs. Raises OSError."""
    found: dict[str, list[int]] = {}
    for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key in {"Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp"}:
            found[key] = [int(word) for word in value.split()]
    return found


def is_child(pid: int, parent: int) -> bool:
    """Tell whether a process is another's child."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return int(stat[stat.rfind(b")") + 1 :].split()[1]) == parent


def kept_words(kept: Mapping[str, int]) -> list[bytes]:
    """Return the words that name the descriptors a shim is to keep."""
    return [word for name in kept for word in (b"keep", os.fsencode(name))]


def _pairs(fd: int) -> list[tuple[str, str]]:
    """Read the specification that came with a hello. Raises OSError; ValueError: it is none."""
    words = [os.fsdecode(word) for word in os.pread(fd, _LARGEST_SPEC, 0).split(b"\0")]
    if len(words) % 2 != 1 or words.pop():
        raise ValueError("cut off")
    return list(zip(words[::2], words[1::2], strict=True))


def _named(version: str) -> str:
    return version if re.fullmatch(r"[\w.+-]{1,40}", version) else UNKNOWN
