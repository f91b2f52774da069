"""Print the packages that pyproject.toml asks for, one a line, so that they are a layer of their own.

    python requirements.py pyproject.toml EXTRA,EXTRA…

Standard library only: it runs in the image's build, before anything is installed.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def requirements(file: Path, extras: list[str]) -> list[str]:
    """Return the dependencies and those of the extras; an extra may name others of this project."""
    project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    optional: dict[str, list[str]] = project["optional-dependencies"]
    found = list(project["dependencies"])
    for extra in extras:
        if extra not in optional:
            raise SystemExit(f"EXTRAS: there is no extra {extra!r}; there are {', '.join(sorted(optional))}")
        found += optional[extra]
    return found


if __name__ == "__main__":
    wanted = [word for word in sys.argv[2].split(",") if word]
    sys.stdout.write("\n".join(requirements(Path(sys.argv[1]), wanted)) + "\n")
