"""The benchmarks: ``python tests/bench/run.py [NAME…]``, all by default, one after the other.

Figures are medians, and ratios within one run wherever that is possible. Nothing here fails because a machine is
slow: a missed goal is shown as missed, and a busy machine is told as such.
"""

# ruff: noqa: E402 - where the modules of tests/ are found must be said before they are imported

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import machine
import report
from figures import NO
from workbench import FULL, QUICK, Bench, SkipError

if TYPE_CHECKING:
    from types import ModuleType

NAMES = (
    "idle",
    "overhead",
    "start",
    "freeze",
    "restore",
    "journal",
    "hooks",
    "cuda",
    "calls",
    "effects",
    "cost",
    "pod",
)
console = Console(width=None if sys.stdout.isatty() else 160)


def main() -> int:
    """Run them; 0 unless one broke."""
    options = parse_options()
    sizes = QUICK if options.quick else FULL
    facts = machine.facts()
    console.print(f"{report.describe(facts)}\nload average {os.getloadavg()[0]:.2f}", highlight=False)
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="ckptrun-bench-") as folder, console.status("") as status:
        for name in options.names or NAMES:

            def say(text: str, name: str = name) -> None:
                status.update(f"{name}: {text}")

            say("looking at the load")
            bench = Bench(Path(folder), sizes, say)
            outcomes.append(run_one(importlib.import_module(f"bench_{name}"), name, bench))
    console.print(report.table(outcomes))
    if options.quick:
        console.print("Small sizes and few samples: these figures only show that everything works.")
    if any(outcome.unreliable for outcome in outcomes):
        console.print(
            "[yellow]Others were busy on this machine: take the figures again when it is quiet.[/yellow]"
        )
    if options.json:
        report.write_json(options.json, report.document(facts, outcomes, quick=options.quick))
    if options.markdown:
        report.write_markdown(options.markdown, facts, outcomes)
    missed = [f"{o.name}: {f.what}" for o in outcomes for f in o.figures if f.met == NO]
    for line in missed:
        console.print(f"missed: {line}", style="red")
    return 1 if any(outcome.problem and not outcome.skipped for outcome in outcomes) else 0


def run_one(module: ModuleType, name: str, bench: Bench) -> report.Outcome:
    """Run one benchmark; what breaks in it is part of its outcome."""
    about = (module.__doc__ or "").strip()
    before, began = machine.load(), time.monotonic()
    figures, problem, skipped = [], "", False
    try:
        figures = module.measure(bench)
    except SkipError as reason:
        problem, skipped = f"left out: {reason}", True
    except Exception as error:  # noqa: BLE001 - the other benchmarks are still worth having
        traceback.print_exc()
        problem = f"broke: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    seconds = time.monotonic() - began
    return report.Outcome(name, about, before, machine.load(), seconds, figures, problem, skipped=skipped)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure ckptrun on this machine.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(NAMES)} (all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, samples included")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="put the table into that document")
    parser.add_argument("--quick", action="store_true", help="small sizes: to see that it works")
    options = parser.parse_args()
    for name in options.names:
        if name not in NAMES:
            parser.error(f"there is no benchmark {name!r}: choose from {', '.join(NAMES)}")
    if options.markdown and (options.names or options.quick):
        parser.error("--markdown takes the place of all figures: run all benchmarks, in full, for it")
    return options


if __name__ == "__main__":
    sys.exit(main())
