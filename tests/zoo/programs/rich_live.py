"""rich: a table on a terminal that a thread draws anew, ten times a second."""

from __future__ import annotations

from pace import report, sha, steps
from rich.live import Live
from rich.table import Table


def table(states: list[str]) -> Table:
    shown = Table("row", "state")
    for number, state in enumerate(states):
        shown.add_row(str(number), state[:16])
    return shown


def main() -> None:
    states = [""] * 5
    with Live(table(states), refresh_per_second=10) as live:
        for step in steps(100):
            states = [sha(state, step, number) for number, state in enumerate(states)]
            live.update(table(states))
    report(states, live.console.is_terminal)


if __name__ == "__main__":
    main()
