"""A pod without a kubelet: a job's container and its sidecar as two processes, each in a mount namespace of its own.

What is the volume `work` in the job's container lies elsewhere for the sidecar, the shared folder is read-only in the
job's, which is as restricted as a container of the profile `restricted-job`; the sidecar has the capabilities of the
contract and no more. The PID namespace is shared, and is the pod's own: what other programs of this machine do to files
is told from what the job does by nothing else.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psutil
from support import as_user
from support.processes import PATIENCE, POLL_SECONDS, Collector, Result, die_with_parent

from ckptrun.capsule.helper import find
from ckptrun.settings.names import run_directory
from ckptrun.supervisor.control_client import ask, is_live
from ckptrun.telemetry.events import FILE_NAME, read_events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

REPOSITORY = Path(__file__).parents[2]
JOBS = REPOSITORY / "tests" / "e2e" / "jobs"
UID = 1000
CAPABILITIES = (
    *("sys_admin", "sys_ptrace", "sys_time", "setuid", "setgid", "setpcap", "sys_chroot"),
    *("dac_override", "dac_read_search", "kill"),
)


def with_capabilities(names: Iterable[str]) -> tuple[str, ...]:
    """Return the words before a command that has these capabilities and no others."""
    return ("setpriv", "--bounding-set=-all," + ",".join(f"+{name}" for name in names), "--inh-caps=-all")


_SIDECAR = with_capabilities(CAPABILITIES)
_RESTRICTED = (
    *("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--bounding-set=-all"),
    *("--inh-caps=-all", "--no-new-privs"),
)
_CONTAINER = """
set -e
mount --bind "$1" "$2"
mount --bind "$3" "$3"
mount -o remount,bind,ro "$3"
cd "$2"
shift 3
exec "$@"
"""


class Container:
    """One process of a pod that stands for a container."""

    def __init__(self, pod: Pod, argv: list[str], environment: dict[str, str]) -> None:
        self.pod = pod
        self.process = subprocess.Popen(
            argv,
            cwd=pod.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call
        )
        assert self.process.stdout
        assert self.process.stderr
        self.pid = self._inside()
        self.stdout = Collector(self.process.stdout.fileno())
        self.stderr = Collector(self.process.stderr.fileno())

    def _inside(self) -> int:
        """Return the PID, as this machine counts, of what runs in the pod."""
        nsenter = psutil.Process(self.process.pid)
        deadline = time.monotonic() + PATIENCE
        while not (children := nsenter.children()):
            assert self.alive(), "nsenter has ended"
            assert time.monotonic() < deadline, "nsenter starts nothing"
            time.sleep(POLL_SECONDS)
        return int(children[0].pid)

    def alive(self) -> bool:
        return self.process.poll() is None

    def send_signal(self, signum: int) -> None:
        """Send a signal to what runs in the pod."""
        os.kill(self.pid, signum)

    def wait(self, timeout: float = PATIENCE) -> Result:
        """Wait for its end and return how it was."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it still runs after {timeout:g} s\n{self.pod.story()}") from None
        return Result(self.process.returncode, self.stdout.end(), self.stderr.end())

    def kill(self) -> None:
        """Kill it without warning."""
        with contextlib.suppress(ProcessLookupError):
            self.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE)

    def says(self, text: str) -> None:
        """Wait until standard error has `text`."""
        self.pod.until(f"{text!r} on stderr", lambda: text.encode() in self.stderr.data)


class Pod:
    """One pod, over all its containers.

    Args:
        store: URL of the store; a directory of this pod's unless told.
    """

    def __init__(self, store: str = "") -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pod-"))
        self.folder.chmod(0o755)
        self.shared, self.work = self.folder / "ckptrun", self.folder / "work"
        self.volume = self.folder / "volume"
        self.tag = f"pod-{secrets.token_hex(8)}"
        for folder in (self.work, self.volume):
            folder.mkdir()
        os.chown(self.volume, UID, UID)
        self._begin()
        for job in JOBS.glob("*.py"):
            shutil.copy(job, self.volume)
        self.store = store or f"file://{self.folder}/store"
        self.containers: list[Container] = []

    def _begin(self) -> None:
        """Start the pod's first process, and do what the init container does."""
        namespaces = (
            "--pid",
            "--mount",
            "--propagation",
            "private",
            "--mount-proc",
            "--fork",
            "--kill-child",
        )
        self.pause = subprocess.Popen(
            ["unshare", *namespaces, "sh", "-c", "echo ready; exec sleep infinity"],
            stdout=subprocess.PIPE,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call
        )
        assert self.pause.stdout
        assert self.pause.stdout.readline() == b"ready\n"
        self.pause.stdout.close()
        self.first = int(psutil.Process(self.pause.pid).children()[0].pid)
        (self.shared / "bin").mkdir(parents=True)
        shutil.copyfile(find().path, self.shared / "bin" / "ckptrun-shim")
        (self.shared / "bin" / "ckptrun-shim").chmod(0o755)

    def lose(self) -> None:
        """Have the pod removed without warning, and be the next one: with the same volumes but the emptyDir."""
        self._end()
        self.expect_nothing_left()
        shutil.rmtree(self.shared)
        self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def sidecar(
        self,
        *options: str,
        once: bool = False,
        prefix: Iterable[str] = _SIDECAR,
        program: Iterable[str] = ("-m", "ckptrun"),
    ) -> Container:
        """Start the sidecar; `program` are a Python's words for ckptrun."""
        words = ["sidecar", *(["--once"] if once else []), "--name", "job", "--store", self.store, *options]
        environment = self._environment() | {
            "CKPTRUN_SHARED": str(self.shared),
            "PYTHONPATH": str(REPOSITORY),
            "HOME": "/root",
        }
        return self._started([*prefix, sys.executable, *program, *words], environment)

    def job(self, *command: str) -> Container:
        """Start the job's container; its command may be a script of `tests/e2e/jobs`."""
        if command[0].endswith(".py"):
            command = (sys.executable, *command)
        environment = self._environment() | {"CKPTRUN_SHIM_SOCKET": str(self.shared / "run" / "shim.sock")}
        places = [str(self.volume), str(self.work), str(self.shared)]
        argv = [*as_user.command(0, 0, self.work), "/bin/sh", "-c", _CONTAINER, "sh", *places]
        return self._started(
            [*argv, *_RESTRICTED, str(self.shared / "bin" / "ckptrun-shim"), "--", *command], environment
        )

    def _environment(self) -> dict[str, str]:
        kept = {key: os.environ[key] for key in ("PATH", "CKPTRUN_CRIU") if key in os.environ}
        return {**kept, "LAB": self.tag, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}

    def _started(self, argv: list[str], environment: dict[str, str]) -> Container:
        enter = ["nsenter", f"--target={self.first}", "--pid", "--mount", f"--wd={self.folder}", "--"]
        container = Container(self, [*enter, *argv], environment)
        self.containers.append(container)
        return container

    @property
    def run_dir(self) -> Path:
        return run_directory(self.shared / "state" / "ckptrun", self.store, "job")

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """Return the diary, or its events of one name."""
        return [event for event in read_events(self.run_dir / FILE_NAME) if name in (None, event["event"])]

    def event(self, name: str, count: int = 1) -> dict[str, Any]:
        """Wait for the event of this name that is the `count`th."""
        self.until(f"{count} events {name!r}", lambda: len(self.events(name)) >= count)
        return self.events(name)[count - 1]

    def until(self, what: str, condition: Callable[[], Any], timeout: float = PATIENCE) -> Any:
        """Wait until `condition` returns something true, and return that."""
        deadline = time.monotonic() + timeout
        while not (found := condition()):
            assert time.monotonic() < deadline, f"no {what} within {timeout:g} s\n{self.story()}"
            time.sleep(POLL_SECONDS)
        return found

    def lines(self, count: int, name: str = "log.txt") -> None:
        """Wait until the job's log has so many lines."""
        log = self.volume / name
        self.until(f"{count} lines", lambda: log.exists() and log.read_bytes().count(b"\n") >= count)

    def hold(self) -> None:
        """Have the jobs of `tests/e2e/jobs` wait before their last step."""
        (self.volume / "hold").touch()

    def release(self) -> None:
        """Undo `hold`."""
        (self.volume / "hold").unlink(missing_ok=True)

    def status(self) -> dict[str, Any]:
        """Ask the run how it is doing."""
        return self._ask({"request": "status"})

    def checkpoint(self) -> str:
        """Have a checkpoint taken and committed; return its id."""
        self.job_pid()
        return str(self._ask({"request": "checkpoint", "wait": True})["id"])

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        self.until("control socket", lambda: is_live(self.run_dir))
        return ask(self.run_dir, "job", request, timeout=PATIENCE)

    def job_pid(self) -> int:
        """Wait until the job has a first process and return its PID, as this machine counts."""
        inside = int(self.until("job_pid", lambda: self.status()["job_pid"]))
        (found,) = (process.pid for process in self.processes() if _in_pod(process.pid) == inside)
        return int(found)

    def processes(self) -> list[psutil.Process]:
        """Return everything that was started here and lives."""
        return [process for process in psutil.process_iter() if self._ours(process)]

    def _ours(self, process: psutil.Process) -> bool:
        try:
            environment = Path(f"/proc/{process.pid}/environ").read_bytes()
            return f"LAB={self.tag}".encode() in environment and process.status() != psutil.STATUS_ZOMBIE
        except (OSError, psutil.NoSuchProcess):
            return False

    def expect_nothing_left(self) -> None:
        """Fail if any process of this pod still lives after a moment."""
        self.until("end of all processes", lambda: not self.processes())

    def story(self) -> str:
        """Return what is known, for failures."""
        parts = [str(event) for event in self.events()[-30:]] if self.run_dir.exists() else []
        for container in self.containers:
            for name, stream in (("stdout", container.stdout), ("stderr", container.stderr)):
                text = bytes(stream.data[-4000:]).decode("utf-8", "replace")
                parts.append(f"--- {name} of {container.process.args[-3:]}\n{text}")  # type: ignore[index]
        logs = sorted((self.run_dir / "logs").glob("*.log")) if self.run_dir.exists() else []
        parts += ["\n".join(log.read_text(errors="replace").splitlines()[-30:]) for log in logs[-1:]]
        parts += [f"{p.pid} {p.cmdline()}" for p in self.processes()]
        return "\n".join(parts)

    def _end(self) -> None:
        self.pause.kill()
        self.pause.wait(PATIENCE)
        for container in self.containers:
            container.process.wait(PATIENCE)

    def close(self) -> None:
        """End whatever was started here."""
        self._end()
        shutil.rmtree(self.folder, ignore_errors=True)


def _in_pod(pid: int) -> int:
    """Return a process's PID as its pod counts; 0 if it is gone, or in none."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return int([*line.split(), "0"][2])
    return 0
