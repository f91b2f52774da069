"""Fetch packages with the machine's own apt, into private directories, without changing the system.

Called by :mod:`ckptrun.criu.install`. Knows apt's sources and apt's options; does not know what CRIU is.
The mirror and its signing key are read from the machine's own sources, so that a local mirror or an
air-gapped copy is honoured; no address stands in this project.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptrun.errors import MissingFeatureError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

_INSTALL_LINE = re.compile(r"^Inst (?P<name>[^ :]+)\S* \((?P<version>\S+) ")
_POCKET = re.compile(r"-(security|updates|backports|proposed|debug)|/")
# Hooks of the machine's apt (PackageKit, AppStream, image cleaners) and foreign architectures do not concern
# a private download; as an ordinary user the hooks would also fail it.
_DROPPED_OPTIONS = ("APT::Update::", "APT::Architectures", "APT::Default-Release", "DPkg::")


@dataclass(frozen=True)
class Source:
    """One enabled binary-package source of the machine, of one address.

    Args:
        uri: the archive's address, as written.
        suites: as written: ``bookworm``, ``bookworm-updates``, …
        components: ``main``, ``universe``, …
        options: options that go with the address, by their deb822 names (``Signed-By``, ``Trusted``, …).
    """

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()

    def for_suite(self, suite: str, components: Sequence[str]) -> str:
        """Return a deb822 stanza for another suite of the same archive, packages only."""
        lines = ["Types: deb", f"URIs: {self.uri}", f"Suites: {suite}", f"Components: {' '.join(components)}"]
        lines += [f"{name}: {value}" for name, value in self.options]
        return "\n".join([*lines, "Targets: Packages", ""])


_ONE_LINE = re.compile(
    r"^deb\s+(?:\[(?P<options>[^\]]*)\]\s*)?(?P<uri>\S+)\s+(?P<suite>\S+)\s*(?P<components>.*)$"
)
_OPTION_NAMES = {"signed-by": "Signed-By", "trusted": "Trusted", "check-valid-until": "Check-Valid-Until"}


def parse_one_line(text: str) -> list[Source]:
    """Parse the ``deb [options] uri suite component…`` format; lines that are not that are skipped."""
    found = []
    for raw in text.splitlines():
        match = _ONE_LINE.match(raw.split("#", 1)[0].strip())
        if match is None:
            continue
        pairs = (word.partition("=") for word in (match["options"] or "").split())
        options = tuple((_OPTION_NAMES[k.lower()], v) for k, _, v in pairs if k.lower() in _OPTION_NAMES)
        found.append(Source(match["uri"], (match["suite"],), tuple(match["components"].split()), options))
    return found


def parse_deb822(text: str) -> list[Source]:
    """Parse the stanza format of ``*.sources``; disabled and source-only stanzas are skipped."""
    return [source for fields in _stanzas(text) for source in _from_stanza(fields)]


def _from_stanza(fields: Mapping[str, str]) -> Iterator[Source]:
    if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in {
        "no",
        "false",
    }:
        return
    options = tuple((name, fields[key]) for key, name in _OPTION_NAMES.items() if key in fields)
    for uri in fields.get("uris", "").split():
        yield Source(
            uri, tuple(fields.get("suites", "").split()), tuple(fields.get("components", "").split()), options
        )


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    fields: dict[str, str] = {}
    last = ""
    for raw in [*text.splitlines(), ""]:
        if raw.startswith("#"):
            continue
        if not raw.strip():
            if fields:
                yield fields
            fields, last = {}, ""
        elif raw[0] in " \t" and last:
            fields[last] += "\n" + raw  # an inlined key keeps its lines
        else:
            key, _, value = raw.partition(":")
            last = key.strip().lower()
            fields[last] = value.strip()


def machine_sources(etc_apt: Path) -> list[Source]:
    """Read every enabled source under ``etc_apt``, in apt's order."""
    files = [etc_apt / "sources.list"]
    if (parts := etc_apt / "sources.list.d").is_dir():
        files += sorted(parts.iterdir())
    found: list[Source] = []
    for file in files:
        parse = {".list": parse_one_line, ".sources": parse_deb822}.get(file.suffix)
        if parse is not None and file.is_file():
            found += parse(file.read_text(encoding="utf-8", errors="replace"))
    return found


def archive(sources: Iterable[Source], codename: str) -> Source | None:
    """Return the source of the distribution's own archive: it serves the release, not a pocket of it."""
    plain = [
        s for s in sources if "main" in s.components and any(not _POCKET.search(name) for name in s.suites)
    ]
    own = [s for s in plain if codename in s.suites]
    return next(iter(own or plain), None)


class PrivateApt:
    """The machine's apt, with every directory it writes moved under ``root``.

    Args:
        root: a writable directory that this object owns.
        stanza: the one source to use, in deb822 format.
    """

    def __init__(self, root: Path, stanza: str) -> None:
        self._root = root
        for name in ("lists/partial", "cache/archives/partial", "dpkg", "debs"):
            (root / name).mkdir(parents=True, exist_ok=True)
        (root / "dpkg/status").touch()  # nothing is installed: the whole closure is wanted
        (root / "private.sources").write_text(stanza, encoding="utf-8")
        (root / "apt.conf").write_text(self._configuration(), encoding="utf-8")

    def _configuration(self) -> str:
        dump = _output(["apt-config", "dump"])
        kept = [line for line in dump.splitlines() if not line.startswith(_DROPPED_OPTIONS)]
        architecture = next(line.split('"')[1] for line in kept if line.startswith("APT::Architecture "))
        private = {
            "APT::Architectures::": architecture,
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": "/dev/null",
            "Dir::Etc::sourcelist": self._root / "private.sources",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::State::lists": self._root / "lists",
            "Dir::State::status": self._root / "dpkg/status",
            "Dir::State::extended_states": self._root / "dpkg/extended_states",
            "Dir::Cache": self._root / "cache",
            "Acquire::Languages": "none",
            "Acquire::Retries": "5",
            "APT::Install-Recommends": "false",
        }
        return "\n".join([*kept, *(f'{key} "{value}";' for key, value in private.items()), ""])

    def _run(self, *argv: str) -> str:
        return _output(argv, cwd=self._root / "debs", env={"APT_CONFIG": str(self._root / "apt.conf")})

    def update(self) -> None:
        """Fetch and verify the suite's package list."""
        self._run("apt-get", "update", "--error-on=any")

    def candidate(self, package: str) -> str | None:
        """Return the version of ``package`` that the suite has, or None."""
        match = re.search(r"^ *Candidate: (\S+)$", self._run("apt-cache", "policy", package), re.MULTILINE)
        return None if match is None or match[1] == "(none)" else match[1]

    def closure(self, package: str) -> dict[str, str]:
        """Return ``package`` and what it needs as {name: version}, as apt resolves it for an empty system."""
        plan = self._run("apt-get", "install", "--simulate", "--no-install-recommends", package)
        matches = (_INSTALL_LINE.match(line) for line in plan.splitlines())
        return {match["name"]: match["version"] for match in matches if match is not None}

    def download(self, packages: Mapping[str, str]) -> list[Path]:
        """Download these packages, verified against the signed list, and return the files."""
        self._run("apt-get", "download", *(f"{name}={version}" for name, version in sorted(packages.items())))
        return sorted((self._root / "debs").glob("*.deb"))


def unpack(debs: Iterable[Path], target: Path) -> None:
    """Lay the packages' files out under ``target``; no maintainer script runs."""
    for deb in debs:
        _output(["dpkg", "-x", str(deb), str(target)])


def require_tools() -> None:
    """Raise MissingFeatureError where apt or dpkg is not to be had."""
    for tool in ("apt-get", "apt-config", "dpkg"):
        if shutil.which(tool) is None:
            raise MissingFeatureError(
                f"CRIU cannot be provided here: {tool} is not installed",
                hint="install CRIU 4.2.1 or newer yourself and set CKPTRUN_CRIU to its path",
            )


def _output(argv: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run one tool in the C locale and return its output; raise MissingFeatureError with its last words."""
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive", **(env or {})}
    done = subprocess.run(
        list(argv),
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        words = "; ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-3:])
        raise MissingFeatureError(
            f"{' '.join(argv[:2])} failed: {words}", hint="see that `apt-get update` works here and try again"
        )
    return done.stdout
