"""Whom ``--user`` names: this machine's accounts, or numbers that it has no name for."""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptrun.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

HIGHEST = (1 << 32) - 2
"""-1 means "leave it as it is" to the kernel."""
NO_HOME = "/"
"""Of a user without an account, as container runtimes have it."""


@dataclass(frozen=True, slots=True)
class Account:
    """A user a job can run as.

    Args:
        uid: user id.
        gid: group id.
        groups: every group, `gid` included.
        entry: the account of that number; None if this machine knows none.
    """

    uid: int
    gid: int
    groups: tuple[int, ...]
    entry: pwd.struct_passwd | None

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the variables that make an environment of root's the user's own; a HOME that is not root's stays."""
        entry = self.entry
        own: dict[str, str] = {}
        if environ.get("HOME", "") in {"", "/", _roots_home()}:
            own["HOME"] = entry.pw_dir if entry else NO_HOME
        if entry:
            return own | {"USER": entry.pw_name, "LOGNAME": entry.pw_name, "SHELL": entry.pw_shell}
        return own | {name: str(self.uid) for name in ("USER", "LOGNAME") if name in environ}


def find(text: str) -> Account:
    """Return the account that ``NAME``, ``UID``, ``NAME:GROUP`` or ``UID:GID`` stands for.

    A number needs no account; without one its group is 0, as Kubernetes has it. The groups that this process was
    given beyond root's own (``fsGroup``, ``supplementalGroups``) are the user's too.

    Raises:
        ConfigurationError: there is no such user or group here.
    """
    who, colon, group = text.partition(":")
    entry = _entry(who)
    if entry is None and not _is_number(who):
        raise ConfigurationError(
            f"--user {text}: there is no user {who!r} here", hint="give the number instead: --user UID:GID"
        )
    uid = entry.pw_uid if entry else int(who)
    gid = _group(text, group) if colon else entry.pw_gid if entry else 0
    named = os.getgrouplist(entry.pw_name, gid) if entry else [gid]
    return Account(uid, gid, tuple(dict.fromkeys([gid, *named, *_given()])), entry)


def _entry(who: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(int(who)) if _is_number(who) else pwd.getpwnam(who)
    except KeyError:
        return None


def _group(text: str, group: str) -> int:
    if _is_number(group):
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigurationError(
            f"--user {text}: there is no group {group!r} here", hint="give the number instead: --user UID:GID"
        ) from None


def _given() -> list[int]:
    """Return the groups that root's own account does not explain, but for those of whoever called sudo."""
    if "SUDO_UID" in os.environ:
        return []
    try:
        root = pwd.getpwuid(0)
        own = {0, *os.getgrouplist(root.pw_name, root.pw_gid)}
    except KeyError:
        own = {0}
    return [group for group in os.getgroups() if group not in own]


def _roots_home() -> str:
    try:
        return pwd.getpwuid(0).pw_dir
    except KeyError:
        return "/root"


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and int(text) <= HIGHEST
