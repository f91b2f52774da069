"""Make a private CRIU prefix from the distribution's packages of a newer suite.

Called by :mod:`ckptrun.criu.provision` when nothing usable is there. Knows which suites and packages to ask
for and how a prefix is laid out; apt's ways are :mod:`ckptrun.criu.debian`'s. The folder appears whole or not
at all.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ckptrun.criu import debian
from ckptrun.criu.probe import ask_version
from ckptrun.criu.program import (
    MINIMUM,
    PYCRIU_FOLDER,
    BrokenPrefixError,
    Criu,
    open_prefix,
    parse_version,
    seal_prefix,
    show_version,
    unsealed_program,
    verify_prefix,
)
from ckptrun.errors import MissingFeatureError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SELF_HELP = f"install CRIU {show_version(MINIMUM)} or newer yourself and set CKPTRUN_CRIU to its path"
# Neither is read by CRIU; they are half of what is unpacked.
_NOT_NEEDED = ("usr/share", "usr/lib/*/gconv", "usr/lib/python3", "etc", "usr/include", "usr/lib/locale")


def suites(release: dict[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the suites to ask, in order, and their components, for the distribution in os-release."""
    family = [release.get("ID", ""), *release.get("ID_LIKE", "").split()]
    if "ubuntu" in family:
        own = release.get("UBUNTU_CODENAME") or release.get("VERSION_CODENAME", "")
        return (own, f"{own}-updates", "devel"), ("main", "universe")
    if "debian" in family:
        return ("forky", "sid"), ("main",)
    name = release.get("PRETTY_NAME") or release.get("ID") or "this system"
    raise MissingFeatureError(
        f"CRIU cannot be provided on {name}: neither Debian nor Ubuntu", hint=_SELF_HELP
    )


def read_release(path: Path) -> dict[str, str]:
    """Read an os-release file."""
    pairs = (line.partition("=") for line in path.read_text(encoding="utf-8").splitlines() if "=" in line)
    return {key.strip(): value.strip().strip("\"'") for key, _, value in pairs}


def install(target: Path | None, home: Path, root: Path) -> Criu:
    """Make a prefix at ``target``, or at ``home``/<version>, and return its CRIU.

    Args:
        target: where it must be, or None.
        home: the folder of all prefixes; made if missing, readable by all.
        root: the file system whose ``etc`` is read; ``/`` but in tests.

    Raises:
        MissingFeatureError: no suite has a CRIU new enough, or the download failed.
    """
    debian.require_tools()
    release = read_release(root / "etc/os-release")
    names, components = suites(release)
    parent = home if target is None else target.parent
    parent.mkdir(parents=True, exist_ok=True)
    source = debian.archive(debian.machine_sources(root / "etc/apt"), release.get("VERSION_CODENAME", ""))
    if source is None:
        raise MissingFeatureError(f"apt knows no archive of {release.get('PRETTY_NAME')}", hint=_SELF_HELP)
    with _alone(parent), tempfile.TemporaryDirectory(prefix="ckptrun-apt-") as scratch:
        refusals = []
        for suite in names:
            work = Path(scratch, suite)
            work.mkdir()
            try:
                return _from_suite(
                    debian.PrivateApt(work, source.for_suite(suite, components)), suite, target, home
                )
            except MissingFeatureError as error:
                refusals.append(f"{suite}: {error.message}")
        raise MissingFeatureError(f"CRIU could not be provided ({'; '.join(refusals)})", hint=_SELF_HELP)


def _from_suite(apt: debian.PrivateApt, suite: str, target: Path | None, home: Path) -> Criu:
    apt.update()
    offered = apt.candidate("criu") or ""
    version = parse_version(offered)
    if version < MINIMUM:
        raise MissingFeatureError(f"it has CRIU {offered or 'not at all'}")
    place = target or home / show_version(version)
    if (there := _intact(place)) is not None:
        return there  # another process made it while this one waited for the lock
    packages = apt.closure("criu")
    packages["python3-pycriu"] = apt.candidate("python3-pycriu") or ""
    debs = apt.download(packages)
    return build(place, lambda folder: debian.unpack(debs, folder), {"suite": suite, "packages": packages})


def _intact(place: Path) -> Criu | None:
    try:
        verify_prefix(place)
        return open_prefix(place)
    except BrokenPrefixError:
        return None


def build(place: Path, fill: Callable[[Path], None], made_from: dict[str, object]) -> Criu:
    """Fill a fresh folder beside ``place``, try it, seal it, and put it there in one step.

    What stood at ``place`` before is replaced.
    """
    folder = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        fill(folder)
        _keep_what_is_needed(folder)
        version, problem = ask_version(unsealed_program(folder, ()).argv)
        if problem:
            raise MissingFeatureError(f"the CRIU of its packages {problem}")
        seal_prefix(folder, version, made_from)
        folder.chmod(0o755)  # readable by every user of the machine
        _replace(folder, place)
    except BrokenPrefixError as error:
        raise MissingFeatureError(str(error)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return open_prefix(place)


def _keep_what_is_needed(folder: Path) -> None:
    pycriu = folder / "usr/lib/python3/dist-packages/pycriu"
    if not pycriu.is_dir():
        raise BrokenPrefixError("its packages hold no pycriu")
    (folder / PYCRIU_FOLDER).mkdir()
    pycriu.rename(folder / PYCRIU_FOLDER / "pycriu")
    for pattern in _NOT_NEEDED:
        for path in folder.glob(pattern):
            shutil.rmtree(path)


def _replace(folder: Path, place: Path) -> None:
    aside = folder.with_name(f"{folder.name}.old")
    try:
        place.rename(aside)
    except FileNotFoundError:
        folder.rename(place)
        return
    folder.rename(place)
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _alone(parent: Path) -> Iterator[None]:
    """Let one process at a time make a prefix here; the others wait and find it made."""
    descriptor = os.open(parent / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
