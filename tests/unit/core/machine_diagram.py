"""Draws docs/design/machine.md from the machine's table: ``python tests/unit/core/machine_diagram.py``."""

from __future__ import annotations

from pathlib import Path

from ckptrun.core.machine import TABLE, Row
from ckptrun.core.state import Phase

PAGE = Path(__file__).parents[3] / "docs" / "design" / "machine.md"

HEAD = """\
# The machine

Drawn from the table in `ckptrun/core/machine.py`, whose docstring has the rules. Redraw after a change:
`python tests/unit/core/machine_diagram.py`.

"""


def page() -> str:
    return HEAD + diagram() + "\n" + table()


def diagram() -> str:
    edges: dict[tuple[Phase, Phase], list[str]] = {}
    for row in TABLE:
        for before in row.phases:
            for after in row.to:
                if after is not before:
                    edges.setdefault((before, after), []).append(row.event.__name__)
    lines = [f"    {a} --> {b}: {', '.join(names)}" for (a, b), names in edges.items()]
    return "\n".join(["```mermaid", "stateDiagram-v2", f"    [*] --> {Phase.NEW}", *lines, "```", ""])


def table() -> str:
    lines = ["| while | event | what is done | leads to |", "|---|---|---|---|"]
    lines += [_line(row) for row in TABLE if row.phases != (Phase.ENDED,)]
    return "\n".join(
        [*lines, "", "Whatever comes after the end, but another `Begin`, is taken and nothing is done.", ""]
    )


def _line(row: Row) -> str:
    what = (row.handler.__doc__ or "").split("\n")[0]
    return (
        f"| {', '.join(row.phases)} | `{row.event.__name__}` | {what} | {', '.join(row.to) or 'the same'} |"
    )


if __name__ == "__main__":
    PAGE.write_text(page())
