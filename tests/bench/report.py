"""The figures as a table for people, as JSON for programs, and as the table in docs/benchmarks.md."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from figures import NO, UNCLEAR, YES
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from pathlib import Path

    from figures import Figure
    from machine import Load

FORMAT = 1
BEGIN, END = "<!-- figures: written by tests/bench/run.py --markdown -->", "<!-- end of figures -->"
_COLOURS = {YES: "green", NO: "bold red", UNCLEAR: "yellow"}


@dataclass(slots=True)
class Outcome:
    """What came of one benchmark; `problem` says why there are no figures."""

    name: str
    about: str
    before: Load
    after: Load
    seconds: float
    figures: list[Figure] = field(default_factory=list)
    problem: str = ""
    skipped: bool = False

    @property
    def unreliable(self) -> bool:
        """Whether others were busy on the machine just before it or just after."""
        return self.before.disturbing or self.after.disturbing

    def load(self) -> str:
        """Return what is to be said about the load."""
        busy = max(self.before.others, self.after.others)
        return (
            f"UNRELIABLE: others kept {busy:.1f} cores busy"
            if self.unreliable
            else f"others: {busy:.2f} cores"
        )


def table(outcomes: list[Outcome]) -> Table:
    """Return the table for a terminal."""
    shown = Table(pad_edge=False, show_edge=False)
    for column in ("what", "median", "spread", "goal", "met?"):
        shown.add_column(
            column, overflow="fold", justify="right" if column in {"median", "spread"} else "left"
        )
    for outcome in outcomes:
        shown.add_section()
        style = "bold yellow" if outcome.unreliable else "bold"
        shown.add_row(Text(f"{outcome.name} ({outcome.load()})", style=style))
        if outcome.problem:
            shown.add_row(Text(outcome.problem, style="red"))
        for figure in outcome.figures:
            note = f"\n  {figure.note}" if figure.note else ""
            shown.add_row(
                Text(figure.what).append(note, style="dim"),
                _median(figure),
                _spread(figure),
                figure.goal,
                Text(figure.met, style=_COLOURS.get(figure.met, "")),
            )
    return shown


def document(facts: dict[str, Any], outcomes: list[Outcome], *, quick: bool) -> dict[str, Any]:
    """Return everything for ``bench.json``."""
    return {
        "format": FORMAT,
        "taken": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "machine": facts,
        "benchmarks": [
            {
                "name": outcome.name,
                "seconds": outcome.seconds,
                "unreliable": outcome.unreliable,
                "problem": outcome.problem,
                "load": [
                    {"average": load.average, "others_cores": load.others}
                    for load in (outcome.before, outcome.after)
                ],
                "figures": [figure.to_json() for figure in outcome.figures],
            }
            for outcome in outcomes
        ],
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_markdown(path: Path, facts: dict[str, Any], outcomes: list[Outcome]) -> None:
    """Put the figures where the document has the last ones."""
    text = path.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    path.write_text(f"{head}{BEGIN}\n{_markdown(facts, outcomes)}{END}{tail}", encoding="utf-8")


def _markdown(facts: dict[str, Any], outcomes: list[Outcome]) -> str:
    day = dt.datetime.now(dt.UTC).date().isoformat()
    lines = [
        f"Taken {day} on {describe(facts)}.",
        "",
        "| what | median | spread | goal | met? |",
        "|---|---:|---:|---|---|",
    ]
    for outcome in outcomes:
        lines.append(f"| **{outcome.name}** ({outcome.load()}) {outcome.problem} | | | | |")
        for figure in outcome.figures:
            note = f" ({figure.note})" if figure.note else ""
            cells = (figure.what + note, _median(figure), _spread(figure), figure.goal, figure.met)
            lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join([*lines, ""])


def describe(facts: dict[str, Any]) -> str:
    """Return the machine in one line."""
    kind = "virtual cores" if facts["virtual"] else "cores"
    return (
        f"{facts['cpu'] or 'a processor without a name'}, {facts['cores']} {kind}, "
        f"{facts['memory_bytes'] / 2**30:.0f} GiB, Linux {facts['kernel']}, Python {facts['python']}, "
        f"CRIU {facts['criu']}, ckptrun {facts['commit'] or facts['ckptrun']}"
    )


def _median(figure: Figure) -> str:
    return f"{_number(figure.value, figure.unit)} {figure.unit}".rstrip()


def _spread(figure: Figure) -> str:
    if len(figure.samples) < 2:
        return ""
    low, high = _number(figure.low, figure.unit), _number(figure.high, figure.unit)
    return f"{low} to {high} ({figure.spread}, n={len(figure.samples)})"


def _number(value: float, unit: str) -> str:
    if unit == "MB":
        return f"{value:.1f}"
    if unit == "":
        return f"{value:.4f}" if abs(value - 1) < 0.2 else f"{value:.2f}"
    return f"{value:.3f}"
