"""Random programs of effects, killed at random places, against the outside world that they were to leave.

The promises, of a job that ends well after any number of crashes, each on this machine or on another:
once with a probe: what the surviving history did is in the world exactly once, nothing else more than once;
compensable: what the surviving history did is in the world, what it did not do is not, and nothing twice;
deferred: what it queued is sent, in order, more than once only after a crash over the sending, and nothing else; but
for a machine that dies after the job has ended and before that was recorded: the job's end has been sent by then, and
another history may follow. Messages without a sender likewise, by a hook, which is given one by the same id always.
"""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from typing import TYPE_CHECKING, Any

import pytest
from effectkit import Clock, Crash, Supervisor, under
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptrun.effects.ledger import open_ledger
from ckptrun.effects.model import Mark
from ckptrun.job import effects

if TYPE_CHECKING:
    from ckptrun.effects.model import Entry
    from ckptrun.hooking.contract import Message


@dataclasses.dataclass
class World:
    """What is outside, and does not go back."""

    charged: list[str] = dataclasses.field(default_factory=list)
    seats: set[str] = dataclasses.field(default_factory=set)
    mails: list[str] = dataclasses.field(default_factory=list)
    posted: list[str] = dataclasses.field(default_factory=list)
    """Messages that a hook has taken."""
    ids: dict[str, str] = dataclasses.field(default_factory=dict)
    doubly: set[str] = dataclasses.field(default_factory=set)
    """Mails and messages over whose sending a machine died."""

    def take(self, seat: str) -> None:
        assert seat not in self.seats, f"{seat} was taken twice"
        self.seats.add(seat)


def release() -> None:
    """An undo; the supervisor's stand-in for a worker does it."""


def mail() -> None:
    """A sender."""


@dataclasses.dataclass
class Memory:
    """What goes back."""

    at: int = 0
    did: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Step:
    kind: str
    number: int
    histories: int
    """Bits: in which restarts of the job the step is taken; a program may go another way after a restore."""

    def taken(self, restart: int) -> bool:
        return bool(self.histories >> (restart % 4) & 1)


class Machine:
    """One job's whole story."""

    def __init__(self, folder: str, program: list[Step], deaths: list[tuple[int, bool]]) -> None:
        self.url = f"sqlite://{folder}/effects.sqlite"
        self.program = program
        self.deaths = deaths
        self.world = World()
        self.checkpoints: list[tuple[Mark, Memory]] = []
        self.staged: list[tuple[Mark, Memory]] = []
        self.restart = 0
        self.epoch = 0
        self.clock = Clock()
        self.ended: set[str] = set()
        self.ends = 0

    def live(self, monkeypatch: pytest.MonkeyPatch) -> Memory:
        supervisor = None
        deaths = iter(self.deaths)
        while True:
            after, elsewhere = next(deaths, (0, True))
            self.clock = Clock(after or None)
            try:
                if supervisor is None or elsewhere:
                    self.epoch += 1
                    supervisor = Supervisor(open_ledger(self.url, "train"), self.epoch, self.work, self.clock)
                supervisor.clock.__dict__.update(self.clock.__dict__)
                self.clock = supervisor.clock
                with under(supervisor, monkeypatch):
                    return self.incarnation(supervisor)
            except Crash:
                self.restart += 1

    def incarnation(self, supervisor: Supervisor) -> Memory:
        self.staged.clear()  # the machine that had it in memory is gone
        supervisor.incarnation += 1
        if self.checkpoints:
            mark, memory = self.checkpoints[-1]
            supervisor.book.rewind(Mark.from_json(mark.to_json()))
        else:
            memory = Memory()
            supervisor.book.fresh(finished=False if self.restart else None)
        memory = copy.deepcopy(memory)
        while memory.at < len(self.program):
            step = self.program[memory.at]
            memory.at += 1
            if step.kind == "dump":
                self.staged.append((supervisor.book.mark(), copy.deepcopy(memory)))
            elif step.kind == "commit":
                self.commit(supervisor)
            elif step.taken(self.restart):
                self.do(step, memory)
        self.ended.update(memory.did)
        self.ends += 1
        supervisor.settle(None)
        supervisor.hand_over(None, self.post)
        supervisor.book.close()
        return memory

    def commit(self, supervisor: Supervisor) -> None:
        if self.staged:
            self.checkpoints.append(self.staged.pop(0))
            supervisor.settle(self.checkpoints[-1][0])
            supervisor.hand_over(self.checkpoints[-1][0], self.post)

    def do(self, step: Step, memory: Memory) -> None:
        key, tick = f"{step.kind}-{step.number}", self.clock.tick

        def happen(what: Any) -> str:
            tick()
            what(key)
            tick()
            return key

        if step.kind == "once":
            found = effects.once(
                key,
                lambda: happen(self.world.charged.append),
                probe=lambda key: key in self.world.charged and effects.Done(key),
            )
            assert found == key
        elif step.kind == "compensable":
            assert effects.compensable(key, lambda: happen(self.world.take), release) == key
        elif step.kind == "deferred":
            effects.deferred(key, {"n": step.number}, mail)
        else:
            effects.deferred(key, {"n": step.number})
        memory.did.append(key)

    def post(self, message: Message) -> None:
        """Stand in for a hook."""
        if self.clock.last in {self.clock.ticks + 1, self.clock.ticks + 2}:
            self.world.doubly.add(message.key)
        assert self.world.ids.setdefault(message.key, message.id) == message.id
        self.world.posted.append(message.key)

    def work(self, entry: Entry) -> str:
        """Stand in for a worker: it honours the key of an undo; a mail that was sent is sent."""
        if entry.kind == "compensable":
            self.world.seats.discard(entry.key)
            return ""
        if self.clock.last in {self.clock.ticks + 1, self.clock.ticks + 2}:
            self.world.doubly.add(entry.key)  # it dies before this is recorded
        self.world.mails.append(entry.key)
        return ""


steps = st.builds(
    Step,
    st.sampled_from(["once", "compensable", "deferred", "message", "dump", "commit"]),
    st.integers(0, 3),
    st.integers(0, 15),
)


@pytest.mark.slow
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(steps, max_size=14),
    st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=6),
)
def test_the_world_ends_as_the_surviving_history_left_it(program: list[Step], deaths: list[tuple[int, bool]]):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, pytest.MonkeyPatch.context() as patch:
        machine = Machine(folder, program, deaths)
        did = machine.live(patch).did
    world = machine.world
    assert len(world.charged) == len(set(world.charged))
    assert {key for key in did if key.startswith("once")} <= set(world.charged)
    assert world.seats == {key for key in did if key.startswith("compensable")}
    for kind, sendings in (("deferred", world.mails), ("message", world.posted)):
        queued = list(dict.fromkeys(key for key in did if key.startswith(kind)))
        sent = list(dict.fromkeys(sendings))
        assert set(queued) <= set(sent) <= machine.ended
        if machine.ends == 1:
            assert sent == queued
        repeated = {key for key in sendings if sendings.count(key) > 1}
        assert repeated <= world.doubly
