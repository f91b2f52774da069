"""As whom the job and CRIU run: as root, as the user who called sudo, or as an ordinary user in a user namespace."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptrun.capsule.spec import Identity
from ckptrun.criu import probe
from ckptrun.errors import PermissionMissingError

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT, SUDO, USER = "root", "sudo", "user"


@dataclass(frozen=True, slots=True)
class Privilege:
    """How a run is privileged.

    Args:
        kind: ``root``: everything as root; ``sudo``: the job as the invoking user, CRIU with root's capabilities under
            that user's id (root without SYS_RESOURCE may not read another user's limits); ``user``: a user namespace.
        user_namespace: see `CapsuleSpec.user_namespace`.
        job: see `Program.identity`.
        environment: variables that make the job's environment the user's own.
        limited: root without all that root may do, as in most containers: CRIU gets ``--unprivileged``.
    """

    kind: str
    user_namespace: tuple[int, int] | None = None
    job: Identity | None = None
    environment: tuple[tuple[str, str], ...] = ()
    limited: bool = False

    @property
    def unprivileged(self) -> bool:
        """Whether CRIU gets ``--unprivileged``, in which it leaves the clocks to the capsule."""
        return self.kind != ROOT or self.limited

    @property
    def dumper(self) -> Identity | None:
        """Whom a dump runs as."""
        if self.job is None:
            return None
        return Identity(self.job.uid, self.job.gid, self.job.groups, keep_capabilities=True)

    @property
    def owner(self) -> tuple[int, int] | None:
        """Who owns the job's private folders, if not the one who makes them."""
        return (self.job.uid, self.job.gid) if self.job else None

    @property
    def uid(self) -> int:
        """The job's user id as it sees it."""
        return self.job.uid if self.job else 0


def find(environ: Mapping[str, str]) -> Privilege:
    """Return how this process's job is to run.

    Raises:
        PermissionMissingError: root lacks what every restore needs, or sudo names a user this machine does not know.
    """
    if os.geteuid() != 0:
        return Privilege(USER, (os.geteuid(), os.getegid()))
    if missing := probe.missing_capabilities(probe.effective_capabilities()):
        names = ", ".join(missing)
        raise PermissionMissingError(
            f"root lacks {names} here: jobs could not be restored",
            hint=f"add {names} to the container's capabilities, or run ckptrun outside it",
        )
    invoking = environ.get("SUDO_UID", "0")
    if invoking == "0":
        return Privilege(ROOT, limited=probe.rights() is not probe.Rights.FULL)
    try:
        user = pwd.getpwuid(int(invoking))
    except (KeyError, ValueError) as error:
        raise PermissionMissingError(
            f"SUDO_UID is {invoking}, and there is no such user", hint="unset SUDO_UID to run the job as root"
        ) from error
    groups = tuple(os.getgrouplist(user.pw_name, user.pw_gid))
    own = (("HOME", user.pw_dir), ("USER", user.pw_name), ("LOGNAME", user.pw_name), ("SHELL", user.pw_shell))
    return Privilege(SUDO, None, Identity(user.pw_uid, user.pw_gid, groups), own)
