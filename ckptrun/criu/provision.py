"""Find a CRIU that works here, or provide one without changing the system.

Called at every start (:func:`find`, a few milliseconds, no network), by ``ckptrun doctor --fix`` and
``make setup`` (:func:`provide`, downloads) and by ``doctor`` (:func:`check`). The order: the program that
CKPTRUN_CRIU names, the distribution's own if it is good, a private prefix that is already there.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ckptrun.core.health import Check
from ckptrun.criu import ownrights, probe
from ckptrun.criu.program import (
    MINIMUM,
    PYCRIU_FOLDER,
    BrokenPrefixError,
    Criu,
    open_prefix,
    parse_version,
    prefix_of,
    show_version,
    verify_prefix,
)
from ckptrun.errors import CkptrunError, MissingFeatureError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Criu", "check", "find", "prefix_home", "provide", "state_directory"]

SHARED_HOME = Path("/var/lib/ckptrun/criu")
"""Where root keeps prefixes, readable by all: an ordinary user's ckptrun uses what root's provided."""

_FIX = "run `ckptrun doctor --fix`, which provides one without changing the system"
_SYSTEM_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/usr/bin")
_PYCRIU_PLACES = ("/usr/lib/python3/dist-packages", "/usr/local/lib/python3/dist-packages")


_MOVABLE = "use ckptrun's own image; elsewhere `python -m ckptrun.criu.provision` may make one"


def state_directory(env: Mapping[str, str]) -> Path:
    """Return the user's state directory for ckptrun; it need not exist."""
    base = env.get("XDG_STATE_HOME") or Path(env.get("HOME") or Path.home(), ".local/state")
    return Path(base, "ckptrun")


def prefix_home(env: Mapping[str, str]) -> Path:
    """Return the folder that this user's new prefixes go to, one folder a version."""
    return SHARED_HOME if ownrights.is_root() else state_directory(env) / "criu"


def find(env: Mapping[str, str] | None = None) -> Criu:
    """Return the CRIU to use, without network.

    What was found out about a program is remembered; the first start after a change takes 0.3 s longer.

    Raises:
        MissingFeatureError: there is none, or CKPTRUN_CRIU names one that cannot be used.
    """
    env = os.environ if env is None else env
    refused: list[str] = []
    second_best: Criu | None = None
    for criu in _candidates(env, refused):
        findings = probe.examine_once(criu, state_directory(env))
        chosen = Criu(criu.argv, findings.version, criu.origin, criu.pycriu_path)
        if findings.good or (findings.usable and criu.origin == "CKPTRUN_CRIU"):
            return chosen
        if findings.usable:
            second_best = second_best or chosen
        elif criu.origin == "CKPTRUN_CRIU":
            raise MissingFeatureError(
                f"CKPTRUN_CRIU={env['CKPTRUN_CRIU']}: {findings.start_problem}",
                hint=f"point it at CRIU {show_version(MINIMUM)} or newer, or unset it and {_FIX}",
            )
        else:
            refused.append(f"{criu.binary} {findings.start_problem}")
    if second_best is None:
        raise _nothing_found(refused)
    return second_best


def find_movable(env: Mapping[str, str]) -> Criu:
    """Return the CRIU of the best private prefix, which can be copied to other machines; nothing is run.

    Raises:
        MissingFeatureError: there is none; the distribution's has its parts all over the system.
    """
    refused: list[str] = []
    for criu in _candidates(env, refused):
        if criu.prefix is not None:
            return criu
        refused.append(f"{criu.binary} cannot be moved")
    seen = f" ({'; '.join(refused)})" if refused else ""
    raise MissingFeatureError(
        f"no CRIU that can be moved to another container was found{seen}", hint=_MOVABLE
    )


def _nothing_found(refused: list[str]) -> MissingFeatureError:
    seen = f" ({'; '.join(refused)})" if refused else ""
    return MissingFeatureError(
        f"no CRIU {show_version(MINIMUM)} or newer that works on this machine was found{seen}", hint=_FIX
    )


def _candidates(env: Mapping[str, str], refused: list[str]) -> Iterator[Criu]:
    """Yield what there is, best first; say in ``refused`` what is not even to be tried."""
    if explicit := env.get("CKPTRUN_CRIU"):
        yield _explicit(Path(explicit), env)
        return
    if (binary := _on_path(env)) is not None:
        if (pycriu := _pycriu_for(binary, env)) is None:
            refused.append(f"{binary} comes without python3-pycriu")
        else:
            yield Criu((str(binary),), (), "distribution", pycriu)
    for prefix in _prefixes(env):
        try:
            yield open_prefix(prefix)
        except BrokenPrefixError as error:
            refused.append(str(error))


def _explicit(path: Path, env: Mapping[str, str]) -> Criu:
    """Return what CKPTRUN_CRIU names: a program, a private prefix, or the program in one."""
    prefix = path if path.is_dir() else prefix_of(path)
    try:
        if prefix is not None:
            return open_prefix(prefix, "CKPTRUN_CRIU")
    except BrokenPrefixError as error:
        raise MissingFeatureError(f"CKPTRUN_CRIU={path}: {error}", hint=f"unset it and {_FIX}") from error
    if not os.access(path, os.X_OK):
        raise MissingFeatureError(f"CKPTRUN_CRIU={path} is not a program", hint=f"unset it and {_FIX}")
    if (pycriu := _pycriu_for(path, env)) is None:
        raise MissingFeatureError(
            f"CKPTRUN_CRIU={path}: its Python package pycriu is not installed",
            hint="install python3-pycriu, or run `ckptrun doctor --fix`",
        )
    return Criu((str(path),), (), "CKPTRUN_CRIU", pycriu)


def _on_path(env: Mapping[str, str]) -> Path | None:
    """Return the distribution's program; an ordinary user's PATH often lacks sbin."""
    folders = [*env.get("PATH", "").split(":"), *_SYSTEM_FOLDERS]
    candidates = (Path(folder, "criu") for folder in folders if folder.startswith("/"))
    return next((path for path in candidates if os.access(path, os.X_OK) and path.is_file()), None)


def _pycriu_for(binary: Path, env: Mapping[str, str]) -> Path | None:
    """Return the folder of a pycriu for a CRIU outside any prefix; images read alike across near versions."""
    own = [path.parent for path in sorted(binary.parent.parent.glob("lib/python3*/*-packages/pycriu"))]
    places = [*own, *(Path(place) for place in _PYCRIU_PLACES), *(p / PYCRIU_FOLDER for p in _prefixes(env))]
    return next((place for place in places if (place / "pycriu/images").is_dir()), None)


def _prefixes(env: Mapping[str, str]) -> list[Path]:
    """Return the folders that are or should be private prefixes, newest version first."""
    if explicit := env.get("CKPTRUN_CRIU_PREFIX"):
        return [Path(explicit)]
    found: list[Path] = []
    for home in dict.fromkeys((SHARED_HOME, prefix_home(env), *_own_home(env))):
        versions = home.iterdir() if home.is_dir() else ()
        found += [path for path in versions if path.name[:1].isdigit() and path.is_dir()]
    return sorted(found, key=lambda path: parse_version(path.name), reverse=True)


def _own_home(env: Mapping[str, str]) -> Iterator[Path]:
    """Yield where an ordinary user's prefixes lie when XDG_STATE_HOME does not name another place for one run."""
    if not ownrights.is_root():  # root runs nothing out of a home directory that its environment names
        yield prefix_home({name: value for name, value in env.items() if name != "XDG_STATE_HOME"})


def provide(env: Mapping[str, str] | None = None) -> Criu:
    """Return a CRIU that works, downloading a private prefix if there is none; takes some 10 s then.

    Raises:
        MissingFeatureError: it could not be provided; the message says why and what to do instead.
    """
    env = os.environ if env is None else env
    try:
        criu = find(env)
        if (prefix := criu.prefix) is not None:
            verify_prefix(prefix)
        if probe.examine_once(criu, state_directory(env)).good or criu.prefix is not None:
            return criu
    except BrokenPrefixError:
        pass
    except MissingFeatureError:
        if env.get("CKPTRUN_CRIU") and _pycriu_for(Path(env["CKPTRUN_CRIU"]), env) is not None:
            raise  # what the user chose is at fault; another CRIU would not be used
    from ckptrun.criu import install  # noqa: PLC0415 - not part of a start

    explicit = env.get("CKPTRUN_CRIU_PREFIX")
    made = install.install(Path(explicit) if explicit else None, prefix_home(env), Path("/"))
    probe.Memory.of(state_directory(env)).remember(made, probe.examine(made))
    return find(env)


def check(criu: Criu, env: Mapping[str, str] | None = None) -> list[Check]:
    """Examine this CRIU afresh, every file of a private prefix included, and remember the findings."""
    state = state_directory(os.environ if env is None else env)
    findings = probe.examine(criu, state)
    probe.Memory.of(state).remember(criu, findings)
    having = ownrights.rights()
    who = having.value
    tcp = "are kept" if having is ownrights.Rights.FULL else "are closed"
    checks = [
        _check("criu program", _damage(criu), f"{criu.binary} ({criu.origin})", _FIX),
        _check("criu version", findings.start_problem, show_version(findings.version), _FIX),
    ]
    if findings.usable:
        checks += [
            _check(
                "criu check",
                findings.check_problem,
                f"passes as {who}",
                "give ckptrun what the message names (a capability, a kernel option), or use another machine",
            ),
            _check(
                "criu tcp",
                findings.tcp_problem,
                f"dumps TCP sockets as {who}; established connections {tcp}",
                "mend other failing checks first; else this kernel may need a newer CRIU: set CKPTRUN_CRIU",
            ),
        ]
    return checks


def _check(name: str, problem: str, detail: str, remedy: str) -> Check:
    return Check(name, not problem, problem or detail, remedy if problem else "")


def _damage(criu: Criu) -> str:
    try:
        if criu.prefix is not None:
            verify_prefix(criu.prefix)
    except BrokenPrefixError as error:
        return str(error)
    return ""


def main() -> int:
    """Provide CRIU and say which; for ``make setup``."""
    try:
        criu = provide()
    except CkptrunError as error:
        print(f"ckptrun: {error}", file=sys.stderr)  # noqa: T201 - a program's own words
        return error.exit_code
    print(f"ckptrun: CRIU {show_version(criu.version)} ({criu.origin}): {criu.binary}", file=sys.stderr)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
