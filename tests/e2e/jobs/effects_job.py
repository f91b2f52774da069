"""A job with effects on a service that remembers every call, at OUTSIDE. After a restore it goes another way."""

from __future__ import annotations

import os
import time
import urllib.request
from pathlib import Path

from ckptrun import job
from ckptrun.job import effects

HOLD = Path("hold")


def call(what: str) -> str:
    with urllib.request.urlopen(f"{os.environ['OUTSIDE']}/{what}") as answer:
        return answer.read().decode()


def release(seat: str, key: str, result: str) -> None:
    call(f"release-{seat}-{key}-{result}")


@effects.sender("mail")
def mail(payload: dict[str, str], key: str) -> None:
    call(f"mail-{payload['text']}-{key}")


def main() -> None:
    effects.once("open", lambda: call("open"))
    print("key", effects.key("step"), flush=True)
    effects.deferred("welcome", {"text": "hello"}, "mail")
    job.checkpoint(wait=True)
    restored = job.restores() > 0
    print("charged", effects.once("charge", lambda: call("charge")), effects.key("step"), flush=True)
    effects.compensable("a", lambda: call("take-a"), release, args=["a"])
    if not restored:
        effects.compensable("b", lambda: call("take-b"), release, args=["b"])
    effects.deferred("bye", {"text": "second" if restored else "first"}, "mail")
    print("ready", flush=True)
    while HOLD.exists():
        time.sleep(0.01)
    print("done", flush=True)


if __name__ == "__main__":
    main()
