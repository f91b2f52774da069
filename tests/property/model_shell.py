"""A shell without processes: executes the machine's commands in simulated time and answers them at random.

It breaks off with an AssertionError as soon as the machine commands what must never be commanded.
"""

from __future__ import annotations

import heapq
import random
import re
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, get_args

from ckptrun.core import commands as c
from ckptrun.core import events as e
from ckptrun.core import plans
from ckptrun.core.invariants import validate_state
from ckptrun.core.machine import TABLE, step, story
from ckptrun.core.model import RunState
from ckptrun.core.state import Phase, State, initial

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptrun.core.config import Config

HANDLERS = {
    kind: "on_" + re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower() for kind in get_args(c.Command)
}
LEGAL = {(phase, row.event, to) for row in TABLE for phase in row.phases for to in (row.to or (phase,))}


@dataclass(frozen=True)
class World:
    """How likely things go wrong; probabilities, and seconds between disturbances (0: never)."""

    seed: int = 0
    dump_fails: float = 0.0
    dump_skipped: float = 0.0
    late_finish: float = 0.5
    commit_fails: float = 0.0
    transient: float = 0.7
    restore_fails: float = 0.0
    corrupt: float = 0.3
    start_fails: float = 0.0
    job_dies_every: float = 0.0
    dies_alike: float = 0.5
    ignores_signal: float = 0.5
    staging_lost_every: float = 0.0
    requested_every: float = 0.0
    capsule_dies_every: float = 0.0
    fenced_every: float = 0.0
    beats_every: float = 0.0
    silent_every: float = 0.0
    sections_every: float = 0.0
    nested: float = 0.0
    busy_threads: int = 0
    section_seconds: float = 1.0
    rollbacks_every: float = 0.0
    staging_never: bool = False
    stop_at: float | None = None
    stop_again_after: float | None = None
    grace: float = 30.0
    dump_seconds: float = 1.0
    upload_seconds: float = 5.0
    keep: int = 3


@dataclass
class ModelShell:
    """Runs one machine to its end, or to ``horizon`` seconds."""

    config: Config
    world: World
    plan: plans.Plan = field(default_factory=plans.Fresh)

    def __post_init__(self) -> None:
        self.random = random.Random(self.world.seed)
        self.state: State = initial(self.config)
        self.now = 0.0
        self.queue: list[tuple[float, int, Callable[[], e.Event | None]]] = []
        self.order = count()
        self.commands: list[tuple[float, c.Command]] = []
        self.alive: int | None = None
        self.running = False
        self.ended: list[int] = []
        self.started: list[int] = []
        self.dump: str | None = None
        self.held: str | None = None
        self.upload: str | None = None
        self.local: set[str] = set()
        self.committed: list[str] = []
        self.bad: set[str] = set()
        self.aside: set[str] = set()
        self.waiters: set[int] = set()
        self.numbers = count(1)
        self.alarm: float | None = None
        self.finish: c.Finish | None = None
        self.hooked: set[str] = set()
        self.failures = 0
        self.silent_until = 0.0
        self.wanted: dict[str, tuple[int, float]] = {}
        self.sections: dict[str, float] = {}
        self.asked_at: dict[int, float] = {}
        self.then: dict[int, Callable[[], None]] = {}
        self.longest_wait = 0.0
        self.stopped_at: float | None = None
        self.committed = [k.id for k in reversed(plans.candidates(self.plan))]
        self.local = {k.id for k in plans.candidates(self.plan) if k.local}

    def run(self, horizon: float) -> c.Finish | None:
        world = self.world
        if not world.staging_never:
            self.later(self.random.uniform(0, 3), lambda: e.StagingReady(self.now))
        self.every(world.job_dies_every, self.job_dies)
        self.every(world.staging_lost_every, self.staging_lost)
        self.every(world.requested_every, self.requested)
        self.every(world.capsule_dies_every, self.capsule_dies)
        self.every(world.fenced_every, lambda: e.Fenced(self.now, "taken over"))
        self.every(world.beats_every, self.beats)
        self.every(world.silent_every, self.falls_silent)
        self.every(world.sections_every, self.enters)
        self.every(world.rollbacks_every, self.rolls_back)
        for _ in range(world.busy_threads):
            self.later(self.random.uniform(0, 1), self.keeps_entering)
        if world.stop_at is not None:
            self.later(world.stop_at, self.stop)
            if world.stop_again_after is not None:
                self.later(world.stop_at + world.stop_again_after, self.stop)
        self.feed(e.Begin(self.now, self.plan))
        while self.finish is None and self.now <= horizon:
            self.advance()
        return self.finish

    def advance(self) -> None:
        due = self.queue[0][0] if self.queue else float("inf")
        if self.alarm is not None and self.alarm <= due:
            self.now = max(self.now, self.alarm)
            self.alarm = None
            self.feed(e.Tick(self.now))
            return
        if not self.queue:
            assert self.state.phase is Phase.RUNNING, "nothing will ever happen again\n" + story(self.state)
            self.now = float("inf")  # the job runs on for ever
            return
        self.now, _, make = heapq.heappop(self.queue)
        event = make()
        if event is not None:
            self.feed(event)

    def feed(self, event: e.Event) -> None:
        assert self.finish is None
        before = self.state.phase
        self.state, commands = step(self.state, event)
        straggler = before is self.state.phase and getattr(event, "incarnation", self.alive) != self.alive
        assert straggler or (before, type(event), self.state.phase) in LEGAL, story(self.state)
        validate_state(self.state)
        assert sum(not isinstance(command, c.Answer) for command in commands) < 40, commands
        for command in commands:
            assert self.finish is None, f"{command} after the end"
            self.commands.append((self.now, command))
            getattr(self, HANDLERS[type(command)])(command)

    def later(self, delay: float, make: Callable[[], e.Event | None]) -> None:
        heapq.heappush(self.queue, (self.now + delay, next(self.order), make))

    def every(self, seconds: float, make: Callable[[], e.Event | None]) -> None:
        if not seconds:
            return

        def again() -> e.Event | None:
            self.every(seconds, make)
            return make()

        self.later(self.random.expovariate(1 / seconds), again)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    # What the world does.

    def job_dies(self, outcome: e.Outcome | None = None) -> e.Event | None:
        if self.alive is None or not (self.running or self.chance(0.3)):
            return None
        if outcome is None:
            alike = [e.Outcome(code=1), e.Outcome(signal=9)]
            others = [e.Outcome(code=3), e.Outcome(signal=11), e.Outcome(signal=9, oom=True)]
            outcome = self.random.choice(alike if self.chance(self.world.dies_alike) else others)
        return self.gone(lambda number: e.JobEnded(self.now, number, outcome))

    def capsule_dies(self) -> e.Event | None:
        return None if self.alive is None else self.gone(lambda number: e.CapsuleGone(self.now, number))

    def gone(self, make: Callable[[int], e.Event]) -> e.Event:
        assert self.alive is not None
        number, self.alive, self.running, self.held = self.alive, None, False, None
        self.sections.clear()
        self.ended.append(number)
        if self.chance(0.3):
            self.later(self.random.uniform(0, 5), lambda: e.CapsuleGone(self.now, number))
        return make(number)

    def staging_lost(self) -> e.Event | None:
        if not self.local:
            return None
        lost = self.random.choice(sorted(self.local))
        self.local.discard(lost)
        return e.StagingLost(self.now, lost)

    def requested(self) -> e.Event:
        waiter = next(self.numbers)
        self.waiters.add(waiter)
        return e.CheckpointRequested(self.now, waiter, wait=self.chance(0.5))

    def talks(self) -> bool:
        return self.running and self.held is None and self.alive is not None

    def beats(self) -> e.Event | None:
        if not self.talks() or self.now < self.silent_until:
            return None
        return e.Beat(self.now, self.alive or 0, self.random.choice([None, 5.0, 30.0]))

    def falls_silent(self) -> e.Event | None:
        self.silent_until = self.now + self.random.uniform(0, 60)
        return e.Reported(self.now, self.alive or 0, {"loss": self.now}) if self.talks() else None

    def enters(self) -> e.Event | None:
        if not self.talks():
            return None
        number, waiter, seconds = self.alive or 0, next(self.numbers), self.random.uniform(0.1, 20)
        name = f"section-{waiter}"
        self.waiters.add(waiter)
        self.wanted[name] = (waiter, seconds)

        def leaves() -> e.Event | None:
            self.sections.pop(name, None)
            return e.CriticalLeft(self.now, number, name) if self.alive == number and self.talks() else None

        self.later(self.random.uniform(0, 40), leaves)
        pid = self.random.choice([7, 8])
        return e.CriticalEntered(
            self.now, number, name, seconds, waiter, "", pid, self.chance(self.world.nested)
        )

    def keeps_entering(self) -> e.Event | None:
        """A thread of the job's that enters one section after another, with hardly a pause."""
        if not self.talks():
            self.later(1.0, self.keeps_entering)
            return None
        number, waiter = self.alive or 0, next(self.numbers)
        name = f"busy-{waiter}"
        self.waiters.add(waiter)
        self.wanted[name] = (waiter, 60.0)
        self.asked_at[waiter] = self.now

        def leaves() -> e.Event | None:
            self.sections.pop(name, None)
            self.later(self.random.uniform(0, 0.01), self.keeps_entering)
            return e.CriticalLeft(self.now, number, name) if self.alive == number and self.talks() else None

        self.then[waiter] = lambda: self.later(
            self.random.uniform(0.1, 1.0) * self.world.section_seconds, leaves
        )
        return e.CriticalEntered(self.now, number, name, 60.0, waiter)

    def rolls_back(self) -> e.Event | None:
        if not self.talks():
            return None
        waiter = next(self.numbers)
        self.waiters.add(waiter)
        reason = "loss is nan" if self.chance(self.world.dies_alike) else f"reason {waiter}"
        return e.RollbackRequested(self.now, self.alive or 0, reason, waiter)

    def stop(self) -> e.Event:
        if self.stopped_at is None:
            self.stopped_at = self.now
        return e.StopRequested(self.now, self.world.grace, 15)

    # What the commands do.

    def begin(
        self, number: int, success: Callable[[], e.Event], failure: Callable[[], e.Event], odds: float
    ) -> None:
        assert self.alive is None, "two incarnations at once"
        assert self.started == self.ended, "an incarnation has not ended"
        self.alive = number
        self.started.append(number)
        fails = self.chance(odds)

        def report() -> e.Event | None:
            if self.alive != number:
                return None
            if fails:
                return self.gone(lambda _: failure())
            self.running = True
            return success()

        self.later(self.random.uniform(0.01, 2), report)

    def on_start_job(self, command: c.StartJob) -> None:
        number = command.incarnation
        self.begin(
            number,
            lambda: e.JobStarted(self.now, number),
            lambda: e.StartFailed(self.now, number, "command 'x' is not there", 127),
            self.world.start_fails,
        )

    def on_serve_job(self, command: c.ServeJob) -> None:
        number = command.incarnation
        assert number == 1, "nothing else can have outlasted a run before"
        self.begin(
            number,
            lambda: e.JobStarted(self.now, number),
            lambda: e.StartFailed(self.now, number, "it cannot be watched", 70),
            self.world.start_fails,
        )

    def on_restore_job(self, command: c.RestoreJob) -> None:
        number, checkpoint = command.incarnation, command.checkpoint
        assert checkpoint not in self.bad
        if command.local:
            assert checkpoint in self.local, "restored from a local copy that is gone"
        else:
            assert checkpoint in self.committed, "restored from the store what is not there"
        assert checkpoint not in self.aside, "restored what was set aside"
        if checkpoint in self.committed:  # as HEAD has it from then on
            self.aside |= set(self.committed[self.committed.index(checkpoint) + 1 :])
        corrupt = self.chance(self.world.corrupt)
        self.begin(
            number,
            lambda: e.RestoreSucceeded(self.now, number),
            lambda: e.RestoreFailed(
                self.now,
                number,
                checkpoint,
                "no",
                corrupt,
                transient=self.chance(0.1),
                unfit=self.chance(0.02),
                aborted=self.chance(0.05),
            ),
            self.world.restore_fails,
        )

    def on_take_checkpoint(self, command: c.TakeCheckpoint) -> None:
        assert self.dump is None, "two dumps at once"
        assert self.running, "dumped a job that does not run"
        assert self.held is None, "dumped a job that is held"
        assert not any(until > self.now for until in self.sections.values()), "dumped in a critical section"
        assert not self.state.incarnation.condemned, "dumped a job that is being killed"
        assert len(self.local) < self.config.local_slots, "dumped without room"
        assert self.stopped_at is None or command.hold
        self.dump = command.id
        fails, skipped = self.chance(self.world.dump_fails), self.chance(self.world.dump_skipped)
        number = self.alive

        def report() -> e.Event | None:
            if self.dump != command.id:
                return None
            self.dump = None
            if skipped or fails or self.alive != number:
                later = self.random.choice([None, 0.0, 3.0])
                ended = self.alive != number or (
                    not skipped and self.random.random() < 0.1
                )  # it may be wrong
                return e.DumpFailed(self.now, command.id, "no", skipped, later, ended)
            return self.dumped(command)

        self.later(self.random.uniform(0.1, 2) * self.world.dump_seconds, report)
        self.dumping = command

    def dumped(self, command: c.TakeCheckpoint) -> e.Event:
        self.local.add(command.id)
        if command.hold and self.running:
            self.held = command.id
        return e.DumpFinished(self.now, command.id, self.world.dump_seconds, 1 << 20)

    def on_abandon_dump(self, command: c.AbandonDump) -> None:
        assert self.dump == command.id

        def report() -> e.Event | None:
            if self.dump != command.id:
                return None
            self.dump = None
            if self.chance(self.world.late_finish):
                return self.dumped(self.dumping)
            return e.DumpFailed(self.now, command.id, "abandoned")

        self.later(self.random.uniform(0, 1), report)

    def on_release_hold(self, command: c.ReleaseHold) -> None:
        assert self.held in (command.id, None)
        self.held = None

    def on_upload(self, command: c.Upload) -> None:
        assert self.upload is None, "two uploads at once"
        assert command.id in self.local
        self.upload = command.id

        def report() -> e.Event:
            self.upload = None
            if self.chance(self.world.commit_fails) or command.id not in self.local:
                return e.CommitFailed(self.now, command.id, "no", self.chance(self.world.transient))
            self.committed.append(command.id)
            expired = tuple(self.committed[: -self.world.keep])
            self.committed = self.committed[-self.world.keep :]
            return e.Committed(self.now, command.id, len(self.commands), self.world.upload_seconds, expired)

        self.later(self.random.uniform(0.1, 2) * self.world.upload_seconds, report)

    def on_drop_local(self, command: c.DropLocal) -> None:
        assert command.id != self.upload, "dropped what is being uploaded"
        origin = self.state.incarnation.origin
        assert self.running or self.alive is None or command.id != origin, "dropped what is being restored"
        self.local.discard(command.id)

    def on_signal_job(self, command: c.SignalJob) -> None:
        assert command.signum == 15
        assert self.running, "signalled a job that does not run"
        if not self.chance(self.world.ignores_signal):
            code = self.random.choice([0, 143])
            self.later(self.random.uniform(0, 5), lambda: self.job_dies(e.Outcome(code=code)))

    def on_kill_capsule(self, command: c.KillCapsule) -> None:
        assert command.incarnation in self.started
        assert command.incarnation not in [
            k.incarnation for _, k in self.commands[:-1] if isinstance(k, c.KillCapsule)
        ]
        number = command.incarnation

        def report() -> e.Event | None:
            if self.alive == number:
                by_kill = self.chance(0.5)
                return (
                    self.capsule_dies()
                    if by_kill
                    else self.job_dies(e.Outcome(signal=9)) or self.capsule_dies()
                )
            return None if self.finish else e.CapsuleGone(self.now, number)

        self.later(self.random.uniform(0, 0.5), report)

    def on_mark_bad(self, command: c.MarkBad) -> None:
        assert command.checkpoint in self.committed
        self.committed.remove(command.checkpoint)
        self.bad.add(command.checkpoint)

    def on_set_aside(self, command: c.SetAside) -> None:
        known = {*self.committed, self.upload}
        assert set(command.checkpoints) <= known, "set aside what the store will never have"
        self.aside |= set(command.checkpoints)

    def on_run_hooks(self, command: c.RunHooks) -> None:
        assert self.finish is None, "hooks after the end"
        match command.phase:
            case c.POST_COMMIT:
                assert command.checkpoint in self.committed
                assert command.checkpoint not in self.hooked, "committed twice"
                self.hooked.add(command.checkpoint)
            case c.ON_FAILURE:
                assert self.alive is None, "the job has not failed"
                assert command.cause is not None
                assert not command.cause.ok
                assert len(self.ended) > self.failures, "one failure was told twice"
                self.failures = len(self.ended)
            case other:
                raise AssertionError(other)

    def on_wake_at(self, command: c.WakeAt) -> None:
        self.alarm = command.when

    def on_answer(self, command: c.Answer) -> None:
        assert (command.id is None) != (command.error is None)
        self.waiters.remove(command.waiter)
        waiter, seconds = self.wanted.pop(command.id or "", (0, 0.0))
        if waiter == command.waiter:
            assert self.dump is None, "let into a critical section while a dump is in flight"
            self.sections[command.id or ""] = self.now + seconds
        if then := self.then.pop(command.waiter, None):
            self.longest_wait = max(self.longest_wait, self.now - self.asked_at.pop(command.waiter))
            then()

    def on_say(self, command: c.Say) -> None:
        assert command.level in (c.DETAIL, c.NORMAL, c.ERROR)
        assert command.text
        assert "None" not in command.text

    def on_record(self, command: c.Record) -> None:
        assert command.event

    def on_finish(self, command: c.Finish) -> None:
        assert self.alive is None, "finished while an incarnation lives"
        assert self.started == self.ended
        assert not self.waiters, "somebody still waits"
        assert self.state.phase is Phase.ENDED
        assert (command.exit.code == 0) == (command.state is RunState.FINISHED)
        self.finish = command
