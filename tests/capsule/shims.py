"""A shim without a container: in a mount namespace of its own, restricted like one, and a sidecar's end for it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from typing import TYPE_CHECKING

import psutil
from live import wait_until
from support.processes import PATIENCE, die_with_parent

from ckptrun.capsule.helper import find
from ckptrun.capsule.listener import ShimListener
from ckptrun.capsule.processes import descendants
from ckptrun.capsule.shim import Shim, ShimCallbacks
from ckptrun.capsule.spec import Program

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ckptrun.errors import ConfigurationError

PATH = "/usr/bin:/bin"
RESTRICTED = (
    "setpriv",
    "--reuid=1000",
    "--regid=1000",
    "--groups=1000,2000",
    "--bounding-set=-all",
    "--inh-caps=-all",
    "--no-new-privs",
)


class Sidecar:
    """Listens, takes one shim, and notes what it is told."""

    def __init__(self, folder: Path, version: str = "1.2.3") -> None:
        self.folder = folder
        self.refusals: list[ConfigurationError] = []
        self.signals: list[int] = []
        self.exits: list[tuple[int, int]] = []
        self.lost: list[bool] = []
        (folder / "run").mkdir(exist_ok=True)
        self.listener = ShimListener(folder / "run/shim.sock", version, self.refusals.append)
        self.shim: Shim

    def take(self) -> Shim:
        """Wait for the shim and serve it."""
        shim = self.listener.wait(PATIENCE)
        assert shim is not None, f"no shim came: {self.refusals}, {_children()}"
        self.shim = shim
        shim.on_exit(lambda pid, status: self.exits.append((pid, status)))
        shim.serve(ShimCallbacks(self.signals.append, lambda: self.lost.append(True)))
        return shim

    def start(self, *command: str, keep: Mapping[str, int] | None = None, **program: object) -> int:
        """Have it start a job root; its output goes where the shim's does."""
        argv = [str(find().path), "root", "0", "24", "80", *command]
        hello = self.shim.hello
        fds = program.pop("fds", {1: hello.stdio[1], 2: hello.stdio[2]})
        return self.shim.start(
            Program(argv, dict(hello.env), hello.cwd, fds, **program),  # type: ignore[arg-type]
            keep,
        )

    def exit(self) -> tuple[int, int]:
        """Wait for the job root's PID and exit code."""
        wait_until(lambda: self.exits, what="the job root's end")
        pid, status = self.exits[-1]
        return pid, os.waitstatus_to_exitcode(status)

    def die(self) -> None:
        """Go as a killed sidecar goes: the socket's file stays, every descriptor is closed."""
        self.listener.close()
        self.shim.close()
        wait_until(self.shim.ended.is_set, what="the connection's end")
        for fd in (*self.shim.hello.stdio, *self.shim.hello.kept.values()):
            os.close(fd)


def _children() -> list[str]:
    """Return what runs below the tests, for failures."""
    below = psutil.Process().children(recursive=True)
    return [f"{one.pid} {one.status()} {one.name()} {one.num_fds()}" for one in below if one.is_running()]


class Started:
    """A shim that was started.

    Args:
        folder: takes the place of /ckptrun; any user may look into it.
        command: the job's.
        restricted: as uid 1000, without capabilities or the way to any.
        env: the container's.
        wrap: what the shim is started by.
    """

    def __init__(
        self,
        folder: Path,
        *command: str,
        restricted: bool = True,
        env: Mapping[str, str] | None = None,
        wrap: Sequence[str] = ("unshare", "--mount"),
    ) -> None:
        (folder / "bin").mkdir(exist_ok=True)
        shim = folder / "bin/ckptrun-shim"
        if not shim.exists():
            shim.write_bytes(find().path.read_bytes())
            shim.chmod(0o755)
            (folder / "VERSION").write_text("1.2.3\n")
        environment = {"PATH": PATH, "CKPTRUN_SHIM_SOCKET": str(folder / "run/shim.sock")}
        self.process = subprocess.Popen(
            [*wrap, *(RESTRICTED if restricted else ()), str(shim), "--", *command],
            env={**environment, **(env or {})},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call
        )
        self.pid = self.process.pid

    def wait(self) -> int:
        """Return its exit code."""
        return self.process.wait(PATIENCE)

    def line(self, stream: str = "stdout") -> str:
        """Return the next line of its output."""
        pipe = getattr(self.process, stream)
        assert select.select([pipe], [], [], PATIENCE)[0], f"nothing on {stream}"
        return str(pipe.readline().decode().rstrip())

    def close(self) -> None:
        """End it and whatever is below it."""
        below = descendants(self.pid) if self.process.poll() is None else []
        self.process.kill()
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


class Room:
    """A folder in the place of /ckptrun, and what runs around it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Started] = []
        self.sidecars: list[Sidecar] = []

    def sidecar(self, version: str = "1.2.3") -> Sidecar:
        self.sidecars.append(Sidecar(self.folder, version))
        return self.sidecars[-1]

    def shim(self, *command: str, **options: object) -> Started:
        self.started.append(Started(self.folder, *command, **options))  # type: ignore[arg-type]
        return self.started[-1]

    def both(self, *command: str, **options: object) -> tuple[Sidecar, Started]:
        sidecar = self.sidecar()
        started = self.shim(*command, **options)
        sidecar.take()
        return sidecar, started

    def close(self) -> None:
        for sidecar in self.sidecars:
            sidecar.listener.close()
        for started in self.started:
            started.close()
