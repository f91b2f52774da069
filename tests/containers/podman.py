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
import fcntl
import json
import os
import resource
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from support.processes import PATIENCE, POLL_SECONDS, Result, die_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

OWNER = "ckptrun.test.owner"
FORWARD = Path(__file__).with_name("forward.py")
PAUSE = "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN); signal.sigwait({signal.SIGTERM})"
"""The pod's PID 1, as Kubernetes' pause: it reaps, and ends when told to."""
_HOLDER = """\
if grep -q ' /sys/fs/cgroup/unified ' /proc/self/mounts; then umount /sys/fs/cgroup/unified || exit; fi
echo ready
read -r _ || :
"""
_NOFILE = min(20000, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
_NPROC = min(10000, resource.getrlimit(resource.RLIMIT_NPROC)[1] % 2**63)

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
            entrypoint: in place of the image's; empty for none.
            workdir: the folder it starts in.
            name: a word for its name.
            network: ``none``, ``host`` or ``container:ID``.
            flags: more of `podman run`.
        """
        full = self.name(name)
        words = ["run", "--detach", f"--name={full}", f"--label={OWNER}={self.owner}", f"--network={network}"]
        words += ["--pull=never", "--log-driver=k8s-file", f"--ulimit=nofile={_NOFILE}:{_NOFILE}"]
        words += [f"--ulimit=nproc={_NPROC}:{_NPROC}", *(security or Security()).flags(), *flags]
        words += [f"--env={key}={value}" for key, value in (env or {}).items()]
        words += [f"--volume={source}:{target}:{how}" for source, target, how in volumes]
        words += [f"--entrypoint={entrypoint}"] if entrypoint is not None else []
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


class Container:
    """One container, running or ended."""

    def __init__(self, podman: Podman, name: str) -> None:
        self.podman = podman
        self.name = name
        inspected = self.inspect()
        self.id = str(inspected["Id"])
        self._log = Path(inspected["HostConfig"]["LogConfig"]["Path"])

    def inspect(self) -> Any:
        return self.podman("container", "inspect", self.name).json[0]

    def state(self) -> Any:
        """Return podman's ``State``: ``Status``, ``Running``, ``ExitCode``, ``OOMKilled``, …"""
        return self.inspect()["State"]

    @property
    def pid(self) -> int:
        """Its first process, as this machine numbers it; 0 when it has ended."""
        return int(self.state()["Pid"])

    def running(self) -> bool:
        return bool(self.state()["Running"])

    def log(self, stream: str = "stdout") -> str:
        """Return what it has written so far to standard output, or to ``stderr``."""
        if not self._log.exists():
            return ""
        text = []
        for line in self._log.read_text(errors="replace").splitlines():
            _, name, part, words = [*line.split(" ", 3), "", "", ""][:4]
            if name == stream:
                text.append(words + ("\n" if part == "F" else ""))
        return "".join(text)

    @property
    def out(self) -> str:
        return self.log("stdout")

    @property
    def err(self) -> str:
        return self.log("stderr")

    def until(self, what: str, condition: Callable[[], Any], timeout: float = PATIENCE) -> Any:
        """Wait until `condition` returns something true, and return that; fail when the container ends first."""
        deadline = time.monotonic() + timeout
        asked = 0.0
        ended = False
        while True:
            if time.monotonic() - asked > 1:  # podman is slow to answer
                ended = not self.running()
                asked = time.monotonic()
            if found := condition():
                return found
            assert not ended, f"{self.name} ended before {what}\n{self.story()}"
            assert time.monotonic() < deadline, f"no {what} within {timeout:g} s\n{self.story()}"
            time.sleep(POLL_SECONDS)

    def prints(self, text: str, stream: str = "stdout", timeout: float = PATIENCE) -> None:
        """Wait until a stream has `text`."""
        self.until(f"{text!r} on {stream}", lambda: text in self.log(stream), timeout)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for the end and return the exit code."""
        try:
            return int(self.podman("wait", "--interval=50ms", self.name, timeout=timeout).out)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {timeout:g} s\n{self.story()}") from None

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send its first process a signal."""
        self.podman("kill", f"--signal={int(signum)}", self.name)

    def exec(self, *command: str, user: str = "", check: bool = True, timeout: float = PATIENCE) -> Result:
        """Run a program in it and wait for its end."""
        flags = [f"--user={user}"] if user else []
        return self.podman("exec", *flags, self.name, *command, check=check, timeout=timeout)

    def rm(self) -> None:
        """End and remove it at once."""
        self.podman("rm", "--force", "--time=0", self.name)

    def story(self) -> str:
        """Return what is known about it, for failures."""
        streams = [f"--- {name}\n{self.log(name)[-6000:]}" for name in ("stdout", "stderr")]
        return "\n".join([f"state: {json.dumps(self.state())}", *streams])


class Pod:
    """Containers that share network, IPC and, if told so, processes, as in a pod of Kubernetes.

    Args:
        podman: the session's.
        image: one with Python, for the pod's PID 1.
        folder: its emptyDirs lie below it.
        share_pid: ``shareProcessNamespace``.
        host_network: the machine's network in place of loopback alone.
    """

    def __init__(
        self, podman: Podman, image: str, folder: Path, *, share_pid: bool = True, host_network: bool = False
    ) -> None:
        self.podman = podman
        self.folder = folder
        self.share_pid = share_pid
        self.containers: list[Container] = []
        self._forwards: list[subprocess.Popen[str]] = []
        self._mounts: list[Path] = []
        self.infra = podman.run_container(
            image,
            "python3",
            "-c",
            PAUSE,
            name="infra",
            network="host" if host_network else "none",
            flags=("--ipc=shareable", *(("--uts=private",) if host_network else ())),
        )
        self.name = self.infra.name
        self._host_network = host_network

    def run(self, image: str, *command: str, flags: Sequence[str] = (), **options: Any) -> Container:
        """Start a container in the pod; what it takes is as for `Podman.run_container`."""
        shared = [f"--ipc=container:{self.infra.id}"]
        if self.share_pid:
            shared.append(f"--pid=container:{self.infra.id}")
        options["network"] = "host" if self._host_network else f"container:{self.infra.id}"
        container = self.podman.run_container(image, *command, flags=(*shared, *flags), **options)
        self.containers.append(container)
        return container

    def empty_dir(self, name: str, size: int = 0) -> Path:
        """Return the folder of an emptyDir, any user's to write; a tmpfs if its size in bytes is limited.

        What is in a tmpfs is seen below `Podman.root` only.
        """
        folder = self.folder / name
        if not folder.exists():
            folder.mkdir(parents=True)
            folder.chmod(0o777)
            if size:
                self.podman.enter("mount", "-t", "tmpfs", "-o", f"size={size},mode=777", "tmpfs", folder)
                self._mounts.append(folder)
        return folder

    def forward(self, port: int) -> None:
        """Have a port of the pod's loopback lead to the same port of this machine's."""
        if not self._host_network:
            self._forwards.append(self.podman.forward(self.infra, port))

    def remove(self) -> None:
        """End everything at once, without a warning: the pod as its node's loss leaves it; its volumes go too."""
        self.podman("rm", "--force", "--time=0", "--ignore", "--depend", self.infra.name)
        for process in self._forwards:
            process.kill()
            process.communicate()
        for folder in self._mounts:
            self.podman.enter("umount", folder)
        self._forwards, self._mounts, self.containers = [], [], []
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def images_locked() -> Iterator[None]:
    """Have one process at a time make images: a session of pytest has several."""
    path = Path(tempfile.gettempdir(), "ckptrun-test-images.lock")
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _owner(pid: int) -> str:
    """Return PID, start time and boot of a living process; something else's otherwise."""
    with contextlib.suppress(OSError):
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
        return f"{pid}.{started}.{boot}"
    return ""
