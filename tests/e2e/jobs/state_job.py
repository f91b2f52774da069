"""A job that keeps a state: what it remembers itself and what the state says must be the same at every step."""

from __future__ import annotations

import hashlib
import os
import random
import sys
import time
from pathlib import Path

from ckptrun import job
from ckptrun.job import state

HOLD = Path("hold")
LARGE = 3_000_000


def say(*words: object) -> None:
    print(*words, flush=True)


def digest(model: dict[str, bytes]) -> str:
    found = hashlib.sha256()
    for key in sorted(model):
        found.update(key.encode() + b"\0" + hashlib.sha256(model[key]).digest())
    return found.hexdigest()[:16]


def check(model: dict[str, bytes]) -> None:
    """The state is what this memory believes, entry for entry."""
    names = state.keys()
    found = state.get_many(names)
    assert names == sorted(model), (len(names), len(model))
    assert found == model, [key for key in model if found.get(key) != model[key]]


def keeping(steps: int) -> None:
    """Change the state at random, and compare it with the memory all the time; checkpoints on the way."""
    chance = random.Random(5)
    model: dict[str, bytes] = {}
    say("found", state.delete_prefix(""))
    for step in range(1, steps + 1):
        values = {f"k/{chance.randrange(30):02}": chance.randbytes(chance.randrange(3000)) for _ in range(3)}
        if step % 10 == 5:
            values["large"] = chance.randbytes(LARGE)
        gone = [f"k/{chance.randrange(30):02}"]
        state.put_many(values, delete=gone)
        for key in gone:
            model.pop(key, None)
        model.update(values)
        if step % 7 == 0:
            prefix = f"k/{chance.randrange(3)}"
            count = state.delete_prefix(prefix)
            dropped = [key for key in model if key.startswith(prefix)]
            assert count == len(dropped), (count, dropped)
            for key in dropped:
                del model[key]
        check(model)
        if step in {11, 23}:
            job.checkpoint(wait=True)
            check(model)
            say("committed", step)
        if step in {13, 25, steps}:
            say("holding", step)
        while HOLD.exists() and step in {13, 25, steps} and not Path(f"pass-{step}").exists():
            check(model)
            time.sleep(0.02)
    say("kept", digest(model), len(model))


def reading() -> None:
    """Say what an earlier run has left."""
    names = state.keys()
    say("kept", digest(state.get_many(names)), len(names))


def ending(value: str, code: str) -> None:
    """Put a value after the last checkpoint, and end."""
    say("found", state.get("value"))
    job.checkpoint(wait=True)
    state.put("value", value.encode())
    sys.exit(int(code))


def waiting() -> None:
    """Put a value, and wait to be let go."""
    state.put("value", b"waiting")
    say("put")
    while HOLD.exists():
        time.sleep(0.01)


def counting() -> None:
    """Count, in memory and in the state, as fast as it goes, in two processes: neither may ever be ahead."""
    child = os.fork()
    name, number = "child" if child == 0 else "parent", 0
    while HOLD.exists():
        assert state.get(name) == (str(number).encode() if number else None), (name, number, state.get(name))
        number += 1
        state.put(name, str(number).encode())
        if name == "parent" and number % 50 == 0:
            say("at", number)
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert state.get(name) == str(number).encode()


if __name__ == "__main__":
    stories = {"keeping": lambda: keeping(30), "reading": reading, "waiting": waiting, "counting": counting}
    stories.get(sys.argv[1], lambda: ending(*sys.argv[2:]))()
