"""``ckptrun sidecar``: one run for every container that a shim opens, until the pod ends.

The run itself is ``ckptrun.app.run``'s; here is what is around it: the shared folder, the shim's socket, the streams
and signals of two containers, and what the shim is told at the end. docs/design/kubernetes.md has the contracts.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptrun import __version__
from ckptrun.app import outlasted, pod
from ckptrun.app.command import check_command
from ckptrun.app.parts import Around
from ckptrun.app.pods import failures_told, tell_pod
from ckptrun.app.run import Run
from ckptrun.capsule.hello import MisfitError
from ckptrun.capsule.listener import ShimListener
from ckptrun.capsule.streams import Streams
from ckptrun.errors import CkptrunError, ConfigurationError, StoreUnreachableError
from ckptrun.settings import Elsewhere, check_preserved, resolve_run
from ckptrun.supervisor import privilege, signals
from ckptrun.supervisor.container import Container
from ckptrun.telemetry.speak import Speaker, say_logs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckptrun.capsule.shim import Shim
    from ckptrun.settings import RunSettings
    from ckptrun.supervisor.shell import Shell

END_SECONDS = 5.0
"""How long a shim may take to end once it was told to."""
_ENDS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
"""After one of these of its own the sidecar serves nobody any more: a kubelet sends but one."""
_STOPS = _ENDS | {signal.SIGQUIT}
"""What ends a container in which no job runs yet."""


def sidecar(given: Mapping[str, Any], *, once: bool) -> int:
    """Serve the shims of a pod's job container; with `once`, one of them.

    Args:
        given: options of a run, as ``ckptrun.settings`` takes them.
        once: end with the job.

    Returns:
        With `once` what the job's container ends with, also where it is not served; else 0, told to end.

    Raises:
        CkptrunError: nothing can be served here; not with `once`, where the job's container is told that as well, and
            nothing in its pod waits for ever.
    """
    try:
        with failures_told():
            return _Sidecar(given, once=once).serve()
    except CkptrunError as error:
        if not once:
            raise
        speaker = Speaker()
        speaker.error(error.message)
        if error.hint:
            speaker.error(f"  {error.hint}")
        pod.turn_away(pod.shared_folder(os.environ), error)
        return error.exit_code


@dataclass(slots=True)
class _Own:
    """What descriptors 0, 1 and 2 were before a job's took their place."""

    stdin: int
    stdout: int
    stderr: int

    def restore(self) -> None:
        """Put them back."""
        for number, fd in enumerate((self.stdin, self.stdout, self.stderr)):
            os.dup2(fd, number)


class _Sidecar:
    def __init__(self, given: Mapping[str, Any], *, once: bool) -> None:
        signals.block()  # before any thread lives
        self._given = given
        self._once = once
        self._environ = dict(os.environ)
        self._own = _Own(*(os.dup(fd) for fd in (0, 1, 2)))
        sys.stderr = os.fdopen(os.dup(self._own.stderr), "w", buffering=1)
        self._speaker = Speaker(fd=self._own.stderr)
        say_logs(self._speaker)
        self._shared = pod.shared_folder(os.environ)
        pod.check_rights()
        pod.prepare(self._shared, os.environ)
        self._shim: Shim | None = None
        self._shell: Shell | None = None
        self._early: list[int] = []
        self._handle: Callable[[int, bool], None] | None = None
        self._told_to_end = False
        self._signals = signals.Watch(self._signalled)
        self._listener = ShimListener(self._shared / pod.SOCKET, __version__, self._refused)

    def serve(self) -> int:
        """Serve a shim; then, as a new program, the next one, unless the sidecar is to end."""
        self._speaker.detail(f"waiting for the job's container at {self._shared / pod.SOCKET}")
        shim = self._listener.wait()
        assert shim is not None
        self._shim = shim
        code = self._served(shim)
        shim = self._shim
        shim.end(code)
        _wait_for_end(shim)
        self._signals.end()  # what comes from here on is pending, and the program after this one takes it
        if self._once or self._told_to_end:
            # A regular end waits for every thread, also for one that a hung store holds. Where a job that has failed is
            # started again, an ordinary sidecar must be, too.
            os._exit(code if self._once else 0)
        self._anew()
        return 0

    def _served(self, shim: Shim) -> int:
        """Run the job of a container; return what the container is to end with."""
        try:
            with failures_told():
                return self._run(shim)
        except CkptrunError as error:
            self._speaker.error(error.message)
            if error.hint:
                self._speaker.error(f"  {error.hint}")
            return error.exit_code
        except Exception as error:  # noqa: BLE001 - whatever it is, the container must not wait for ever
            self._speaker.error(f"internal error: {type(error).__name__}: {error}")
            return CkptrunError.exit_code

    def _run(self, shim: Shim) -> int:
        self._check_peer(shim)
        settings = self._settings(shim)
        self._speaker = Speaker(
            settings.verbosity, as_json=settings.log_format.value == "json", fd=self._own.stderr
        )
        say_logs(self._speaker)
        streams: list[Streams] = []

        def arrived(new: Shim) -> None:
            self._check_peer(new)
            self._shim = new
            for number, fd in enumerate(new.hello.stdio):
                os.dup2(fd, number)
                os.close(fd)
            for one in streams:
                one.replaced()

        try:
            container = Container(
                self._listener, shim, self._shared, arrived, self._from_container, self._speaker.error
            )
        except OSError as error:
            raise pod.not_entered(error) from error
        streams.append(Streams(self._speaker.error, terminals=False, outlasting=True))
        left = outlasted.left(container, settings)
        if left is not None or shim.hello.ended == 0:
            settings = replace(settings, fresh=False, at=None)
        if left is None:
            over = outlasted.settle(container, settings, streams[0], self._speaker)
            if over is not None:
                return over
            container.there(lambda: check_command(settings))
            check_preserved(self._given, os.environ, Path.cwd(), settings.cwd, container.there)
        around = Around(
            self._speaker,
            streams[0],
            privilege.of_container(container.identity),
            may_filter=shim.no_new_privs,
            workplace=self._shared / pod.WORK,
            dwelling=container,
            watch=self._watch,
            ready=self._ready,
            left=left,
        )
        with failures_told(settings):
            try:
                return Run(settings, around).run()
            except StoreUnreachableError as error:
                if left is not None and shim.root_pid is not None and self._shell is None:
                    self._leave(error)
                raise

    def _settings(self, shim: Shim) -> RunSettings:
        hello = shim.hello
        cwd = Path(hello.cwd)
        return resolve_run(
            hello.argv, self._given, os.environ, Path.cwd(), elsewhere=Elsewhere(hello.env, cwd)
        )

    def _check_peer(self, shim: Shim) -> None:
        pod.check_peer(shim.pid)

    def _leave(self, error: CkptrunError) -> None:
        """Let the job run on without a sidecar for now: the kubelet starts the next one."""
        self._speaker.error(f"{error.message}; the job runs on meanwhile, without checkpoints")
        os._exit(error.exit_code)

    def _watch(self, handle: Callable[[int, bool], None]) -> None:
        self._handle = handle

    def _ready(self, shell: Shell) -> None:
        self._shell = shell
        while self._early:
            shell.signalled(self._early.pop(0))

    def _signalled(self, signum: int, from_terminal: bool) -> None:
        """Take a signal of the sidecar's own."""
        self._told_to_end |= signum in _ENDS and not from_terminal
        if self._handle is not None:
            self._handle(signum, from_terminal)
        else:
            self._from_container(signum)

    def _from_container(self, signum: int) -> None:
        """Take a signal that the job's container was sent."""
        if self._shell is not None:
            self._shell.signalled(signum)
        elif self._shim is not None and self._shim.hello.begun:
            self._early.append(signum)
        elif signum in _STOPS:
            self._give_up(signum)

    def _give_up(self, signum: int) -> None:
        """End before a job runs: there is nothing that a checkpoint would save."""
        if self._shim is not None:
            self._shim.end(128 + signum)
            self._shim.ended.wait(END_SECONDS)
        idle = self._shim is None and not self._once
        os._exit(0 if idle else 128 + signum)

    def _refused(self, error: ConfigurationError) -> None:
        """Tell of a shim that was not served; end where no other will be."""
        self._speaker.error(str(error))
        tell_pod(error)
        if isinstance(error, MisfitError) and (error.running or self._once):
            os._exit(error.exit_code)

    def _anew(self) -> None:
        """Begin again, as a new program: nothing of the run before is left in it."""
        self._own.restore()
        argv = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, argv, self._environ)  # noqa: S606 - the very same


def _wait_for_end(shim: Shim) -> None:
    """Wait for a shim that was told to end; its messages may not have been read yet."""
    deadline = time.monotonic() + END_SECONDS
    while shim.connected and time.monotonic() < deadline:
        time.sleep(0.01)
