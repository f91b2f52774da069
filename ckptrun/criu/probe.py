"""Does this CRIU work on this machine, for this user? The answers, and a small file that remembers them.

Called by :mod:`ckptrun.criu.provision`. Three questions, cheap ones first: does it start and say a version
new enough, does ``criu check`` pass, can it dump TCP sockets (tried on a process of our own, in fresh
namespaces). As an ordinary user everything runs in a user namespace, as the job's capsule will.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ckptrun.criu import ownrights
from ckptrun.criu.ownrights import Rights
from ckptrun.criu.program import MINIMUM, Criu, parse_version, show_version
from ckptrun.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

_TIMEOUT = 60.0  # seconds for any one question; they take 0.1
_FAILURES_KEPT = 3600.0  # seconds: a machine's configuration may be mended
_ENTRIES_KEPT = 16

_ERROR_LINE = re.compile(
    r"^(?:\(\d+\.\d+\)\s+)?(?:Error|Warn)\s+\([^)]*\): (?P<words>.*)$|^(?P<plain>CRIU needs .*)$"
)
# Seen on machines where dump and restore work. rlimit: no CAP_SYS_RESOURCE. The TCP words: an ordinary user,
# whose established connections are closed at a dump; the TCP question below tries exactly that.
_HARMLESS = re.compile(
    r"rlimit: Can't setup RLIMIT_NOFILE|kdat cache|XDG_RUNTIME_DIR|exited, status="
    r"|Dirty tracking is OFF|Does not look good"
)
_HARMLESS_UNPRIVILEGED = re.compile(
    r"net: Unexpected error: -1\(Operation not permitted\)|TCP repair mode ON"
)


@dataclass(frozen=True)
class Findings:
    """What was found out about one CRIU; an empty problem means that all is well.

    Args:
        version: () when it does not start.
        start_problem: it does not start, or is too old: not to be used at all.
        check_problem: what ``criu check`` objects to.
        tcp_problem: why a process with TCP sockets could not be dumped.
    """

    version: tuple[int, ...]
    start_problem: str = ""
    check_problem: str = ""
    tcp_problem: str = ""

    @property
    def usable(self) -> bool:
        """It runs and is new enough."""
        return not self.start_problem

    @property
    def good(self) -> bool:
        """Nothing is wrong with it here."""
        return not (self.start_problem or self.check_problem or self.tcp_problem)


def examine(criu: Criu, scratch: Path | None = None) -> Findings:
    """Ask all three questions afresh; takes about 0.3 s.

    Args:
        criu: the program.
        scratch: a folder for temporary files where there is none; it need not be there yet.

    Raises:
        ConfigurationError: there is no place for temporary files.
    """
    version, problem = ask_version(criu.argv)
    if not problem and version < MINIMUM:
        problem = f"version {show_version(version)} is older than {show_version(MINIMUM)}"
    if problem:
        return Findings(version, problem)
    return Findings(version, check_problem=_ask_check(criu), tcp_problem=_ask_tcp(criu, scratch))


def ask_version(argv: Sequence[str]) -> tuple[tuple[int, ...], str]:
    """Return the version that the program prints, or () and why it does not."""
    done = _run([*argv, "--version"])
    version = parse_version(done.stdout) if done.returncode == 0 else ()
    return version, "" if version else f"does not start: {_last_words(done)}"


def _ask_check(criu: Criu) -> str:
    having = ownrights.rights()
    # A container's own /proc/sys is read-only; a capsule's is not.
    fresh = {
        Rights.USER: ["unshare", "-Urpf", "--mount-proc"],
        Rights.NO_NET_ADMIN: ["unshare", "-pf", "--mount-proc"],
    }
    namespaces = fresh.get(having, [])
    options = [] if having is Rights.FULL else ["--unprivileged"]
    harmless = [_HARMLESS] if having is Rights.FULL else [_HARMLESS, _HARMLESS_UNPRIVILEGED]
    done = _run([*namespaces, *criu.argv, "check", *options])
    if done.returncode == 0:
        return ""
    errors = [
        words for words in _complaints(done.stderr) if not any(known.search(words) for known in harmless)
    ]
    if errors:
        return errors[0]
    # A bad exit status with none but harmless complaints is not held against it; without any words it is.
    return "" if _complaints(done.stderr) else _last_words(done)


def _ask_tcp(criu: Criu, scratch: Path | None = None) -> str:
    from tempfile import TemporaryDirectory  # noqa: PLC0415 - not needed when the answer is remembered

    with TemporaryDirectory(prefix="ckptrun-selftest-", dir=_temporary(scratch)) as folder:
        own_network = "no"
        namespaces, options = ["unshare", "-pf", "--mount-proc"], ["--unprivileged", "--tcp-close"]
        match ownrights.rights():
            case Rights.FULL:
                namespaces, own_network = ["unshare", "-npf", "--mount-proc"], "yes"
                options = ["--tcp-established", "--network-lock", "nftables"]
            case Rights.USER:
                namespaces = ["unshare", "-Urpf", "--mount-proc"]
            case Rights.NO_NET_ADMIN:
                pass
        script = Path(__file__).with_name("selftest.py")
        python = [sys.executable, "-I", "-S", str(script), folder, own_network]
        done = _run([*namespaces, *python, *options, "--", *criu.argv])
        if done.returncode == 0:
            return ""
        log = Path(folder) / "dump.log"
        said = _complaints(log.read_text(encoding="utf-8", errors="replace")) if log.exists() else []
        causes = [
            words
            for words in said
            if not _HARMLESS.search(words) and not _HARMLESS_UNPRIVILEGED.search(words)
        ]
        return causes[0] if causes else _last_words(done)


def _temporary(scratch: Path | None) -> Path:
    """Return where temporary files go: /tmp and the like, or `scratch` under a read-only root."""
    from tempfile import gettempdir  # noqa: PLC0415 - see `_ask_tcp`

    try:
        return Path(gettempdir())
    except FileNotFoundError as error:
        with contextlib.suppress(OSError):
            if scratch is not None:
                scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
                return scratch
        raise ConfigurationError(
            f"there is no place for temporary files: {error.strerror}",
            hint="set TMPDIR to a folder that can be written; under a read-only root, mount an emptyDir there",
        ) from error


def complaint_of(argv: Sequence[str], stdin: str = "") -> str:
    """Run a program and return its last words if it failed, '' if it did not."""
    done = _run(argv, stdin)
    return "" if done.returncode == 0 else _last_words(done)


def _run(argv: Sequence[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            list(argv),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(list(argv), 124, "", f"no answer within {_TIMEOUT:.0f} s")
    except OSError as error:
        return subprocess.CompletedProcess(list(argv), 127, "", f"{argv[0]}: {error.strerror}")


def _complaints(text: str) -> list[str]:
    matches = (_ERROR_LINE.match(line.strip()) for line in text.splitlines())
    return [match["words"] or match["plain"] for match in matches if match is not None]


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return lines[-1].strip() if lines else f"exit status {done.returncode} without a word"


class Memory:
    """Findings kept in a file, by all that could change them: program, its time, kernel, user, capabilities.

    Args:
        path: the JSON file; one that is missing, unreadable or damaged is the same as an empty one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def of(cls, state: Path) -> Self:
        """Return the one in the user's state directory."""
        return cls(state / "criu-findings.json")

    def recall(self, criu: Criu) -> Findings | None:
        """Return what is remembered and still valid, or None; takes well under a millisecond."""
        entry: Any = self._load().get(_key(criu))
        try:
            findings = Findings(**{**entry["findings"], "version": tuple(entry["findings"]["version"])})
            age = time.time() - entry["at"]
        except (TypeError, KeyError):
            return None
        return findings if findings.good or 0 <= age < _FAILURES_KEPT else None

    def remember(self, criu: Criu, findings: Findings) -> None:
        """Keep the findings; where the file cannot be written, the next start asks again."""
        entries = dict(list(self._load().items())[-_ENTRIES_KEPT:])
        entries.pop(_key(criu), None)  # the newest stands last
        entries[_key(criu)] = {"findings": asdict(findings), "at": time.time()}
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            temporary.write_text(json.dumps(entries, indent=1), encoding="utf-8")
            temporary.replace(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def _load(self) -> dict[str, Any]:
        try:
            entries = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return entries if isinstance(entries, dict) else {}


def _key(criu: Criu) -> str:
    try:
        changed = criu.binary.stat().st_mtime_ns
    except OSError:
        changed = 0
    return (
        f"{criu.binary}|{changed}|{os.uname().release}|{os.geteuid()}|{ownrights.effective_capabilities():x}"
    )


def examine_once(criu: Criu, state: Path) -> Findings:
    """Return what is remembered about this CRIU, or examine it now and remember."""
    memory = Memory.of(state)
    findings = memory.recall(criu)
    if findings is None:
        findings = examine(criu, state)
        memory.remember(criu, findings)
    return findings
