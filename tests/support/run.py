"""Run ckptrun for real: a `Lab` is one test's machine: a state directory, a store and a working directory.

Nothing waits blindly: every wait has a condition, a deadline, and a failure that tells the run's story.
Nothing outlives a test, even when pytest is killed: ckptrun dies with the thread that started it, and the
capsule with ckptrun.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self, TypeAlias

import psutil
from support.processes import PATIENCE, POLL_SECONDS, Collector, Result, die_with_parent, started_with

from ckptrun.errors import DumpError
from ckptrun.settings.names import run_directory, state_directory
from ckptrun.supervisor.control_client import ask, is_live
from ckptrun.telemetry.events import FILE_NAME, read_events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

REPOSITORY = Path(__file__).parents[2]
NAME = "job"
HOLD = "hold"
STARTED, RESTORED, COMMITTED = "job-started", "job-restored", "checkpoint-committed"
STAGED = "checkpoint-staged"
NOT_OF_THE_TESTS = frozenset({"PYTHONUNBUFFERED", "COLUMNS", "LINES"})
"""Variables that no job shall have from where the tests were started: a window's size is its terminal's."""

Event: TypeAlias = "dict[str, Any]"
Stream: TypeAlias = "int | IO[bytes]"


def seed() -> int:
    """Return the seed of a random scenario, and print it: CKPTRUN_TEST_SEED repeats one."""
    value = int(os.environ.get("CKPTRUN_TEST_SEED") or secrets.randbelow(1_000_000))
    print(f"CKPTRUN_TEST_SEED={value}", flush=True)
    return value


class Run:
    """One ckptrun, started."""

    def __init__(self, lab: Lab, process: subprocess.Popen[bytes]) -> None:
        self.lab = lab
        self.process = process
        self.stdout = Collector(process.stdout.fileno()) if process.stdout else None
        self.stderr = Collector(process.stderr.fileno()) if process.stderr else None

    @property
    def stdin(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin

    def alive(self) -> bool:
        return self.process.poll() is None

    def wait(self, timeout: float = PATIENCE) -> Result:
        """Wait for the end and return how it was."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            held = "; the job is held: see finish()" if (self.lab.work / HOLD).exists() else ""
            raise AssertionError(f"ckptrun still runs after {timeout:g} s{held}\n{self.story()}") from None
        return Result(
            self.process.returncode,
            self.stdout.end() if self.stdout else b"",
            self.stderr.end() if self.stderr else b"",
        )

    def finish(self) -> Result:
        """Let a held job take its last step, and wait for the end."""
        self.lab.release()
        return self.wait()

    def until(self, what: str, condition: Callable[[], Any], timeout: float = PATIENCE) -> Any:
        """Wait until `condition` returns something true, and return that; fail when ckptrun ends first."""
        deadline = time.monotonic() + timeout
        while True:
            ended = not self.alive()  # asked first: what holds at the end counts
            if found := condition():
                return found
            assert not ended, f"ckptrun ended with {self.process.returncode} before {what}\n{self.story()}"
            assert time.monotonic() < deadline, f"no {what} within {timeout:g} s\n{self.story()}"
            time.sleep(POLL_SECONDS)

    def event(self, name: str, *, after: int = 0, timeout: float = PATIENCE) -> Event:
        """Wait for an event of this name; `after` counts those of the diary that are passed over."""
        return self.until(
            f"event {name!r}",
            lambda: next((event for event in self.lab.events()[after:] if event["event"] == name), None),
            timeout,
        )

    def commit(self, count: int = 1) -> Event:
        """Wait until `count` checkpoints that are not complete yet are committed; return the last one's event.

        One that is complete may be restored before it is committed: its commit says nothing about what came after.
        """
        known = {event["id"] for event in self.lab.events(STAGED)}

        def committed() -> Event | None:
            new = [event for event in self.lab.events(COMMITTED) if event["id"] not in known]
            return new[count - 1] if len(new) >= count else None

        return self.until(f"{count} more commits", committed)

    def restored(self, action: Callable[[], Any]) -> Event:
        """Do something that ends the job and wait until it runs again."""
        before = len(self.lab.events())
        action()
        return self.event(RESTORED, after=before)

    def says(self, text: str, timeout: float = PATIENCE) -> None:
        """Wait until standard error has `text`."""
        assert self.stderr is not None
        errors = self.stderr
        self.until(f"{text!r} on stderr", lambda: text.encode() in errors.data, timeout)

    def prints(self, text: str, timeout: float = PATIENCE) -> None:
        """Wait until standard output has `text`."""
        assert self.stdout is not None
        output = self.stdout
        self.until(f"{text!r} on stdout", lambda: text.encode() in output.data, timeout)

    def status(self) -> dict[str, Any]:
        """Ask the run how it is doing."""
        return self._ask({"request": "status"})

    def checkpoint(self) -> str:
        """Have a checkpoint taken and committed; return its id."""
        self.job_pid()
        return str(self._ask({"request": "checkpoint", "wait": True})["id"])

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        self.until("control socket", lambda: is_live(self.lab.run_dir))
        return ask(self.lab.run_dir, self.lab.name, request, timeout=PATIENCE)

    def refused(self, *words: str) -> None:
        """Ask for a checkpoint once the job says that it is ready; it must be refused in words that have these."""
        self.prints("ready")
        asked = self.lab.ask("checkpoint", "--wait")
        assert asked.code == DumpError.exit_code, asked.err
        assert all(word in asked.err for word in words), asked.err
        assert self.lab.events(COMMITTED) == []

    def job_pid(self) -> int:
        """Wait until the job has a first process and return its PID, as this machine sees it."""
        return int(self.until("job_pid", lambda: self.status()["job_pid"]))

    def dumping(self) -> bool:
        """Tell whether CRIU is taking a checkpoint right now."""
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "dump" in process.cmdline():
                    return True
        return False

    def kill_job(self, signum: int = signal.SIGKILL) -> None:
        """Send a signal to every process of the job."""
        first = psutil.Process(self.job_pid())
        for process in [first, *first.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signum)

    def kill_supervisor(self) -> None:
        """SIGKILL ckptrun itself, and see that it takes everything of its own along."""
        self.process.kill()
        self.wait()
        self.lab.expect_nothing_left()

    def story(self) -> str:
        """Return what is known about this run, for failures."""
        parts = [f"events: {json.dumps(event)}" for event in self.lab.events()[-30:]]
        for name, stream in (("stdout", self.stdout), ("stderr", self.stderr)):
            if stream:
                if not self.alive():
                    stream.settle(1.0)
                parts.append(f"--- {name}\n{bytes(stream.data[-4000:]).decode('utf-8', 'replace')}")
        return "\n".join(parts)


@dataclasses.dataclass
class Lab:
    """A machine for one test.

    Args:
        folder: everything lies below it.
        store: URL; a directory in `folder` unless told.
        name: of the lineage.
        options: given to every run.
        environment: added to every process.
        prefix: what starts ckptrun in place of this interpreter directly, as `as_user.command`.
        program: ckptrun itself; a test with a fault in it puts another in its place.
    """

    folder: Path
    store: str = ""
    name: str = NAME
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    prefix: tuple[str, ...] = ()
    program: tuple[str, ...] = (sys.executable, "-m", "ckptrun")

    def __post_init__(self) -> None:
        self.tag = f"lab-{secrets.token_hex(8)}"
        self.work = self.folder / "work"
        self.home = self.folder / "home"
        self.runs: list[Run] = []
        for folder in (self.work, self.home):
            folder.mkdir(parents=True, exist_ok=True)
        self.store = self.store or f"file://{self.folder}/store"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def env(self) -> dict[str, str]:
        """The environment of every process of this lab; jobs write whole lines, lest a checkpoint comes between."""
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("CKPTRUN_", "SUDO_", "AWS_")) and key not in NOT_OF_THE_TESTS
        }
        for key in ("CKPTRUN_CRIU",):  # which CRIU is the machine's affair, not the test's
            if key in os.environ:
                kept[key] = os.environ[key]
        return {
            **kept,
            "HOME": str(self.home),
            "XDG_STATE_HOME": str(self.home / "state"),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LAB": self.tag,
            **self.environment,
        }

    @property
    def state_dir(self) -> Path:
        return state_directory(self.env, self.home)

    @property
    def run_dir(self) -> Path:
        return run_directory(self.state_dir, self.store, self.name)

    def argv(self, *words: str) -> list[str]:
        """Return the command line of a ckptrun command."""
        return [*self.prefix, *self.program, *words]

    def run_argv(self, *command: object, options: Iterable[str] = ()) -> list[str]:
        """Return the command line that runs a job."""
        words = [
            "run",
            "--name",
            self.name,
            "--store",
            self.store,
            *self.options,
            *options,
            "--",
            *map(str, command),
        ]
        return self.argv(*words)

    def start(
        self,
        *command: object,
        options: Iterable[str] = (),
        stdin: Stream = subprocess.DEVNULL,
        stdout: Stream = subprocess.PIPE,
        stderr: Stream = subprocess.PIPE,
    ) -> Run:
        """Start a job under ckptrun."""
        return self._started(self.run_argv(*command, options=options), stdin, stdout, stderr)

    def restore(self, *words: str) -> Run:
        """Start the lineage's job again by ``ckptrun restore``."""
        argv = self.argv("restore", self.name, "--store", self.store, *self.options, *words)
        return self._started(argv, subprocess.DEVNULL, subprocess.PIPE, subprocess.PIPE)

    def _started(self, argv: list[str], stdin: Stream, stdout: Stream, stderr: Stream) -> Run:
        process = subprocess.Popen(
            argv,
            cwd=self.work,
            env=self.env,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call
        )
        run = Run(self, process)
        self.runs.append(run)
        return run

    def run(self, *command: object, timeout: float = PATIENCE, **how: Any) -> Result:
        """Run a job under ckptrun to its end."""
        self.release()
        return self.start(*command, **how).wait(timeout)

    def ask(self, command: str, *words: str, timeout: float = PATIENCE) -> Result:
        """Run another command of ckptrun's on this lab's lineage."""
        argv = self.argv(command, self.name, "--store", self.store, *words)
        if command in {"ls", "doctor"}:
            argv.remove(self.name)
        return self.execute(argv, timeout)

    def execute(self, argv: list[str], timeout: float = PATIENCE) -> Result:
        """Run a whole command line to its end."""
        process = subprocess.run(
            argv,
            cwd=self.work,
            env=self.env,
            capture_output=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        return Result(process.returncode, process.stdout, process.stderr)

    def shell(self, script: str, *, options: Iterable[str] = (), timeout: float = PATIENCE) -> Result:
        """Run a bash script in which ``ckptrun COMMAND…`` runs a job as `run` does."""
        function = f'ckptrun() {{ {shlex.join(self.run_argv(options=options))} "$@"; }}\n'
        process = subprocess.Popen(
            ["bash", "-c", function + script],
            cwd=self.work,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call
        )
        run = Run(self, process)
        self.runs.append(run)
        return run.wait(timeout)

    def hold(self) -> None:
        """Have the jobs of `tests/e2e/jobs` wait before their last step, however long it takes to disturb them."""
        (self.work / HOLD).touch()

    def release(self) -> None:
        """Undo `hold`."""
        (self.work / HOLD).unlink(missing_ok=True)

    def events(self, name: str | None = None) -> list[Event]:
        """Return the diary, or its events of one name."""
        return [event for event in read_events(self.run_dir / FILE_NAME) if name in (None, event["event"])]

    def checkpoints(self) -> list[dict[str, Any]]:
        """Return the committed checkpoints, newest first, as ``show --json`` has them."""
        shown = self.ask("show", "--json")
        assert shown.code == 0, shown.err
        return list(shown.json["checkpoints"])

    def lose_machine(self) -> None:
        """Remove what a machine takes along when it is lost: all but the store."""
        self.expect_nothing_left()
        shutil.rmtree(self.home)
        self.home.mkdir()

    def processes(self) -> list[psutil.Process]:
        """Return everything that was started here and lives, each as the environment it started with says."""
        return started_with(f"LAB={self.tag}")

    def expect_nothing_left(self, timeout: float = PATIENCE) -> None:
        """Fail if any process of this lab still lives after a moment."""
        deadline = time.monotonic() + timeout
        while left := self.processes():
            assert time.monotonic() < deadline, f"still alive: {[(p.pid, p.cmdline()) for p in left]}"
            time.sleep(POLL_SECONDS)

    def close(self) -> None:
        """End whatever was started here."""
        for run in self.runs:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(run.process.pid, signal.SIGKILL)
            run.process.wait(PATIENCE)
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
