"""What came of the zoo's programs, as a JSON document: written by the tests, read by `report`.

Each result replaces the last one of the same program and place, so that programs can be run one by one.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptrun.criu.provision import find

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catalogue import Place, Program

REPOSITORY = Path(__file__).parents[2]


def kept_in() -> Path | None:
    """Return the document that is asked for, if one is."""
    name = os.environ.get("CKPTRUN_ZOO_JSON")
    return Path(name) if name else None


@contextlib.contextmanager
def recorded(program: Program, place: Place) -> Iterator[dict[str, Any]]:
    """Note how a test ended, and what it adds to the yielded figures."""
    figures: dict[str, Any] = {}
    began = time.monotonic()
    error = "not finished"
    try:
        yield figures
        error = ""
    except BaseException as problem:
        error = (str(problem) or type(problem).__name__).splitlines()[0][:300]
        raise
    finally:
        if path := kept_in():
            seconds = time.monotonic() - began
            _add(
                path,
                f"{program.name} {place.value}",
                {**figures, "error": error, "seconds": round(seconds, 1)},
            )


def _add(path: Path, key: str, result: dict[str, Any]) -> None:
    here = machine()
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests may run side by side
        document = json.loads(path.read_text()) if path.exists() else {"results": {}}
        document["machine"] = here
        document["results"][key] = {**result, "date": here["date"]}
        beside = path.with_suffix(".tmp")
        beside.write_text(json.dumps(document, indent=1) + "\n")
        beside.replace(path)


def machine() -> dict[str, str]:
    """Return what the results hold for."""
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", ""),
        "processor": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "ckptrun": _said(sys.executable, "-m", "ckptrun", "--version"),
        "commit": _said("git", "-C", str(REPOSITORY), "rev-parse", "--short", "HEAD"),
        "criu": _criu(),
    }


def _criu() -> str:
    return ".".join(map(str, find().version))


def _said(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=False, cwd=REPOSITORY).stdout.strip()
