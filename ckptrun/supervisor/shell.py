"""The loop: takes events, asks the core what to do, does it.

One thread, the main one: it must be, because a capsule dies with the thread that made it. Everything slow runs in
worker threads, which post events; `in_main` lets them have something done here.
"""

from __future__ import annotations

import signal
import threading
import time
from typing import TYPE_CHECKING

from ckptrun.core import commands as c
from ckptrun.core import events as e
from ckptrun.core import plans
from ckptrun.core.machine import step
from ckptrun.core.model import Trigger
from ckptrun.core.state import Phase, Stored, initial
from ckptrun.errors import CkptrunError
from ckptrun.supervisor import signals
from ckptrun.supervisor.console import Console
from ckptrun.supervisor.incarnation import Incarnation
from ckptrun.supervisor.job import Birth
from ckptrun.supervisor.loop import Loop
from ckptrun.supervisor.sections import Sections

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptrun.capsule.helper import Helper
    from ckptrun.core.config import Config
    from ckptrun.core.state import State
    from ckptrun.supervisor.parts import Parts

KILLED_SECONDS = 10.0
"""What a killed capsule may take to be gone."""
HELD_UP_SECONDS = 1.0
"""A loop that wakes up so much later than it wanted has been held up."""


class Shell(Loop):
    """Runs one job from its start to its end."""

    def __init__(
        self,
        config: Config,
        *,
        grace: float,
        forward_usr1: bool,
        watch: Callable[[Callable[[int, bool], None]], None] = signals.watch,
    ) -> None:
        super().__init__()
        self._config = config
        self._grace = grace
        self._forward_usr1 = forward_usr1
        self._watch = watch
        self._wake = float("inf")
        self._waiters: dict[int, Callable[[str | None, str | None], None]] = {}
        self._on_end: list[Callable[[], None]] = []
        self._finish: c.Finish | None = None
        self._parts: Parts
        self.state: State
        self.incarnation: Incarnation | None = None
        self._job_stopped: Callable[[], None]
        self._console: Console
        self.sections = Sections(self)

    def open_capsule(self, incarnation: Incarnation, helper: Helper, offsets: object) -> None:
        """Make an incarnation's capsule; any thread but the main one."""
        self.in_main(lambda: incarnation.open(helper, offsets))  # type: ignore[arg-type]

    def run(self, parts: Parts, plan: plans.Plan) -> c.Finish:
        """Run the job; main thread only."""
        self._parts = parts
        self.state = initial(self._config)
        self._console = console = Console(
            self, parts.streams, parts.speaker, self._watch, forward_usr1=self._forward_usr1
        )
        self._job_stopped = console.job_stopped
        console.open()
        try:
            self._step(e.Begin(time.monotonic(), plan))
            while self._finish is None:
                self._take_one()
            self._wait_for_hooks()
        finally:
            if self.incarnation:
                self.incarnation.destroy()
            self.sections.close()
            console.close()
        return self._finish

    def _take_one(self) -> None:
        began, patience = time.monotonic(), self._patience()
        try:
            item = self.take(patience)
        except TimeoutError:
            item = None
        if patience is not None and time.monotonic() - began > patience + HELD_UP_SECONDS:
            self._held_up()
        if item is None:
            self._wake = float("inf")
            self._step(e.Tick(time.monotonic()))
            return
        if callable(item):
            item()
        else:
            self._step(item)

    def _wait_for_hooks(self) -> None:
        """Wait for the last hooks; what they close may still need the main thread."""
        if not self._parts.hooks.any:
            return
        through: list[bool] = []

        def work() -> None:
            self._parts.hooks.wait()
            self.enqueue(lambda: through.append(True))

        self._worker("end of hooks", work)
        while not through:
            item = self.take(None)
            if callable(item):
                item()

    def _held_up(self) -> None:
        """Take ckptrun's own standstill (Ctrl-Z, SIGSTOP) for no silence of the job's: what it said is still unread."""
        incarnation = self.state.incarnation
        if self.state.phase is Phase.RUNNING and incarnation.within is not None:
            self._step(e.Beat(time.monotonic(), incarnation.number))

    def _patience(self) -> float | None:
        return None if self._wake == float("inf") else max(self._wake - time.monotonic(), 0.0)

    def _step(self, event: e.Event) -> None:
        self.state, commands = step(self.state, event)
        self._parts.channel.observe(event)
        self._parts.effects.observe(event)
        self._parts.state.observe(event)
        if isinstance(event, e.JobStarted | e.RestoreSucceeded):
            self._warm_up()
        self._parts.standing.observe(self.state, self.incarnation)
        for command in commands:
            self._execute(command)

    def _execute(self, command: c.Command) -> None:  # noqa: C901, PLR0912 - one case per command
        parts = self._parts
        match command:
            case c.StartJob(number):
                self._start_fresh(number)
            case c.ServeJob(number):
                self._serve(number)
            case c.RestoreJob(number, checkpoint):
                incarnation = self._new_incarnation(number, Birth.RESTORED, checkpoint)
                self._worker(f"restore {number}", lambda: parts.restorer.restore(command, incarnation))
            case c.TakeCheckpoint():
                self._take_checkpoint(command)
            case c.AbandonDump():
                parts.checkpointer.abandon()
            case c.ReleaseHold():
                parts.checkpointer.release()
            case c.Upload(checkpoint):
                if staged := parts.copies.get(checkpoint):
                    parts.vault.upload(staged)
                else:
                    self.post(
                        e.CommitFailed(
                            time.monotonic(), checkpoint, "its local copy is gone", transient=False
                        )
                    )
            case c.DropLocal(checkpoint):
                parts.copies.drop(checkpoint)
                self._warm_up()
            case c.SignalJob(signum):
                if self.incarnation:
                    self.incarnation.signal(signum)
            case c.KillCapsule(number):
                parts.streams.hurry()
                if self.incarnation and self.incarnation.number == number and self.incarnation.condemn():
                    self._kill(self.incarnation)
            case c.MarkBad(checkpoint, reason):
                parts.vault.mark_bad(checkpoint, reason)
            case c.SetAside(checkpoints):
                parts.vault.branches.set_aside(checkpoints)
            case c.RunHooks():
                parts.hooks.command(command, self.incarnation)
            case c.WakeAt(when):
                self._wake = when
            case c.Answer(waiter, checkpoint_id, error):
                if reply := self._waiters.pop(waiter, None):
                    reply(checkpoint_id, error)
            case c.Say(level, text):
                say = {"error": parts.speaker.error, "normal": parts.speaker.say}.get(
                    level, parts.speaker.detail
                )
                say(text)
            case c.Record(name, fields):
                parts.diary.emit(name, **fields)
            case c.Finish(end, state):
                parts.diary.emit("run-ended", exit={"by": end.by, "code": end.code}, state=str(state))
                self._finish = command

    def _take_checkpoint(self, command: c.TakeCheckpoint) -> None:
        incarnation, checkpointer = self.incarnation, self._parts.checkpointer
        if incarnation is None:
            self.post(e.DumpFailed(time.monotonic(), command.id, "there is no job to dump"))
            return
        checkpointer.begin()
        self._worker(f"dump {command.id}", lambda: checkpointer.take(command, incarnation))

    def _worker(self, name: str, work: Callable[[], None]) -> None:
        threading.Thread(target=work, name=name, daemon=True).start()

    def _kill(self, incarnation: Incarnation) -> None:
        """Kill an incarnation; a dump that holds its job then ends, and its hooks with it."""
        reins = self._parts.checkpointer.reins  # not those of a dump of the next incarnation

        def work() -> None:
            incarnation.destroy()
            if incarnation.ended.wait(KILLED_SECONDS):
                reins.release()

        self._worker("kill", work)

    def _new_incarnation(self, number: int, birth: Birth, origin: str = "") -> Incarnation:
        parts = self._parts
        self.incarnation = Incarnation(
            number, parts.job, parts.streams, self.post, self._job_stopped, birth=birth
        )
        parts.channel.begin(number, origin, self.incarnation.environment())
        return self.incarnation

    def _start_fresh(self, number: int) -> None:
        incarnation = self._new_incarnation(number, Birth.FRESH)
        self._begin(incarnation, incarnation.start_fresh)

    def _serve(self, number: int) -> None:
        incarnation = self._new_incarnation(number, Birth.EARLIER)
        self._begin(incarnation, incarnation.go_on)

    def _begin(self, incarnation: Incarnation, start: Callable[[], None]) -> None:
        number = incarnation.number
        self._parts.effects.fresh(number)
        self._parts.state.fresh(number)
        try:
            incarnation.open(self._parts.helper)
            start()
        except (CkptrunError, OSError) as error:
            incarnation.destroy()
            code = error.exit_code if isinstance(error, CkptrunError) else 70
            self.post(e.StartFailed(time.monotonic(), number, str(error), code))
            return
        self.post(e.JobStarted(time.monotonic(), number))
        incarnation.make_live()

    def _warm_up(self) -> None:
        """Have staging ready for the next dump."""
        self._parts.arena.prepare(self._parts.checkpointer.last_size, self._staging_ready)

    def _staging_ready(self) -> None:
        self.post(e.StagingReady(time.monotonic()))

    def signalled(self, signum: int) -> None:
        """Take a signal that the job's container was sent; any thread, also before the run begins."""

        def take() -> None:
            if self.state.phase is Phase.LAUNCHING and self.state.incarnation.outlasted:
                self.enqueue(take)  # how that goes is in the queue already
            else:
                self._console.from_container(signum)

        self.enqueue(take)

    def stop(self, signum: int = signal.SIGTERM) -> None:
        """Checkpoint, then stop; main thread only."""
        self._step(e.StopRequested(time.monotonic(), self._grace, signum))

    def checkpoint(self) -> None:
        """Take a checkpoint nobody waits for; main thread only."""
        self._step(e.CheckpointRequested(time.monotonic()))

    def foresee(self) -> bool:
        """Take a checkpoint because the machine may soon be gone; main thread only.

        Returns:
            Whether that makes sense: the job runs, and the run does not stop already.
        """
        if self.state.phase is not Phase.RUNNING:
            return False
        self._step(e.CheckpointRequested(time.monotonic(), trigger=Trigger.PREEMPTION))
        return True

    def request(self, reply: Callable[[str | None, str | None], None], *, wait: bool) -> None:
        """Take a checkpoint for somebody who waits for its id or the error; main thread only."""
        self._step(e.CheckpointRequested(time.monotonic(), self._waiter(reply), wait=wait))

    def ask(
        self,
        incarnation: int,
        reply: Callable[[str | None, str | None], None],
        make: Callable[[float, int], e.Event],
    ) -> None:
        """Tell the machine what an incarnation wants answered; one that has ended wants nothing. Main thread only."""
        if self.state.incarnation.alive and self.state.incarnation.number == incarnation:
            self._step(make(time.monotonic(), self._waiter(reply)))

    def tell(self, event: e.Event) -> None:
        """Tell the machine what the job has said of itself; main thread only."""
        self._step(event)

    def _waiter(self, reply: Callable[[str | None, str | None], None]) -> int:
        waiter = max(self._waiters, default=0) + 1
        self._waiters[waiter] = reply
        return waiter

    def newest(self) -> str | None:
        """Return the id of the newest good checkpoint."""
        return self.state.newest.id if self.state.newest else None

    def at_end(self, tell: Callable[[], None]) -> None:
        """Have `tell` called when the run is over and its end recorded."""
        self._on_end.append(tell)

    def tell_end(self) -> None:
        """Tell whoever waits for the end that the same command can be run again."""
        for tell in self._on_end:
            tell()

    def relieve(self) -> None:
        """Give staging's memory back, as far as no checkpoint depends on it; main thread only."""
        parts = self._parts
        if self.state.phase is Phase.RUNNING:
            for copy in self.state.checkpoints:
                if copy.local and copy.stored is Stored.COMMITTED:
                    parts.copies.drop(copy.id)
                    self._step(e.StagingLost(time.monotonic(), copy.id))
        parts.arena.shrink(0)
