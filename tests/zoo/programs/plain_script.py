"""A script with nothing special, for launchers: a state, a file written at every step."""

from __future__ import annotations

from pathlib import Path

from pace import report, sha, steps


def main() -> None:
    state = ""
    with Path("states.txt").open("w") as log:
        for step in steps(100):
            state = sha(state, step)
            log.write(f"{step} {state}\n")
            log.flush()
    report(state)


if __name__ == "__main__":
    main()
