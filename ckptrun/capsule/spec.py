"""Specifications the static helper understands: words separated by NUL, in an anonymous file.

`CapsuleSpec` says what the namespaces look like, `Program` what to start inside them. All policy is here; the helper
only obeys.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING

from ckptrun.capsule import masks as proc
from ckptrun.capsule.helper import HIDDEN, Helper
from ckptrun.capsule.masks import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REMOUNT

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from ckptrun.capsule.masks import Mask


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a program runs as; None in `Program.identity` means: as init itself.

    Args:
        uid: user id.
        gid: group id.
        groups: supplementary groups.
        keep_capabilities: it keeps every capability of init's, ambient.
        without: numbers of capabilities that it does not keep all the same.
        restricted: it has no capability and never gets one: every set is empty, ``no_new_privs`` is set.
    """

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    keep_capabilities: bool = False
    without: tuple[int, ...] = ()
    restricted: bool = False


@dataclass(frozen=True, slots=True)
class Offsets:
    """Time namespace offsets in nanoseconds, added to the machine's clocks."""

    monotonic: int
    boottime: int


@dataclass(frozen=True, slots=True)
class CapsuleSpec:
    """What a capsule looks like.

    Args:
        helper: the static helper its job root runs from.
        shared: folders of ckptrun that are bound to constant paths: name under `HIDDEN` -> host folder.
        user_namespace: (uid, gid) outside that become 0 inside, for an ordinary user; None as root.
        offsets: for the time namespace; None leaves the clocks alone.
        owner: uid and gid of the folder that holds what the job may write.
        read_only: names in `shared` of folders that nothing inside may change.
        masks: put on the fresh /proc: see `masks`.
        enter: make it in the mount, ipc, net, uts and cgroup namespaces of this process; 0: in this one's own. The
            PID namespace stays this one's, `shared` and the helper are looked up here. A capsule becomes part of its
            cgroups too, where the kernel allows it: with v1.
        agent: make no namespace, and so no capsule: join those of `enter` and be the agent of what runs there.
        detach: of an agent: take what an earlier one has put on /dev/shm away first.
        furnished: of an agent: an earlier one has put everything there, and it stays.
        shared_memory: size of /dev/shm in bytes; 0: half of the machine's memory.
    """

    helper: Helper
    shared: Mapping[str, Path]
    user_namespace: tuple[int, int] | None = None
    offsets: Offsets | None = None
    owner: tuple[int, int] | None = None
    read_only: Collection[str] = ()
    masks: tuple[Mask, ...] = ()
    enter: int = 0
    agent: bool = False
    detach: bool = False
    furnished: bool = False
    shared_memory: int = 0

    def words(self) -> list[bytes]:
        """Return the specification as the helper reads it."""
        steps: list[tuple[object, ...]] = []
        if self.user_namespace:
            steps.append(("userns", *self.user_namespace))
        if self.offsets:
            steps.append(("clock", *_split(self.offsets.monotonic), *_split(self.offsets.boottime)))
        if self.enter:
            steps.append(("enter", self.enter))
        if self.agent:
            steps += [("outer",), *self._hidden()]
        else:
            if self.enter:
                steps.append(("cgroups", self.enter))
            steps += [
                *proc.before(self.masks),
                ("mount", "proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""),
                *proc.after(self.masks),
                *self._hidden(),
                (
                    "mount",
                    "devpts",
                    "/dev/pts",
                    "devpts",
                    MS_NOSUID | MS_NOEXEC,
                    "newinstance,ptmxmode=0666,mode=0620",
                ),
                ("mount", "/dev/pts/ptmx", "/dev/ptmx", "", MS_BIND, ""),
            ]
        return [word for step in steps for word in _encode(*step)]

    def _hidden(self) -> list[tuple[object, ...]]:
        """Return the steps that make /dev/shm and what of ckptrun lies there."""
        shm = str(PurePath(HIDDEN).parent)
        steps: list[tuple[object, ...]] = []
        if self.furnished:
            return [("copy", self.helper.path, self.helper.inside_path, 0o755)]
        if self.detach:
            steps.append(("detach", shm))
        options = "mode=1777"
        if self.shared_memory:
            options += f",size={self.shared_memory}"
        if self.owner:
            options += ",uid={},gid={}".format(*self.owner)
        steps += [
            ("mount", "tmpfs", shm, "tmpfs", MS_NOSUID | MS_NODEV, options),
            ("mkdir", HIDDEN, 0o755),
        ]
        if self.owner:  # while it is empty
            steps.append(("chown", HIDDEN, *self.owner))
        steps += [
            ("mkdir", f"{HIDDEN}/bin", 0o755),
            ("copy", self.helper.path, self.helper.inside_path, 0o755),
        ]
        for name, folder in self.shared.items():
            inside = f"{HIDDEN}/{name}"
            steps.append(("mkdir", inside, 0o700))
            steps.append(
                ("tree", folder, inside) if self.enter else ("mount", folder, inside, "", MS_BIND, "")
            )
            if name in self.read_only:
                steps.append(("mount", "", inside, "", MS_REMOUNT | MS_BIND | MS_RDONLY | _kept(folder), ""))
        return steps


@dataclass(frozen=True, slots=True)
class Program:
    """What to start inside the capsule.

    Args:
        argv: absolute program path first.
        env: its whole environment.
        cwd: its working directory.
        fds: descriptor number inside -> descriptor of this process to install there.
        identity: whom it runs as.
        pid: the PID it gets, if the kernel allows choosing; 0 takes the next.
        last_pid: set the PID counter to this first, so that the program gets the next one.
        deny_io_uring: answer ENOSYS to io_uring_setup.
        umask: its file mode creation mask; None: as this process's.
        folder: descriptor of this process: of the folder that is its working directory, in place of `cwd`.
    """

    argv: Sequence[str | bytes]
    env: Mapping[str, str] | Mapping[bytes, bytes]
    cwd: str
    fds: Mapping[int, int] = field(default_factory=dict)
    identity: Identity | None = None
    pid: int = 0
    last_pid: int = 0
    deny_io_uring: bool = False
    umask: int | None = None
    folder: int = -1

    def passed(self) -> list[int]:
        """Return the descriptors that go with the words, in their order."""
        return [*self.fds.values(), *([self.folder] if self.folder >= 0 else [])]

    def words(self) -> list[bytes]:
        """Return the specification as the helper reads it: key, value, and so on."""
        pairs: list[tuple[str, object]] = [("arg", word) for word in self.argv]
        pairs += [("env", os.fsencode(k) + b"=" + os.fsencode(v)) for k, v in self.env.items()]
        pairs += [("fd", target) for target in self.fds]
        pairs.append(("folder", 1) if self.folder >= 0 else ("cwd", self.cwd))
        if self.umask is not None:
            pairs.append(("umask", self.umask))
        if self.pid:
            pairs.append(("pid", self.pid))
        if self.last_pid:
            pairs.append(("last-pid", self.last_pid))
        if self.deny_io_uring:
            pairs.append(("deny-io-uring", 1))
        if self.identity:
            pairs += [("uid", self.identity.uid), ("gid", self.identity.gid)]
            pairs += [("group", group) for group in self.identity.groups]
            if self.identity.keep_capabilities:
                pairs.append(("keep-capabilities", 1))
                pairs += [("without-capability", number) for number in self.identity.without]
            if self.identity.restricted:
                pairs += [("drop-bounding", 1), ("no-new-privs", 1)]
        return [word for key, value in pairs for word in _encode(key, value)]


def to_file(words: Sequence[bytes]) -> int:
    """Put words into an anonymous file and return its descriptor."""
    fd = os.memfd_create("ckptrun-spec", os.MFD_CLOEXEC)
    data = b"".join(word + b"\0" for word in words)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    return fd


def _kept(folder: Path) -> int:
    """Return the flags of a folder's mount that an ordinary user may not take off it."""
    flags = os.statvfs(folder).f_flag  # the bits are those of mount(2)
    return flags & (MS_NOSUID | MS_NODEV | MS_NOEXEC)


def _encode(*words: object) -> list[bytes]:
    return [word if isinstance(word, bytes) else os.fsencode(str(word)) for word in words]


def _split(nanoseconds: int) -> tuple[int, int]:
    return nanoseconds // 1_000_000_000, nanoseconds % 1_000_000_000
