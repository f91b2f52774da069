"""Real programs, killed at random moments and restored, end as if nothing had happened.

`make test` kills ten of them once; `make zoo` all of them, three times, on the same machine and on another one.
CKPTRUN_TEST_SEED repeats a run's choices.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest
from catalogue import ENVIRONMENT as PACKAGES
from catalogue import PROGRAMS, Place, Program
from performing import alone, performance
from results import recorded
from support.run import seed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("CKPTRUN_ZOO_KILLS", "0"))
"""Of every program, here and elsewhere; 0: one kill for each of the quick ten."""


def cases() -> Iterator[object]:
    for program in PROGRAMS:
        for place in Place if KILLS else filter(None, [program.quick]):
            if program.refusal:
                continue
            yield pytest.param(program, place, id=f"{program.name}-{place.value}")


@pytest.fixture(scope="module", autouse=True)
def _packages() -> None:
    assert (PACKAGES / "bin" / "python").exists(), "the zoo's packages are missing: run `make zoo-packages`"


@pytest.mark.parametrize(("program", "place"), list(cases()))
def test_a_killed_program_ends_as_if_left_alone(program: Program, place: Place, tmp_path: Path):
    choices = random.Random(seed())
    with recorded(program, place) as figures:
        with performance(tmp_path / "machine", program) as shown:
            expected = alone(program, tmp_path / "alone", shown.lab.env)
            shown.hold.touch()
            shown.start()
            try:
                for _ in range(KILLS or 1):
                    shown.kill(place, choices)
                if not KILLS:  # docs/compatibility.md counts what checkpoints a program's whole time takes
                    shown.hasten()
                shown.let_end()
                outcome = shown.end()
            finally:
                figures.update(shown.figures())
        assert outcome.digest == expected.digest
        assert outcome.files == expected.files


@pytest.mark.parametrize("program", [pytest.param(p, id=p.name) for p in PROGRAMS if p.refusal])
def test_a_program_that_cannot_be_checkpointed_is_told_so_and_runs_on(program: Program, tmp_path: Path):
    with performance(tmp_path / "machine", program) as shown:
        expected = alone(program, tmp_path / "alone", shown.lab.env)
        run = shown.start()
        run.says(program.refusal)
        assert shown.end() == expected
        assert shown.figures()["checkpoints"] == 0
