"""Finds out before anything is made whether the command can be started at all, and what is to be said of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ckptrun.errors import CommandNotFoundError, NotExecutableError

if TYPE_CHECKING:
    from ckptrun.settings import RunSettings


def check_command(settings: RunSettings) -> None:
    """Find out before anything is made whether the command can be started at all.

    Raises:
        CommandNotFoundError, NotExecutableError: as a shell's 127 and 126.
    """
    program = settings.command[0]
    path = settings.environment.get("PATH", os.defpath)
    found = shutil.which(program, path=path) or ("/" in program and shutil.which(str(settings.cwd / program)))
    if found:
        check_interpreter(Path(found))
        return
    if "/" in program and (settings.cwd / program).exists():
        raise NotExecutableError(
            f"{program} is not executable", hint="make it so (chmod +x), or name its interpreter"
        )
    if "/" not in program and any((Path(folder) / program).is_file() for folder in path.split(":")):
        raise NotExecutableError(f"{program} is on PATH and not executable", hint="make it so (chmod +x)")
    raise CommandNotFoundError(f"there is no command {program}", hint="check its spelling and PATH")


def check_interpreter(script: Path) -> None:
    """Find out whether a script's interpreter is there: the kernel would only say that "it" does not exist.

    Raises:
        CommandNotFoundError: it is not.
    """
    try:
        with script.open("rb") as file:
            line = file.readline(256)
    except OSError:
        return
    words = os.fsdecode(line[2:]).split() if line.startswith(b"#!") else []
    if words and not Path(words[0]).exists():
        raise CommandNotFoundError(
            f"{script} wants the interpreter {words[0]}, which does not exist",
            hint="install it, or correct the script's first line",
        )


def notices(settings: RunSettings) -> list[str]:
    """Return what to tell the user about the job's environment."""
    notices = []
    if settings.withheld:
        names = ", ".join(settings.withheld)
        notices.append(f"{names}: kept from the job, as the store's; --pass-env NAME lets it have one")
    if settings.uncapped:
        names = ", ".join(settings.uncapped)
        notices.append(f"{names}: set already, so --portable-cpu leaves them as they are")
    return notices
