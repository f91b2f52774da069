"""logging with rotation: files renamed in turn."""

from __future__ import annotations

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

from pace import report, sha, steps


def main() -> None:
    handler = RotatingFileHandler("app.log", maxBytes=2000, backupCount=30)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
    log = logging.getLogger("zoo")
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    state = ""
    for step in steps(120):
        state = sha(state, step)
        for line in range(3):
            log.info("step %d line %d state %s", step, line, state)
    handler.close()
    report([(path.name, path.read_bytes()) for path in sorted(Path().glob("app.log*"))])


if __name__ == "__main__":
    main()
