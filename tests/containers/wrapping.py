"""Containers whose entry point is ckptrun: one `Wrapped` is a lineage whose containers come one after another."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from podman import Security
from support.processes import PATIENCE
from support.run import COMMITTED, NAME, REPOSITORY, RESTORED

from ckptrun.settings.names import run_directory
from ckptrun.telemetry.events import FILE_NAME, read_events

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from podman import Container, Podman

CAPABILITIES = (
    "SYS_ADMIN",
    "SYS_PTRACE",
    "SYS_TIME",
    "SETUID",
    "SETGID",
    "SETPCAP",
    "SYS_CHROOT",
    "DAC_OVERRIDE",
    "KILL",
)
"""What docs/design/kubernetes.md lists."""
__all__ = ["count"]
UID = 1000
SOURCES = REPOSITORY / "tests/e2e/jobs"
JOBS = Path("/jobs")
"""Where they are in a container: on the way to a checkout there may be folders that are closed to others."""
sys.path.append(str(SOURCES))
import count  # noqa: E402 - a job: what it should give is asked of it

PYTHON = "/opt/ckptrun/bin/python"
STATE, STORE, WORK = Path("/state"), Path("/store"), Path("/work")


def security(
    *, without: str = "", seccomp: str = "unconfined", memory: int = 0, more: Sequence[str] = ()
) -> Security:
    """Return what the container of a wrapper is given."""
    caps = tuple(name for name in (*CAPABILITIES, *more) if name != without)
    return Security(caps=caps, seccomp=seccomp, read_only=True, memory=memory)  # type: ignore[arg-type]


class Wrapped:
    """One lineage: its store and its working directory outlive a container, its state directory is the node's."""

    def __init__(self, podman: Podman, image: str, folder: Path) -> None:
        self.podman = podman
        self.image = image
        self.folder = folder
        self.containers: list[Container] = []
        for name in ("state", "store", "work"):
            (folder / name).mkdir()
            (folder / name).chmod(0o777)

    @property
    def work(self) -> Path:
        return self.folder / "work"

    def start(
        self,
        *command: str | Path,
        options: Sequence[str] = (),
        how: Security | None = None,
        env: Mapping[str, str] | None = None,
        flags: Sequence[str] = (),
        program: Sequence[str] = (),
    ) -> Container:
        """Start a container that runs a job."""
        words = ["--name", NAME, "--store", f"file://{STORE}", "--interval", "off", "--user", str(UID)]
        return self.ckptrun(
            *words, *options, "--", *map(str, command), how=how, env=env, flags=flags, program=program
        )

    def ckptrun(
        self,
        *words: str,
        how: Security | None = None,
        env: Mapping[str, str] | None = None,
        flags: Sequence[str] = (),
        program: Sequence[str] = (),
        workdir: Path = WORK,
    ) -> Container:
        """Start a container whose entry point is ckptrun with `words`; `program` are a Python's words in its place."""
        container = self.podman.run_container(
            self.image,
            *program,
            *words,
            security=how or security(),
            env={"XDG_STATE_HOME": str(STATE), **(env or {})},
            entrypoint=PYTHON if program else None,
            volumes=[
                (SOURCES, str(JOBS), "ro"),
                *((self.folder / place.name, str(place), "rw") for place in (STATE, STORE, WORK)),
            ],
            workdir=str(workdir),
            flags=flags,
        )
        self.containers.append(container)
        return container

    def ask(self, container: Container, *words: str, check: bool = True) -> Any:
        """Run another command of ckptrun's in a container, as ``kubectl exec`` would."""
        command, *rest = words
        argv = ("ckptrun", command, NAME, "--store", f"file://{STORE}", *rest)
        return container.exec(*argv, check=check)

    def events(self, name: str = "") -> list[dict[str, Any]]:
        folder = run_directory(STATE / "ckptrun", f"file://{STORE}", NAME)
        path = self.folder / "state" / folder.relative_to(STATE) / FILE_NAME
        return [event for event in read_events(path) if name in ("", event["event"])]

    def event(
        self, container: Container, name: str, after: int = 0, timeout: float = PATIENCE
    ) -> dict[str, Any]:
        """Wait for an event beyond the first `after`."""
        found = container.until(
            name, lambda: next((one for one in self.events()[after:] if one["event"] == name), None), timeout
        )
        assert isinstance(found, dict)
        return found

    def checkpoint(self, container: Container) -> None:
        """Have one taken and committed."""
        done = self.ask(container, "checkpoint", "--wait")
        assert done.code == 0, done.err
        assert self.events(COMMITTED)

    def job(self, container: Container) -> psutil.Process:
        """Return the job's first process, as this machine numbers it."""

        def found() -> psutil.Process | None:
            status = self.ask(container, "status", "--json", check=False)
            inside = json.loads(status.out)["job_pid"] if status.code == 0 else None
            return next((one for one in below(container) if inside and inside == pids(one)[1]), None)

        process = container.until("a job", found)
        assert isinstance(process, psutil.Process)
        return process

    def restored_after(self, container: Container, harm: Any, timeout: float = PATIENCE) -> None:
        """Do something that ends the job and wait until it runs again."""
        before = len(self.events())
        harm()
        self.event(container, RESTORED, before, timeout)

    def lines(self) -> list[str]:
        log = self.work / "log.txt"
        return log.read_text().splitlines() if log.exists() else []

    def hold(self) -> None:
        (self.work / "hold").touch()

    def release(self) -> None:
        (self.work / "hold").unlink(missing_ok=True)

    def lose_node(self) -> None:
        """Remove what a node takes along: its state directory."""
        self.podman.enter("sh", "-c", f"rm -rf {self.folder}/state/*")

    def close(self) -> None:
        for container in self.containers:
            with contextlib.suppress(AssertionError):
                container.rm()


def below(container: Container) -> list[psutil.Process]:
    """Return every process of a container."""
    with contextlib.suppress(psutil.NoSuchProcess):
        if container.pid:
            return [(first := psutil.Process(container.pid)), *first.children(recursive=True)]
    return []


def pids(process: psutil.Process) -> list[int]:
    """Return a process's numbers: this machine's, the container's, the capsule's."""
    found = status(process.pid).get("NSpid", "")
    return [*map(int, found.split()), 0, 0, 0][:3]


def status(pid: int) -> dict[str, str]:
    """Return what /proc says of a process; nothing if it has gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def kill(process: psutil.Process) -> None:
    """SIGKILL a process and all below it."""
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one.pid, signal.SIGKILL)
