"""One container of podman's: what a test asks it, waits for, and does to it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.processes import PATIENCE, POLL_SECONDS, Result

if TYPE_CHECKING:
    from collections.abc import Callable

    from podman import Podman


class Container:
    """One container, running or ended."""

    def __init__(self, podman: Podman, name: str) -> None:
        self.podman = podman
        self.name = name
        inspected = self.inspect()
        self.id = str(inspected["Id"])
        self._pid = int(inspected["State"]["Pid"])
        self._pidfd = _pidfd(self._pid)
        self._cgroup = _cgroup(self._pid)
        self._log = Path(inspected["HostConfig"]["LogConfig"]["Path"])

    def inspect(self) -> Any:
        return self.podman("container", "inspect", self.name).json[0]

    def state(self) -> Any:
        """Return podman's ``State``: ``Status``, ``Running``, ``ExitCode``, ``OOMKilled``, …"""
        return self.inspect()["State"]

    @property
    def pid(self) -> int:
        """Its first process, as this machine numbers it; 0 if it had ended at once."""
        return self._pid

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
        while True:
            ended = not self.alive()  # asked first: what holds at the end counts
            if found := condition():
                return found
            assert not ended, f"{self.name} ended before {what}\n{self.story()}"
            assert time.monotonic() < deadline, f"no {what} within {timeout:g} s\n{self.story()}"
            time.sleep(POLL_SECONDS)

    def prints(self, text: str, stream: str = "stdout", timeout: float = PATIENCE) -> None:
        """Wait until a stream has `text`."""
        self.until(f"{text!r} on {stream}", lambda: text in self.log(stream), timeout)

    def alive(self) -> bool:
        """Tell whether its first process lives, without asking podman."""
        return not self._ended(0)

    def _ended(self, seconds: float) -> bool:
        return self._pidfd is None or bool(select.select([self._pidfd], [], [], seconds)[0])

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for the end and return the exit code."""
        assert self._ended(timeout), f"{self.name} still runs after {timeout:g} s\n{self.story()}"
        return int(self.podman("wait", "--interval=50ms", self.name, timeout=PATIENCE).out)

    def processes(self) -> list[int]:
        """Return every process of its cgroup, as this machine numbers them."""
        found: list[int] = []
        for folder, _, _ in os.walk(self._cgroup):
            with contextlib.suppress(OSError):
                found += map(int, Path(folder, "cgroup.procs").read_text().split())
        return found

    def kill_all(self) -> None:
        """SIGKILL every process of its cgroup, as the kernel does out of memory with memory.oom.group."""
        while left := self.processes():
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(POLL_SECONDS)

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


def _pidfd(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        return os.pidfd_open(pid) if pid else None
    return None


def _cgroup(pid: int) -> Path:
    """Return the folder of a process's cgroup, the memory controller's where there are several hierarchies."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if pid else ():
            _, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                return Path(f"/sys/fs/cgroup/memory{path}")
            if not controllers and Path("/sys/fs/cgroup/cgroup.controllers").exists():
                return Path(f"/sys/fs/cgroup{path}")
    return Path("/nonexistent")
