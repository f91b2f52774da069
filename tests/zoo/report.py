"""Write docs/compatibility.md from the results: ``python tests/zoo/report.py zoo.json docs/compatibility.md``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from catalogue import PROGRAMS, Place, Program

HEAD = """\
# Compatibility

Real programs, killed at random moments and restored; `make zoo` writes this page. A program is **exact** if, with the
kills, it prints the same digest of its result, and leaves the same files with the same bytes, as when it runs alone
without ckptrun.

- *here*: SIGKILL to every process of the job, a random moment after a commit; ckptrun restores it.
- *another machine*: SIGKILL to ckptrun; its state, the job's home and its working directory are removed, only the store
  is left. The same command again.
- *frozen*: the median time for which the program stood still for a checkpoint, one every second, next to other load.

One program alone: `make zoo-packages`, then `CKPTRUN_ZOO_KILLS=1 .venv/bin/python -m pytest tests/zoo -k sqlite_wal`;
it prints the seed of its random moments, and `CKPTRUN_TEST_SEED` repeats one. A new program: a file in
`tests/zoo/programs/` and a line in `tests/zoo/catalogue.py`.
"""
RUN = """\
Run on {days} with {ckptrun} (commit {commit}), CRIU {criu}, Linux {kernel}, {system}, {processor}, jobs in Python
{python}; kills of each program, in each place: {kills}. The packages' versions are in `tests/zoo/requirements.txt`.
"""
TABLE = """\
| program | exercises | here | another machine | kills | frozen | notes |
|---|---|---|---|---|---|---|"""
REFUSED = """
## Not supported

| program | exercises | what ckptrun says | why |
|---|---|---|---|"""


def main() -> None:
    """Read one file, write the other."""
    document = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(page(document))


def page(document: dict[str, Any]) -> str:
    """Return the page."""
    results = document["results"]
    kills = sorted({result["kills"] for result in results.values() if not result["error"]})
    days = sorted({result["date"] for result in results.values()})
    told = {"days": " to ".join(dict.fromkeys((days[0], days[-1]))), "kills": " or ".join(map(str, kills))}
    parts = [HEAD, RUN.format(**document["machine"], **told), TABLE]
    parts += [row(program, results) for program in PROGRAMS if not program.refusal]
    if refused := [program for program in PROGRAMS if program.refusal]:
        parts.append(REFUSED)
        parts += [
            f"| {program.name} | {program.exercises} | … {program.refusal} … | {program.note} |"
            for program in refused
        ]
    return "\n".join(parts) + "\n"


def row(program: Program, results: dict[str, Any]) -> str:
    """Return a program's line of the table."""
    found = [results.get(f"{program.name} {place.value}") for place in Place]
    kills = sum(result.get("kills", 0) for result in found if result)
    frozen = [result["frozen_median"] for result in found if result and result.get("frozen_median")]
    shown = f"{1000 * max(frozen):.0f} ms" if frozen else ""
    words = [program.name, program.exercises, *map(verdict, found), str(kills), shown, notes(program, found)]
    return f"| {' | '.join(words)} |"


def verdict(result: dict[str, Any] | None) -> str:
    """Return how a program did in one place."""
    if result is None:
        return "not run"
    return "**not exact**" if result["error"] else "exact"


def notes(program: Program, found: list[dict[str, Any] | None]) -> str:
    """Return what else is to be told."""
    told = [program.note] if program.note else []
    for place, result in zip(Place, found, strict=True):
        if not result:
            continue
        # A kill in the middle of a dump fails it, of course.
        if len(result.get("failed_checkpoints", ())) > result.get("kills", 0):
            told.append(f"{place.value}: checkpoints failed and were tried again")
        if result.get("failed_restores"):
            told.append(f"{place.value}: a restore failed, and an older checkpoint or another try did it")
    return "; ".join(told)


if __name__ == "__main__":
    main()
