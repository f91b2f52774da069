"""DESIGN's table of running the same command again, row by row."""

from __future__ import annotations

import pytest

from ckptrun.core.model import Exit, RunState
from ckptrun.core.resume import EndOnly, Flags, FreshStart, LastRun, ResumeFrom, Situation, decide
from ckptrun.errors import ChoiceNeededError, UsageError


def situation(
    state: RunState | None, *, digest: str = "d1", changed: tuple[str, ...] = (), checkpoints: bool = True
) -> Situation:
    code = {RunState.FINISHED: 0, RunState.FAILED: 3, RunState.INTERRUPTED: 75}
    last_exit = Exit("job", code[state]) if state in code else None
    last = LastRun(state, last_exit, "d1", "python train.py") if state else None
    return Situation("train", last, digest, changed, checkpoints)


@pytest.mark.parametrize("state", [None, RunState.FINISHED])
def test_nothing_to_resume_starts_fresh(state: RunState | None) -> None:
    assert decide(situation(state), Flags()) == FreshStart()


@pytest.mark.parametrize("checkpoints", [True, False])
def test_a_run_whose_job_had_ended_well_only_ends(checkpoints: bool) -> None:
    last = LastRun(RunState.FINISHED, Exit("job", 0), "d1", "python train.py", ending=True)
    ending = Situation("train", last, "d1", ("train.py",), checkpoints)
    for flags in (Flags(), Flags(resume=True)):
        plan = decide(ending, flags)
        assert isinstance(plan, EndOnly)
        assert "had ended well" in plan.note
    assert decide(ending, Flags(fresh=True)) == FreshStart()
    with pytest.raises(ChoiceNeededError, match="another command"):
        decide(Situation("train", last, "d2", (), checkpoints), Flags())


@pytest.mark.parametrize("state", [RunState.INTERRUPTED, RunState.RUNNING])
def test_an_interrupted_run_resumes(state: RunState | None) -> None:
    assert isinstance(decide(situation(state), Flags()), ResumeFrom)


@pytest.mark.parametrize("state", [RunState.INTERRUPTED, RunState.RUNNING, RunState.FAILED])
def test_a_run_without_a_checkpoint_starts_fresh_and_says_so(state: RunState | None) -> None:
    plan = decide(situation(state, checkpoints=False, changed=("train.py",)), Flags())
    assert isinstance(plan, FreshStart)
    assert "no checkpoint" in plan.note


def test_a_run_whose_checkpoints_were_all_lost_is_not_started_over_unasked() -> None:
    last = LastRun(RunState.FAILED, Exit("ckptrun", 74), "d1", "python train.py")
    lost = Situation("train", last, "d1", (), has_checkpoints=False)
    for flags in (Flags(), Flags(resume=True)):
        with pytest.raises(ChoiceNeededError, match=r"none of the checkpoints.*'train'.*--fresh"):
            decide(lost, flags)
    assert isinstance(decide(lost, Flags(fresh=True)), FreshStart)


def test_a_failed_run_is_refused_naming_both_ways_out() -> None:
    with pytest.raises(ChoiceNeededError, match=r"'train' failed \(exit code 3.*--resume.*--fresh") as raised:
        decide(situation(RunState.FAILED), Flags())
    assert raised.value.exit_code == 78


def test_a_changed_file_is_refused_by_name() -> None:
    with pytest.raises(ChoiceNeededError, match=r"'train.py'.*--resume.*--fresh"):
        decide(situation(RunState.INTERRUPTED, changed=("train.py",)), Flags())


@pytest.mark.parametrize("state", list(RunState))
def test_another_command_is_refused_naming_fresh_and_another_name(state: RunState | None) -> None:
    with pytest.raises(ChoiceNeededError, match=r"python train.py.*--name.*--fresh") as raised:
        decide(situation(state, digest="d2"), Flags())
    assert "--resume" not in str(raised.value)


@pytest.mark.parametrize("state", [None, *RunState])
@pytest.mark.parametrize("digest", ["d1", "d2"])
def test_fresh_settles_everything(state: RunState | None, digest: str) -> None:
    assert isinstance(decide(situation(state, digest=digest, changed=("x",)), Flags(fresh=True)), FreshStart)


@pytest.mark.parametrize("state", list(RunState))
def test_resume_settles_a_failure_and_a_changed_file(state: RunState | None) -> None:
    assert isinstance(decide(situation(state, changed=("x",)), Flags(resume=True)), ResumeFrom)


def test_resume_does_not_settle_another_command() -> None:
    with pytest.raises(ChoiceNeededError):
        decide(situation(RunState.INTERRUPTED, digest="d2"), Flags(resume=True))


def test_resume_without_a_checkpoint_starts_fresh_and_says_so() -> None:
    plan = decide(situation(RunState.FAILED, checkpoints=False), Flags(resume=True))
    assert isinstance(plan, FreshStart)
    assert plan.note


def test_resume_and_fresh_exclude_each_other() -> None:
    with pytest.raises(UsageError):
        decide(situation(RunState.INTERRUPTED), Flags(resume=True, fresh=True))
