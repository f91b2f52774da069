"""What the calls of the SDK cost the job: heartbeats, requests, critical sections, the state, the import."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from figures import Figure, at_most, spread
from workbench import JOBS

if TYPE_CHECKING:
    from workbench import Bench

MOST_BEAT = 20.0
MOST_IMPORT = 20.0
CALLS_PER_PAIR = 50


def measure(bench: Bench) -> list[Figure]:
    """Have a job time its own calls."""
    bench.say("a job times its calls")
    with bench.lab("calls") as lab:
        # as a user's: with the modules that ckptrun has compiled for the job
        lab.environment = {"PYTHONPATH": ""}
        done = lab.run(sys.executable, JOBS / "calls.py", bench.sizes.pairs * CALLS_PER_PAIR)
        assert done.code == 0, done.err
        samples = json.loads(done.out)
    micro = {name: [1e6 * value for value in values] for name, values in samples.items()}
    return [
        at_most(
            "heartbeat(within=60), every ms",
            "us",
            micro["loop"],
            MOST_BEAT,
            f"<= {MOST_BEAT:g} us",
            "one a second is sent",
        ),
        at_most(
            "a step of steps(…, within=60)",
            "us",
            micro["steps"],
            MOST_BEAT,
            f"<= {MOST_BEAT:g} us",
            "every ms; one heartbeat a second is sent",
        ),
        spread("heartbeat, one that is sent", "us", micro["beat"]),
        spread("request and reply", "us", micro["request"], "through the supervisor's loop"),
        spread("critical section, empty", "us", micro["section"], "two requests"),
        spread("state.put of 1 KiB", "us", micro["state 1 KiB"], "one request, no fsync"),
        spread("state.put of 1 MiB", "us", micro["state 1 MiB"], "in parts of 90 KiB"),
        at_most(
            "import ckptrun.job",
            "ms",
            [value / 1000 for value in micro["import"]],
            MOST_IMPORT,
            f"<= {MOST_IMPORT:g} ms",
            "a new interpreter, nothing else imported",
        ),
    ]
