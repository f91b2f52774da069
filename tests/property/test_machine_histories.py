"""The machine against a simulated shell: whatever happens, in whatever order, these things hold."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_shell import ModelShell, World

from ckptrun.core import commands as c
from ckptrun.core.config import Config, Interval, RestartPolicy
from ckptrun.core.model import Exit, RunState
from ckptrun.core.plans import Candidate, Fresh, GoOn, Plan, Resume, candidates
from ckptrun.core.sections import PATIENCE, WINDOW
from ckptrun.core.state import Stored

PLENTY = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
FEW = settings(PLENTY, max_examples=20)

odds = st.sampled_from([0.0, 0.2, 0.7, 1.0])
rarely = st.sampled_from([0.0, 3.0, 40.0, 300.0])


def known(locals_: list[bool]) -> tuple[Candidate, ...]:
    return tuple(Candidate(f"old{9 - i}", 9 - i, here) for i, here in enumerate(locals_))


plans = st.one_of(
    st.just(Fresh()),
    st.lists(st.booleans(), min_size=1, max_size=3).map(lambda locals_: Resume(known(locals_))),
    st.lists(st.just(False), max_size=2).map(lambda locals_: GoOn(known(locals_))),
)
configs = st.builds(
    Config,
    token=st.just("t"),
    interval=st.sampled_from(["auto", None, 2.0, 60.0]),
    restart=st.sampled_from(RestartPolicy),
    max_restarts=st.sampled_from([0, 3, 100]),
    local_slots=st.integers(3, 4),
) | st.builds(
    Config, token=st.just("t"), interval=st.sampled_from(["auto", 5.0]), local_slots=st.integers(1, 2)
)


def worlds(**fixed: st.SearchStrategy[object]) -> st.SearchStrategy[World]:
    fields: dict[str, st.SearchStrategy[object]] = {
        "seed": st.integers(0, 1 << 32),
        "dump_fails": odds,
        "dump_skipped": st.sampled_from([0.0, 0.3]),
        "commit_fails": odds,
        "transient": odds,
        "restore_fails": odds,
        "corrupt": odds,
        "start_fails": st.sampled_from([0.0, 0.0, 0.1]),
        "job_dies_every": rarely,
        "dies_alike": odds,
        "ignores_signal": odds,
        "staging_lost_every": rarely,
        "requested_every": rarely,
        "capsule_dies_every": st.sampled_from([0.0, 0.0, 50.0]),
        "beats_every": st.sampled_from([0.0, 0.5, 4.0]),
        "silent_every": rarely,
        "sections_every": rarely,
        "nested": odds,
        "busy_threads": st.sampled_from([0, 0, 0, 2]),
        "section_seconds": st.sampled_from([5.0, 30.0]),
        "rollbacks_every": rarely,
        "fenced_every": st.sampled_from([0.0, 0.0, 400.0]),
        "staging_never": st.sampled_from([False, False, False, True]),
        "stop_at": st.none() | st.floats(0, 400),
        "stop_again_after": st.none() | st.floats(0, 40),
        "grace": st.sampled_from([0.0, 1.0, 30.0]),
        "dump_seconds": st.sampled_from([0.2, 5.0]),
        "upload_seconds": st.sampled_from([0.2, 5.0, 60.0]),
        "keep": st.integers(1, 3),
    }
    return st.builds(World, **(fields | fixed))


def slots_for(config: Config, plan: Plan) -> Config:
    here = sum(k.local for k in candidates(plan))
    return Config(
        config.token, config.interval, config.restart, config.max_restarts, max(config.local_slots, here)
    )


@PLENTY
@given(configs, worlds(), plans)
def test_no_history_breaks_an_invariant(config: Config, world: World, plan: Plan) -> None:
    ModelShell(slots_for(config, plan), world, plan).run(600)


@PLENTY
@given(configs, worlds(stop_at=st.floats(0, 300)), plans)
def test_a_stop_ends_the_run_within_the_grace(config: Config, world: World, plan: Plan) -> None:
    shell = ModelShell(slots_for(config, plan), world, plan)
    assert shell.run(world.stop_at + world.grace + 1) is not None
    if shell.stopped_at is not None:
        assert shell.now <= shell.stopped_at + world.grace + 1


@PLENTY
@given(st.integers(0, 1 << 32), st.sampled_from(["auto", 5.0]), rarely, st.integers(1, 4))
def test_a_job_that_always_fails_alike_is_given_up(
    seed: int, interval: Interval, lost: float, slots: int
) -> None:
    world = World(seed, job_dies_every=20.0, dies_alike=1.0, staging_lost_every=lost)
    shell = ModelShell(Config("t", interval, max_restarts=60, local_slots=slots), world)
    finish = shell.run(60 * 120)
    assert finish is not None
    assert finish.state is RunState.FAILED
    assert finish.exit.by == "job"


@PLENTY
@given(
    configs,
    worlds(
        stop_at=st.none(),
        requested_every=st.just(0.0),
        staging_lost_every=st.just(0.0),
        beats_every=st.just(0.0),
        sections_every=st.just(0.0),
        busy_threads=st.just(0),
    ),
    plans,
)
def test_nothing_is_done_in_a_busy_loop(config: Config, world: World, plan: Plan) -> None:
    shell = ModelShell(slots_for(config, plan), world, plan)
    shell.run(600)
    deaths = len(shell.ended) + 1
    done = Counter(type(command) for _, command in shell.commands)
    per_interval = 600 / (2.0 if config.interval == 2.0 else 5.0 if config.interval == 5.0 else 30.0)
    skips = 600 if world.dump_skipped else 0  # a hook may ask for another try after a second
    dumps = per_interval + skips + deaths + 5
    assert done[c.TakeCheckpoint] <= dumps
    assert done[c.Upload] <= dumps + 600 / 5
    assert done[c.WakeAt] <= 6 * (dumps + deaths) + 600 / 5
    assert len(shell.started) <= config.max_restarts + 60


@PLENTY
@given(st.integers(0, 1 << 32), st.floats(31, 300), st.sampled_from([0.2, 2.0]))
def test_a_stop_of_a_healthy_run_leaves_a_checkpoint_and_75(seed: int, stop_at: float, upload: float) -> None:
    world = World(seed, stop_at=stop_at, upload_seconds=upload)
    shell = ModelShell(Config("t"), world)
    assert shell.run(1000) == c.Finish(Exit("ckptrun", 75), RunState.INTERRUPTED)
    last = [command for _, command in shell.commands if isinstance(command, c.TakeCheckpoint)][-1]
    assert last.hold
    assert shell.committed[-1] == last.id


@FEW
@given(st.integers(0, 1 << 32), st.integers(1, 4), st.sampled_from([0.5, WINDOW - 0.1]))
def test_short_sections_that_overlap_without_an_end_hold_no_checkpoint_back_for_long(
    seed: int, threads: int, seconds: float
) -> None:
    world = World(seed, busy_threads=threads, section_seconds=seconds, dump_seconds=0.2, upload_seconds=0.2)
    shell = ModelShell(Config("t", 20.0), world)
    shell.run(60)
    taken = [now for now, command in shell.commands if isinstance(command, c.TakeCheckpoint)]
    gaps = [after - before for before, after in pairwise([0.0, *taken, min(shell.now, 60)])]
    assert max(gaps) <= 20 + PATIENCE + WINDOW + 5, "a start, and an upload or two, come between"


@FEW
@given(st.integers(0, 1 << 32), st.integers(2, 6))
def test_who_waits_for_long_sections_to_end_does_not_wait_for_long(seed: int, threads: int) -> None:
    """One inside may wait for one outside: nobody stays outside for longer than the window and a dump last."""
    world = World(seed, busy_threads=threads, section_seconds=30.0, dump_seconds=0.2, upload_seconds=0.2)
    shell = ModelShell(Config("t", 5.0), world)
    shell.run(200)
    assert shell.longest_wait <= WINDOW + 0.4 + 0.01


@PLENTY
@given(configs, worlds(restore_fails=st.just(0.0)), plans, st.floats(0, 300))
def test_the_next_run_begins_where_this_one_would_have_gone_on(
    config: Config, world: World, plan: Plan, killed_at: float
) -> None:
    """Whenever ckptrun is killed: the newest checkpoint left to the next run is the newest that this one would use."""
    shell = ModelShell(slots_for(config, plan), world, plan)
    if shell.run(killed_at) is None:
        stored = [k.id for k in shell.state.checkpoints if k.usable and k.stored is Stored.COMMITTED]
        left = [name for name in shell.committed if name not in shell.aside]
        assert stored[-1:] == left[-1:]


@PLENTY
@given(worlds(), plans)
def test_a_history_replayed_gives_the_same_commands(world: World, plan: Plan) -> None:
    config = Config("t", local_slots=3)
    first, second = ModelShell(config, world, plan), ModelShell(config, world, plan)
    first.run(200)
    second.run(200)
    assert first.commands == second.commands
    assert first.state == second.state
