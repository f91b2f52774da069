"""Real containers by podman: for every test here, by the fixtures ``podman``, ``pod`` and the images'.

Podman runs in one mount namespace made for this session, without /sys/fs/cgroup/unified where the machine has
both layouts of cgroups: crun refuses that. No network of podman's is used, as its bridge would change the
machine's firewall: a pod has a network namespace with nothing but loopback, on which `Pod.forward` puts a
server of this machine.

Everything carries this process's PID and start time in a label: what a killed session left, the next removes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from container import Container
from support.processes import PATIENCE, Result, die_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

OWNER = "ckptrun.test.owner"
FORWARD = Path(__file__).with_name("forward.py")
_HOLDER = """\
if grep -q ' /sys/fs/cgroup/unified cgroup2 ' /proc/self/mounts; then
  umount /sys/fs/cgroup/unified && mount -t tmpfs tmpfs /sys/fs/cgroup/unified || exit
fi
echo ready
read -r _ || :
"""
_NOFILE = min(20000, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
_NPROC = min(10000, resource.getrlimit(resource.RLIMIT_NPROC)[1] % 2**63)

SHM = "/dev/shm"
SHM_BYTES = 64 << 20
"""What a container of Kubernetes gets there."""

Seccomp = Literal["default", "unconfined"]


def why_not() -> str:
    """Return why no container can be run here, or nothing."""
    if os.geteuid() != 0:
        return "containers need root"
    missing = [name for name in ("podman", "crun", "mmdebstrap") if shutil.which(name) is None]
    return f"{', '.join(missing)} not installed: make test-packages" if missing else ""


@dataclasses.dataclass(frozen=True)
class Security:
    """What a container may do; the defaults are Kubernetes' own.

    Args:
        user: ``UID`` or ``UID:GID``; empty for the image's.
        caps: names without ``CAP_``; None for the engine's default set.
        seccomp: the engine's filter, or none.
        read_only: the root file system.
        no_new_privileges: likewise.
        memory: limit in bytes, swap included; 0 for none.
    """

    user: str = ""
    caps: Sequence[str] | None = None
    seccomp: Seccomp = "default"
    read_only: bool = False
    no_new_privileges: bool = False
    memory: int = 0

    def flags(self) -> list[str]:
        flags = [f"--user={self.user}"] if self.user else []
        if self.caps is not None:
            flags += ["--cap-drop=ALL", *(f"--cap-add={name}" for name in self.caps)]
        if self.seccomp == "unconfined":
            flags.append("--security-opt=seccomp=unconfined")
        if self.read_only:
            flags += ["--read-only", "--read-only-tmpfs=false"]
        if self.no_new_privileges:
            flags.append("--security-opt=no-new-privileges")
        if self.memory:
            flags += [f"--memory={self.memory}", f"--memory-swap={self.memory}"]
        return flags


RESTRICTED = Security(user="1000:1000", caps=(), read_only=True, no_new_privileges=True)
"""What the Pod Security level `restricted` leaves a job."""


class Podman:
    """Podman for one session; a context that removes what was made in it."""

    def __init__(self) -> None:
        self.owner = _owner(os.getpid())
        self.prefix = f"ckptrun-test-{os.getpid()}-{secrets.token_hex(3)}"
        self._count = 0
        self._holder: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", _HOLDER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n", "no mount namespace of its own could be made"
        self._remove_orphans()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._remove(lambda owner: owner == self.owner)
        finally:
            assert self._holder is not None
            self._holder.communicate()

    @property
    def root(self) -> Path:
        """The machine's files with the mounts that only podman sees."""
        assert self._holder is not None
        return Path(f"/proc/{self._holder.pid}/root")

    def name(self, word: str) -> str:
        """Return a name for a thing of this session."""
        self._count += 1
        return f"{self.prefix}-{self._count}-{word}"

    def enter(
        self,
        *command: str | Path,
        check: bool = True,
        timeout: float = 10 * PATIENCE,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
    ) -> Result:
        """Run a program in podman's mount namespace; its folder is ``/``."""
        assert self._holder is not None
        done = subprocess.run(
            ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", "--", *map(str, command)],
            capture_output=True,
            check=False,
            timeout=timeout,
            input=stdin,
            env={**os.environ, **(env or {})},
        )
        result = Result(done.returncode, done.stdout, done.stderr)
        assert not check or result.code == 0, f"{command} ended with {result.code}:\n{result.err}{result.out}"
        return result

    def __call__(self, *words: str | Path, check: bool = True, timeout: float = 10 * PATIENCE) -> Result:
        """Run ``podman WORDS``."""
        return self.enter(
            "podman",
            "--cgroup-manager=cgroupfs",
            "--events-backend=file",
            *words,
            check=check,
            timeout=timeout,
        )

    def has_image(self, image: str) -> bool:
        return self("image", "exists", image, check=False).code == 0

    def run_container(
        self,
        image: str,
        *command: str,
        security: Security | None = None,
        env: Mapping[str, str] | None = None,
        volumes: Sequence[tuple[Path | str, str, str]] = (),
        entrypoint: str | None = None,
        workdir: str = "",
        name: str = "container",
        network: str = "none",
        flags: Sequence[str] = (),
    ) -> Container:
        """Start a container in the background.

        Args:
            image: its name.
            command: in place of the image's; empty for the image's.
            security: Kubernetes' defaults unless told.
            env: variables for it.
            volumes: (folder of this machine, place in the container, ``rw`` or ``ro``).
            entrypoint: in place of the image's.
            workdir: the folder it starts in.
            name: a word for its name.
            network: ``none``, ``host`` or ``container:ID``.
            flags: more of `podman run`.
        """
        full = self.name(name)
        words = ["run", "--detach", f"--name={full}", f"--label={OWNER}={self.owner}", f"--network={network}"]
        words += [
            "--pull=never",
            "--passwd=false",
            "--log-driver=k8s-file",
            f"--ulimit=nofile={_NOFILE}:{_NOFILE}",
        ]
        words += [f"--ulimit=nproc={_NPROC}:{_NPROC}", *(security or Security()).flags(), *flags]
        words += [f"--env={key}={value}" for key, value in (env or {}).items()]
        words += [f"--volume={source}:{target}:{how}" for source, target, how in volumes]
        words += [f"--entrypoint={json.dumps([entrypoint])}"] if entrypoint else []
        words += [f"--workdir={workdir}"] if workdir else []
        self(*words, image, *command)
        return Container(self, full)

    def forward(self, container: Container, port: int) -> subprocess.Popen[str]:
        """Have a port of the container's loopback lead to the same port of this machine's; kill to undo."""
        process = subprocess.Popen(
            [sys.executable, str(FORWARD), str(container.pid), str(port)],
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", "the port cannot be forwarded"
        return process

    def limited_group(self, memory: int) -> str:
        """Make a cgroup for containers that have one limit together, and return its name for podman."""
        group = f"/{self.name('pod')}"
        whole = Path("/sys/fs/cgroup/cgroup.controllers").exists()
        folder = Path("/sys/fs/cgroup" if whole else "/sys/fs/cgroup/memory", group[1:])
        folder.mkdir()
        folder.joinpath("memory.max" if whole else "memory.limit_in_bytes").write_text(str(memory))
        return group

    def remove_group(self, group: str) -> None:
        """Remove what `limited_group` made, in whichever hierarchies the engine has put containers below it."""
        self.enter(
            "sh",
            "-c",
            f"find /sys/fs/cgroup/*{group} /sys/fs/cgroup{group} -depth -type d -exec rmdir {{}} +",
            check=False,
        )

    def _remove_orphans(self) -> None:
        self._remove(lambda owner: _owner(int(owner.partition(".")[0])) != owner)

    def _remove(self, whose: Callable[[str], bool]) -> None:
        for kind, removal in (
            ("ps", ("rm", "--force", "--time=0", "--depend")),
            ("images", ("rmi", "--force")),
        ):
            listed = self(kind, "--all", f"--filter=label={OWNER}", "--format=json").json or []
            doomed = dict.fromkeys(one["Id"] for one in listed if whose(one["Labels"][OWNER]))
            for name in doomed:
                done = self(*removal, name, check=False)
                assert done.code == 0 or "no such" in done.err.lower() or "unknown" in done.err, done.err


def _owner(pid: int) -> str:
    """Return PID, start time and boot of a living process; something else's otherwise."""
    with contextlib.suppress(OSError):
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
        return f"{pid}.{started}.{boot}"
    return ""
