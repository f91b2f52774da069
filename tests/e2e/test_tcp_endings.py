"""Connections inside the job of which one side or both have said their end, or are gone, at a checkpoint."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from ckptrun.errors import CkptrunError

if TYPE_CHECKING:
    from support.run import Lab

pytestmark = pytest.mark.slow
JOB = Path(__file__).parent / "jobs" / "endings.py"
DOCUMENT = Path(__file__).parents[2] / "docs" / "design" / "tcp.md"
EXACT, RESET, REFUSED = "as undisturbed", "ECONNRESET, told", "refused, by name"


class Case(NamedTuple):
    """What the client (a) and the server (b) do, as ``jobs/endings.py`` has it, and what a reader finds."""

    words: str
    auto: str = EXACT
    keep: str = EXACT


CASES = [
    Case("a>1000 a.shut b>2000 a=FIN_WAIT2 b=CLOSE_WAIT"),
    Case("a>1000 b>2000 a.shut b.shut a=CLOSE b=CLOSE"),
    Case("a.shut b.shut a=CLOSE b=CLOSE"),
    Case("a>full a.shut a=FIN_WAIT1 b=ESTABLISHED"),
    Case("a>full b>full a.shut b.shut a=FIN_WAIT1 b=FIN_WAIT1"),
    Case("a.shut b>full b.shut a=FIN_WAIT2 b=LAST_ACK"),
    Case("a>1000 a.close b=CLOSE_WAIT"),
    Case("b>2000 b.close a=CLOSE_WAIT"),
    Case("a.shut b>2000 b.close a=CLOSE"),
    Case("a>1000 a.close b.shut b=CLOSE"),
    Case("a>full a.close a=FIN_WAIT1 b=ESTABLISHED", RESET, REFUSED),
    Case("a.shut b>full b.close a=FIN_WAIT2 b=LAST_ACK", RESET, REFUSED),
    Case("a>1000 b.close a=CLOSE"),
    Case("a>1000 b>2000 b.close a=CLOSE", RESET, RESET),
    Case("b>2000 b.close a>10 a=CLOSE", RESET, RESET),
]


def undisturbed(lab: Lab, words: list[str], host: str) -> list[str]:
    """Return what the job prints that nobody interrupts."""
    (lab.folder / "go").touch()
    argv = [sys.executable, str(JOB), host, *words]
    result = subprocess.run(argv, cwd=lab.folder, check=True, capture_output=True, text=True)
    return result.stdout.splitlines()


def check(lab: Lab, words: list[str], outcome: str, policy: str, host: str, restores: int = 1) -> None:
    run = lab.start(sys.executable, JOB, host, *words, options=("--tcp", policy))
    run.prints("ready")
    if outcome is REFUSED:
        with pytest.raises(CkptrunError, match="was closed while its last bytes were still under way"):
            run.checkpoint()
    else:
        for _ in range(restores):
            run.checkpoint()
            run.restored(run.kill_job)
    (lab.work / "go").touch()
    result = run.wait()
    if outcome is RESET:
        assert re.fullmatch(r"ready\n[ab]: 0 bytes \w+, then ConnectionResetError\n", result.out), result.err
        assert "1 connection " in result.err
        assert "came back closed: 127.0.0.1:" in result.err
    else:
        assert result.out.splitlines() == undisturbed(lab, words, host), result.err
    assert result.code == 0


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.words)
def test_what_a_connection_inside_the_job_still_held_is_read_or_missed_aloud(lab: Lab, case: Case):
    check(lab, case.words.split(), case.auto, "auto", "127.0.0.1")


@pytest.mark.parametrize("case", CASES[6:], ids=lambda case: case.words)
def test_the_same_where_every_connection_is_kept(lab: Lab, case: Case):
    check(lab, case.words.split(), case.keep, "keep", "127.0.0.1")


@pytest.mark.parametrize("words", ["b>2000 b.close a=CLOSE_WAIT", "a.shut b>2000 b.close a=CLOSE"])
def test_the_last_answer_over_ipv6_alone_can_be_read_after_two_restores(lab: Lab, words: str):
    check(lab, words.split(), EXACT, "auto", "::1", restores=2)


STEPS = {">full": "sends as much as fits", ".shut": "closes one way", ".close": "closes"}


def row(case: Case) -> str:
    """Return a case's line of the document's table."""
    deeds: dict[str, list[str]] = {"a": [], "b": []}
    states: list[str] = []
    for word in case.words.split():
        if word[1] == "=":
            states.append(f"{'client' if word[0] == 'a' else 'server'} {word[2:]}")
        else:
            deeds[word[0]].append(STEPS.get(word[1:]) or f"sends {word[2:]} bytes")
    who = [", ".join(deeds[end]) or "-" for end in "ab"]
    return f"| {who[0]} | {who[1]} | {', '.join(states)} | {case.auto} | {case.keep} |"


def test_the_document_has_these_cases_and_no_others():
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    start = lines.index("| the client | the server | then | auto | keep |")
    assert lines[start + 2 : start + 2 + len(CASES) + 1] == [*map(row, CASES), ""]
