"""Which command a command line means."""

from __future__ import annotations

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from ckptrun.cli.routing import route

SUBCOMMANDS = {"run", "ls", "show"}
VALUES = {"--name", "--store"}
ALONE = {"--help", "--version"}


def routed(line: str) -> str:
    return " ".join(route(line.split(), SUBCOMMANDS, VALUES, ALONE))


@pytest.mark.parametrize(
    "line", ["-- python train.py", "run -- python train.py", "python train.py", "run python train.py"]
)
def test_the_spellings_of_a_run_all_run(line: str):
    assert routed(line) in {"run -- python train.py", "run python train.py"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ls --json", "ls --json"),
        ("--store file:///s ls", "ls --store file:///s"),
        ("--name ls -- ls", "run --name ls -- ls"),
        ("--name=x -q show n", "show --name=x -q n"),
        ("--name x run -- python", "run --name x -- python"),
        ("-- ls", "run -- ls"),
        ("lsx", "run lsx"),
        ("python ls", "run python ls"),
        ("python --help", "run python --help"),
        ("--help", "--help"),
        ("--version", "--version"),
        ("--name x --help", "run --name x --help"),
        ("--name", "run --name"),
        ("-", "run -"),
        ("", "run"),
    ],
)
def test_a_subcommand_wins_unless_two_dashes_stand_before_it(line: str, expected: str):
    assert routed(line) == expected


@for_all(st.lists(st.sampled_from(["--", "--name", "-v", "x", "ls", "run", "-", "--fresh"]), max_size=6))
def test_no_word_is_lost_but_for_the_added_run(words: list[str]):
    result = route(words, SUBCOMMANDS, VALUES, ALONE)
    assert sorted(result) in (sorted(words), sorted([*words, "run"]))
