"""A real Slurm of one node, for any test: ``with Slurm(folder) as slurm: slurm.submit(...)``.

Its munged, slurmctld and slurmd live in a PID namespace of their own, whose first process dies with the tests, even
when they are killed: nothing that was started here outlives them. The mount namespace has a user of its own in
``/etc/passwd``, as Slurm wants one with a name; the machine itself is not changed. Run as root.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from support import as_user
from support.ports import free_ports
from support.processes import PATIENCE, POLL_SECONDS, Result, die_with_parent, started_with

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import Any, Self

USER, UID = "learner", as_user.UNNAMED + 1
"""Nobody else's: ckptrun clears away what a user's dead processes have left, and sees no others from in here."""
NODE = "node"
CPUS = 8
REQUEUE_SECONDS = 5
"""How long a requeued job waits: 120 seconds unless told, and 5 is the least that Slurm takes."""
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue")
ENDED = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL"})
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={node}(127.0.0.1)
SlurmctldPort={slurmctld}
SlurmdPort={slurmd}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire={requeue_seconds}
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/slurmctld
SlurmdSpoolDir={folder}/slurmd
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
KillWait=10
ReturnToService=2
SlurmdParameters=config_overrides
NodeName={node} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes={node} Default=YES MaxTime=INFINITE State=UP
"""
_NODE_PROGRAM = Path(__file__).with_name("slurm_node.py")


@dataclasses.dataclass(frozen=True)
class Job:
    """A job as Slurm knows it: ``5``, or ``5_2`` for a task of an array."""

    slurm: Slurm
    id: str
    folder: Path

    def task(self, number: int) -> Job:
        return dataclasses.replace(self, id=f"{self.id}_{number}")

    def facts(self) -> dict[str, str]:
        """Return what ``scontrol show job`` says of it."""
        shown = self.slurm.command("scontrol", "show", "job", "--oneliner", self.id)
        return dict(word.split("=", 1) for word in shown.out.split() if "=" in word)

    def batch(self) -> psutil.Process:
        """Wait until its batch script runs and return that process."""

        def found() -> list[psutil.Process]:
            return [one for one in self.slurm.processes("slurm_script") if _fact(one.cwd) == str(self.folder)]

        return self.until("batch script", found)[0]

    def until(self, what: str, condition: Callable[[], Any]) -> Any:
        """Wait until `condition` returns something true, and return that."""
        deadline = time.monotonic() + PATIENCE
        while not (found := condition()):
            assert time.monotonic() < deadline, f"job {self.id}: no {what} in {PATIENCE:g} s\n{self.story()}"
            time.sleep(POLL_SECONDS)
        return found

    def end(self) -> dict[str, str]:
        """Wait until it has ended for good and return its facts."""

        def over() -> dict[str, str] | None:
            facts = self.facts()
            return facts if facts["JobState"] in ENDED else None

        return dict(self.until("end", over))

    def output(self) -> str:
        """Return what it and its batch script have printed."""
        return Path(self.facts()["StdOut"]).read_text()

    def story(self) -> str:
        """Return what is known about it, for failures."""
        files = [*self.slurm.folder.glob("*.log"), *self.folder.glob("*.out")]
        parts = [f"--- {path.name}\n{path.read_text(errors='replace')[-4000:]}" for path in files]
        return "\n".join([str(self.facts()), *parts])


class Slurm:
    """A cluster, and a user who may use it.

    Args:
        folder: for all it writes; the caller's to remove, and one that any user may enter.
        programs: goes first in the user's PATH.

    Raises:
        pytest.skip.Exception: Slurm is not installed.
    """

    def __init__(self, folder: Path, programs: Path) -> None:
        for program in PROGRAMS:
            if shutil.which(program) is None:
                pytest.skip(f"no Slurm ({program}): apt-get install slurmctld slurmd slurm-client munge")
        self.folder = folder
        self.home = folder / "home"
        self.configuration = folder / "slurm.conf"
        self.tag = f"slurm-{secrets.token_hex(8)}"
        self._programs = programs
        self._first: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self) -> None:
        for name in ("home", "munge", "slurmctld", "slurmd"):
            (self.folder / name).mkdir(mode=0o755)
        os.chown(self.home, UID, UID)
        ports = dict(zip(("slurmctld", "slurmd"), free_ports(2), strict=True))
        facts = {"node": NODE, "cpus": CPUS, "folder": self.folder, "requeue_seconds": REQUEUE_SECONDS}
        self.configuration.write_text(CONFIGURATION.format(**ports, **facts))
        (self.folder / "cgroup.conf").write_text(f"CgroupPlugin={_cgroup_plugin()}\n")
        self._enter()
        self._munged()
        self._daemon("slurmctld", "-D", "-f", self.configuration)
        self._slurmd()

    def _enter(self) -> None:
        """Make the namespaces and wait for their first process."""
        unshare = ("unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")
        self._first = subprocess.Popen(
            [*unshare, sys.executable, _NODE_PROGRAM, NODE, USER, str(UID), self.home],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env={**os.environ, "LAB": self.tag},
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call
        )
        assert self._first.stdout is not None
        assert self._first.stdout.readline() == b"ready\n", "the namespaces of a Slurm cannot be made"
        (first,) = psutil.Process(self._first.pid).children()
        self._pid = first.pid

    def _munged(self) -> None:
        munge = self.folder / "munge"
        key = munge / "key"
        key.touch(mode=0o400)
        key.write_bytes(secrets.token_bytes(128))
        files = (f"--{name}={munge / name}" for name in ("socket", "pid-file", "log-file", "seed-file"))
        self._daemon("munged", "--foreground", f"--key-file={key}", *files)
        self._until("a munged that listens", (munge / "socket").exists)

    def _slurmd(self) -> None:
        """Start the node's daemon and wait until the node takes jobs."""
        self._daemon("slurmd", "-D", "-f", self.configuration)
        self._until("an idle node", lambda: "State=IDLE " in self.command("scontrol", "show", "node").out)

    def _daemon(self, name: str, *words: object) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                self._inside(str(shutil.which(name)), *words),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(),
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call
            )

    def _until(self, what: str, condition: Callable[[], Any]) -> None:
        """Wait until `condition` is true; fail when a daemon ends first."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            ended = [name for name, daemon in self._daemons.items() if daemon.poll() is not None]
            logs = {path.name: path.read_text(errors="replace")[-3000:] for path in self.folder.glob("*.log")}
            assert not ended, f"{ended} ended before there was {what}: {logs}"
            assert time.monotonic() < deadline, f"no {what}: {logs}"
            time.sleep(POLL_SECONDS)

    def command(self, *words: object, user: bool = False, env: Mapping[str, str] | None = None) -> Result:
        """Run a command on the node, as root or as the user."""
        become = ("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups") if user else ()
        ran = subprocess.run(
            self._inside(*become, *words),
            env={**self._environment(), **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        return Result(ran.returncode, ran.stdout, ran.stderr)

    def ask(self, *words: object, user: bool = False, env: Mapping[str, str] | None = None) -> str:
        """Run a command that must not fail and return what it printed."""
        ran = self.command(*words, user=user, env=env)
        assert ran.code == 0, f"{words}: {ran.out}{ran.err}"
        return ran.out

    def submit(self, folder: Path, *words: object, env: Mapping[str, str] | None = None) -> Job:
        """Have the user submit a batch script, to run in `folder`: options, the script and its words."""
        submitted = self.ask("sbatch", "--parsable", f"--chdir={folder}", *words, user=True, env=env)
        return Job(self, submitted.strip(), folder)

    def configure(self, line: str) -> None:
        """Have the cluster's administrator add a line to its configuration."""
        with self.configuration.open("a") as file:
            file.write(f"{line}\n")
        self.ask("scontrol", "reconfigure")

    def processes(self, *names: str) -> list[psutil.Process]:
        """Return all processes of the cluster, or those of these names."""
        found = started_with(f"LAB={self.tag}")
        return [process for process in found if not names or _fact(process.name) in names]

    def lose_node(self) -> None:
        """SIGKILL all that runs on the node, have Slurm find out, and put another node in its place."""
        killed = self.processes("slurmd", "slurmstepd")
        for daemon in tuple(killed):
            with contextlib.suppress(psutil.NoSuchProcess):
                killed += daemon.children(recursive=True)
        for process in killed:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._daemons.pop("slurmd").wait()
        _, alive = psutil.wait_procs(killed, PATIENCE)
        assert not alive
        self.ask("scontrol", "update", f"NodeName={NODE}", "State=DOWN", "Reason=lost")
        self._slurmd()

    def stop(self) -> None:
        """End everything."""
        if self._first is not None:
            self._first.kill()
            self._first.wait()
        for daemon in self._daemons.values():
            daemon.kill()
            daemon.wait()

    def _inside(self, *words: object) -> list[str]:
        enter = ("nsenter", f"--target={self._pid}", "--mount", "--uts", "--pid")
        return [*enter, "env", f"--chdir={self.home}", *map(str, words)]

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("LANG", "CKPTRUN_CRIU") if name in os.environ}
        return {
            **kept,
            "PATH": f"{self._programs}:{os.environ['PATH']}",
            "SLURM_CONF": str(self.configuration),
            "HOME": str(self.home),
            "USER": USER,
            "LAB": self.tag,
        }


def script(path: Path, text: str) -> Path:
    """Write a program of the user's."""
    path.write_text(text)
    path.chmod(0o755)
    return path


def _fact(ask: Callable[[], str]) -> str:
    """Return what a process answers; nothing if it is gone."""
    try:
        return ask()
    except psutil.Error:
        return ""


def _cgroup_plugin() -> str:
    """Return the one that leaves cgroups alone: processes are found by their parents."""
    version = subprocess.run(["slurmd", "-V"], capture_output=True, text=True, check=True).stdout
    return "disabled" if int(version.split()[1].split(".")[0]) >= 23 else "cgroup/v1"
