"""The commands' end of the control channel: find a live run on this machine and ask it something.

Called by ``ckptrun.app``; the other end and the protocol are in `control`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from typing import TYPE_CHECKING, Any

from ckptrun import errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

SOCKET_NAME = "control.sock"

CONNECT_SECONDS = 2.0
"""A live supervisor's thread accepts at once; one that is stopped (SIGSTOP) does not matter here."""


class NoLiveRunError(errors.UsageError):
    """No run of that lineage lives on this machine."""


@contextlib.contextmanager
def socket_address(directory: Path, name: str) -> Iterator[str]:
    """Yield an address for ``directory/name`` that fits a socket's 107 bytes however long the path is.

    Raises:
        OSError: the directory cannot be opened.
    """
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)


def is_live(run_dir: Path) -> bool:
    """Tell whether a supervisor listens in ``run_dir``."""
    try:
        _connect(run_dir).close()
    except (BlockingIOError, TimeoutError):  # a full backlog: alive and busy
        return True
    except OSError:
        return False
    return True


def ask(run_dir: Path, name: str, request: Mapping[str, Any], *, timeout: float | None) -> dict[str, Any]:
    """Send ``request`` to the live run of lineage ``name`` and return its reply.

    Args:
        run_dir: the run's directory.
        name: the lineage, for messages.
        request: see `control`.
        timeout: seconds to wait for the reply; None waits as long as the run lives.

    Raises:
        NoLiveRunError: none lives on this machine.
        PermissionMissingError: it belongs to somebody else.
        NoAnswerError: it does not answer in time, or ends before it answers.
        CkptrunError: it answers with an error; of the kind that this is.
    """
    try:
        sock = _connect(run_dir)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        raise NoLiveRunError(
            f"no live run of {name!r} on this machine",
            hint=f"start it with 'ckptrun --name {name} -- COMMAND'; 'ckptrun ls' shows what there is",
        ) from None
    except PermissionError as error:
        raise errors.PermissionMissingError(
            f"the run of {name!r} belongs to another user", hint="ask as that user, or as root"
        ) from error
    except OSError as error:
        raise errors.NoAnswerError(
            f"the run of {name!r} cannot be reached: {error}", hint="try again"
        ) from error
    with sock:
        return _checked(name, _exchange(sock, name, request, timeout))


def _connect(run_dir: Path) -> socket.socket:
    with socket_address(run_dir, SOCKET_NAME) as address:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(CONNECT_SECONDS)
            sock.connect(address)
        except BaseException:
            sock.close()
            raise
        return sock


def _exchange(
    sock: socket.socket, name: str, request: Mapping[str, Any], timeout: float | None
) -> dict[str, Any]:
    deadline = None if timeout is None else time.monotonic() + timeout
    received = bytearray()
    try:
        sock.sendall(json.dumps(dict(request)).encode() + b"\n")
        while not received.endswith(b"\n"):
            sock.settimeout(None if deadline is None else max(0.001, deadline - time.monotonic()))
            data = sock.recv(65536)
            if not data:
                break
            received += data
        reply = json.loads(received) if received.endswith(b"\n") else None
    except TimeoutError:
        raise errors.NoAnswerError(
            f"the run of {name!r} did not answer within {timeout:g} s", hint="it is busy; try again"
        ) from None
    except (OSError, ValueError):
        reply = None
    if not isinstance(reply, dict):
        raise errors.NoAnswerError(
            f"the run of {name!r} ended before it answered",
            hint=f"'ckptrun events {name}' tells what happened",
        )
    return reply


def _checked(name: str, reply: dict[str, Any]) -> dict[str, Any]:
    """Return the reply without its ``ok``, or raise the error it carries, with that error's exit code."""
    if reply.pop("ok", False):
        return reply
    message, hint = str(reply.get("error", "no reason given")), str(reply.get("hint", ""))
    kinds: dict[int, type[errors.CkptrunError]] = {
        kind.exit_code: kind
        for kind in (
            errors.UsageError,
            errors.MissingFeatureError,
            errors.StoreError,
            errors.NoCheckpointError,
            errors.PermissionMissingError,
            errors.DumpError,
            errors.ConfigurationError,
            errors.HeldError,
        )
    }
    raise kinds.get(reply.get("exit_code", 70), errors.CkptrunError)(f"run {name!r}: {message}", hint=hint)
