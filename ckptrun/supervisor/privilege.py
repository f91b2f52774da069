"""As whom the job and CRIU run: as root, as somebody whom root names, or as an ordinary user in a user namespace."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptrun.capsule.fsrights import Modest
from ckptrun.capsule.guise import Guise
from ckptrun.capsule.spec import Identity
from ckptrun.capsule.visit import here
from ckptrun.core import confinement
from ckptrun.criu import ownrights
from ckptrun.errors import PermissionMissingError
from ckptrun.supervisor import accounts

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ckptrun.capsule.visit import Place

ROOT, SUDO, USER, RESTRICTED, CONTAINER = "root", "sudo", "user", "restricted", "container"


@dataclass(frozen=True, slots=True)
class Privilege:
    """How a run is privileged.

    Args:
        kind: ``root``: everything as root; ``sudo``: the job as the invoking user, CRIU with root's capabilities under
            that user's id (root without SYS_RESOURCE may not read another user's limits); ``restricted``: the same
            with the user that ``--user`` names, and the job can never have a capability again; ``user``: a user
            namespace; ``container``: the job as whoever its container runs as, CRIU as with ``sudo``.
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
    def restorer(self) -> Identity | None:
        """Whom a restore runs as.

        As the job's user CRIU need not give files away, for which a container's root lacks the right (CHOWN). With
        SETUID it would become root first; it restores no other user.
        """
        if not self.confined or self.dumper is None:
            return None
        return replace(self.dumper, without=(ownrights.NEEDED["SETUID"],))

    @property
    def owner(self) -> tuple[int, int] | None:
        """Who owns the job's private folders, if not the one who makes them."""
        return (self.job.uid, self.job.gid) if self.job else None

    @property
    def guise(self) -> Place:
        """Where files are made that are to be the job's: root may lack the right to give them away."""
        return Guise(self.job) if self.job and self.kind == RESTRICTED else here

    @property
    def modest(self) -> Modest | None:
        """With whose rights the job's files are read, if not with our own; uid 0 may read what we may."""
        return Modest(self.job) if self.job and self.job.uid else None

    @property
    def confined(self) -> bool:
        """Whether what runs for the job outside of its capsule must not gain a capability: this process has some."""
        return self.kind in {RESTRICTED, CONTAINER}

    @property
    def uid(self) -> int:
        """The job's user id as it sees it."""
        return self.job.uid if self.job else 0


def of_container(identity: Identity) -> Privilege:
    """Return how the job of another container runs: as that container's processes do."""
    return Privilege(CONTAINER, None, identity, limited=True)


def find(environ: Mapping[str, str], user: str = "") -> Privilege:
    """Return how this process's job is to run.

    Args:
        environ: this process's environment.
        user: whom ``--user`` names; empty if it was not given.

    Raises:
        PermissionMissingError: root lacks what every restore needs, an ordinary user names somebody else, or sudo names
            a user this machine does not know.
        ConfigurationError: there is no such user.
    """
    if os.geteuid() != 0:
        return _ordinary(user)
    _check_root(ownrights.NEEDED if user else ownrights.ESSENTIAL)
    if user:
        account = accounts.find(user)
        job = Identity(account.uid, account.gid, account.groups, restricted=True)
        return Privilege(RESTRICTED, None, job, tuple(account.environment(environ).items()))
    invoking = environ.get("SUDO_UID", "0")
    if invoking == "0":
        return Privilege(ROOT, limited=ownrights.rights() is not ownrights.Rights.FULL)
    try:
        entry = pwd.getpwuid(int(invoking))
    except (KeyError, ValueError) as error:
        raise PermissionMissingError(
            f"SUDO_UID is {invoking}, and there is no such user", hint="unset SUDO_UID to run the job as root"
        ) from error
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    own = (
        ("HOME", entry.pw_dir),
        ("USER", entry.pw_name),
        ("LOGNAME", entry.pw_name),
        ("SHELL", entry.pw_shell),
    )
    return Privilege(SUDO, None, Identity(entry.pw_uid, entry.pw_gid, groups), own)


def _ordinary(user: str) -> Privilege:
    """An ordinary user's job runs as that user, whether that is said or not."""
    if user and accounts.find(user).uid != os.geteuid():
        raise PermissionMissingError(
            f"--user {user}: only root may run a job as somebody else, and this is uid {os.geteuid()}",
            hint="leave --user out, run ckptrun as root (in Kubernetes: securityContext.runAsUser: 0), or with sudo",
        )
    return Privilege(USER, (os.geteuid(), os.getegid()))


def _check_root(needed: Collection[str]) -> None:
    """Refuse what could not be dumped or restored, before anything is made.

    Raises:
        PermissionMissingError: a capability is missing, or a seccomp filter would be every job's.
    """
    missing = ownrights.missing_capabilities(ownrights.effective_capabilities(), needed)
    filtered = ownrights.has_seccomp_filter()
    if not missing and not filtered:
        return
    reasons, remedies = [], []
    if missing:
        reasons.append(f"root lacks {', '.join(missing)} here")
        remedies.append(confinement.capabilities(missing))
    if filtered:  # the kernel lets nobody who has one suspend another's
        reasons.append("a seccomp filter is on ckptrun, and so on every job")
        remedies.append(confinement.SECCOMP)
    raise PermissionMissingError(
        f"{' and '.join(reasons)}: jobs could not be checkpointed or restored",
        hint=f"{'; '.join(remedies)}; or run ckptrun outside the container",
    )
