"""Containers that share namespaces, as in a pod of Kubernetes."""

from __future__ import annotations

import shutil
import signal
from typing import TYPE_CHECKING, Any

from podman import SHM, SHM_BYTES

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence
    from pathlib import Path

    from container import Container
    from podman import Podman

PAUSE = "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN); signal.sigwait({signal.SIGTERM})"
"""The pod's PID 1, as Kubernetes' pause: it reaps, and ends when told to."""


_AT_ONCE = ("--force", "--time=0", "--ignore", "--depend")


class Pod:
    """Containers that share network, IPC and, if told so, processes, as in a pod of Kubernetes.

    Args:
        podman: the session's.
        image: one with Python, for the pod's PID 1.
        folder: its emptyDirs lie below it.
        share_pid: ``shareProcessNamespace``.
        host_network: the machine's network in place of loopback alone.
        hostname: of all its containers.
        memory: limit of all its containers together, in bytes; 0 for none.
    """

    def __init__(
        self,
        podman: Podman,
        image: str,
        folder: Path,
        *,
        share_pid: bool = True,
        host_network: bool = False,
        hostname: str = "pod",
        memory: int = 0,
    ) -> None:
        self.podman = podman
        self.folder = folder
        self.share_pid = share_pid
        self.containers: list[Container] = []
        self._forwards: list[subprocess.Popen[str]] = []
        self._mounts: list[Path] = []
        self._group = podman.limited_group(memory) if memory else ""
        self._placed = [f"--cgroup-parent={self._group}"] if memory else []
        self.infra = podman.run_container(
            image,
            "python3",
            "-c",
            PAUSE,
            name="infra",
            network="host" if host_network else "none",
            flags=("--ipc=shareable", "--uts=private", f"--hostname={hostname}", *self._placed),
        )
        self.name = self.infra.name
        self._host_network = host_network
        self._shm = self.empty_dir(".shm", SHM_BYTES)

    def run(self, image: str, *command: str, flags: Sequence[str] = (), **options: Any) -> Container:
        """Start a container in the pod; what it takes is as for `Podman.run_container`."""
        shared = [f"--ipc=container:{self.infra.id}", f"--uts=container:{self.infra.id}", *self._placed]
        if self.share_pid:
            shared.append(f"--pid=container:{self.infra.id}")
        volumes = options.get("volumes", ())
        if all(target != SHM for _, target, _ in volumes):
            options["volumes"] = [*volumes, (self._shm, SHM, "rw")]
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

    def cut_off(self) -> None:
        """Have nothing come through from what is forwarded, until `connect`: a network that drops what is sent."""
        for process in self._forwards:
            process.send_signal(signal.SIGSTOP)

    def connect(self) -> None:
        """Undo `cut_off`; what was sent meanwhile arrives."""
        for process in self._forwards:
            process.send_signal(signal.SIGCONT)

    def remove(self) -> None:
        """End everything at once, without a warning: the pod as its node's loss leaves it; its volumes go too."""
        for last in (False, False, True):  # one that ends by itself in this moment cannot be stopped
            if self.podman("rm", *_AT_ONCE, self.infra.name, check=last).code == 0:
                break
        for process in self._forwards:
            process.kill()
            process.communicate()
        for folder in self._mounts:
            self.podman.enter("umount", folder)
        if self._group:
            self.podman.remove_group(self._group)
        self._forwards, self._mounts, self.containers, self._group = [], [], [], ""
        shutil.rmtree(self.folder, ignore_errors=True)
