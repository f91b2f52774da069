"""What a sidecar needs of its pod: the shared folder, rights, a container that can be entered. Each lack is named."""

from __future__ import annotations

import errno
import os
import signal
import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ckptrun.core import confinement
from ckptrun.criu import ownrights
from ckptrun.errors import ConfigurationError, PermissionMissingError
from ckptrun.supervisor.workplace import PROBE_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

    from ckptrun.errors import CkptrunError

SHARED = "/ckptrun"
SOCKET, WORK, STATE, CRIU = "run/shim.sock", "work", "state", "criu"
"""In the shared folder."""
_MOUNT = "mount the pod's emptyDir `ckptrun` at {} in every container, writable in the sidecar"


def shared_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder that every container of the pod has at the same path."""
    return Path(environ.get("CKPTRUN_SHARED") or SHARED)


def check_rights() -> None:
    """See that this container may do what dumps and restores need.

    Raises:
        PermissionMissingError: it may not.
    """
    if os.geteuid() != 0:
        raise PermissionMissingError(
            f"the sidecar runs as uid {os.geteuid()}",
            hint="set runAsUser: 0 in the sidecar's securityContext; the job's container needs no such thing",
        )
    reasons, remedies = [], []
    if missing := ownrights.missing_capabilities(ownrights.effective_capabilities()):
        names = ", ".join(missing)
        reasons.append(f"the sidecar lacks {names}: jobs could not be restored")
        remedies.append(
            f"add {names} to securityContext.capabilities of the container ckptrun (the job's needs none); "
            "a namespace that enforces Pod Security baseline or restricted refuses them: see docs/kubernetes.md"
        )
    if ownrights.has_seccomp_filter():
        reasons.append("the sidecar has a seccomp filter, under which the job's own cannot be saved")
        remedies.append(
            "set securityContext.seccompProfile.type: Unconfined on the container ckptrun; the job's keeps its"
        )
    if reasons:
        raise PermissionMissingError("; ".join(reasons), hint="; ".join(remedies))


def prepare(shared: Path, environ: MutableMapping[str, str]) -> None:
    """Make ckptrun's places in the shared folder, and have this process use them.

    Raises:
        ConfigurationError: the folder is missing, cannot be written, or is full.
    """
    if not shared.is_dir():
        raise ConfigurationError(f"there is no folder {shared}", hint=_MOUNT.format(shared))
    try:
        for name, mode in (("run", 0o755), (WORK, 0o700), (STATE, 0o700)):
            (shared / name).mkdir(mode=mode, exist_ok=True)
            (shared / name).chmod(mode)
        with tempfile.TemporaryFile(dir=shared / WORK) as probed:
            probed.write(bytes(PROBE_BYTES))
    except OSError as error:
        raise ConfigurationError(
            f"nothing can be written in {shared}: {error.strerror}",
            hint=f"{_MOUNT.format(shared)}; if it is full, raise its sizeLimit",
        ) from error
    shim = shared / "bin" / "ckptrun-shim"
    if not os.access(shim, os.X_OK):
        raise ConfigurationError(
            f"there is no program {shim}",
            hint=f"let an init container run `ckptrun kube install {shared}` before",
        )
    environ["XDG_STATE_HOME"] = str(shared / STATE)
    environ["TMPDIR"] = str(shared / WORK)  # a read-only root has none
    if (shared / CRIU).is_dir():
        environ.setdefault("CKPTRUN_CRIU", str(shared / CRIU))


def check_peer(pid: int) -> None:
    """See that the container of a shim can be entered.

    Raises:
        ConfigurationError: it cannot.
    """
    try:
        same = os.readlink(f"/proc/{pid}/ns/user") == os.readlink("/proc/self/ns/user")  # noqa: PTH115
    except OSError:
        return  # gone, as what is done next finds out
    if not same:
        raise ConfigurationError(
            "the job's container is in a user namespace of its own, which the sidecar has no rights in",
            hint="leave hostUsers: false out of the pod's spec, or use the wrapper mode",
        )


def not_entered(error: OSError) -> ConfigurationError | PermissionMissingError:
    """Return the error for a job's container that the kernel does not let the sidecar into."""
    message = f"the job's container cannot be entered: {error.strerror or error}"
    if error.errno in {errno.EACCES, errno.EPERM}:
        return PermissionMissingError(message, hint=confinement.entering(ownrights.security_label()))
    hint = "see docs/kubernetes.md for what the sidecar and the job's container need"
    return ConfigurationError(message, hint=hint)


def turn_away(shared: Path, error: CkptrunError) -> None:
    """Tell the next shim why it is not served, so that its container ends too; one with a job is left alone.

    A sidecar that is no native one is started beside the job's container, which would wait for ever otherwise.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    path = shared / SOCKET
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        listening.bind(str(path))
        path.chmod(0o666)
        listening.listen()
        connection, _ = listening.accept()
        with connection:
            said = connection.recv(_HELLO).split(b" ")
            if len(said) > 3 and said[3] == b"0":
                connection.send(f"refused {error}".encode()[:_REFUSAL])
                connection.recv(1)  # until it has gone


def is_listening(path: Path) -> bool:
    """Say whether a sidecar listens at a socket; nothing is sent to it."""
    text = Path("/proc/net/unix").read_text(encoding="utf-8", errors="surrogateescape")
    for line in text.splitlines()[1:]:
        words = line.split(maxsplit=7)
        if len(words) == 8 and words[7] == str(path) and int(words[3], 16) & _ACCEPTS:
            return True
    return False


_HELLO, _REFUSAL = 4096, 1000
"""Bytes of a shim's first message, and of what it is told."""
_ACCEPTS = 1 << 16
"""__SO_ACCEPTCON: it listens."""
