"""The folders where the job and the supervisor meet: made for one run, shown to the job at constant paths.

``notify``: the socket, and the folder ``r`` of the sockets that take replies. ``state``: the page, and the
environment of today. ``sdk``: ``ckptrun.job`` for any interpreter. The job may write into ``r``, nowhere else.
"""

from __future__ import annotations

import json
import os
import py_compile
import shutil
import sys
from contextlib import suppress
from importlib.util import cache_from_source
from pathlib import Path
from typing import TYPE_CHECKING

import ckptrun
from ckptrun.capsule.helper import HIDDEN
from ckptrun.capsule.visit import here
from ckptrun.job import _page

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptrun.capsule.visit import Place

NOTIFY, STATE, SDK = "notify", "state", "sdk"
SOCKET = f"{HIDDEN}/{NOTIFY}/socket"
READ_ONLY = frozenset({STATE, SDK})
OWN = tuple(f"{HIDDEN}/{name}" for name in (NOTIFY, STATE, SDK))
"""In the job's eyes."""
ENVIRONMENT_STEP = 1 << 18
"""The environment's file has a multiple of this many bytes: a process that was reading it when it was frozen finds a
file of the same size after its restore, which CRIU insists on."""

_INIT = """\
\"\"\"ckptrun, as a job finds it: `ckptrun.job` is this run's; the rest is what the interpreter has installed.\"\"\"

import os
import sys

__version__ = {version!r}
__path__ += [
    folder
    for folder in (os.path.join(place, "ckptrun") for place in sys.path)
    if folder not in __path__ and os.path.isfile(os.path.join(folder, "__init__.py"))
]
"""


class Rendezvous:
    """The folders of one run.

    Args:
        folder: they lie in it.
        owner: uid and gid of the job, if they are not this process's.
        there: runs what makes files of the job's.
        inside: where the job sees them.
    """

    def __init__(
        self, folder: Path, owner: tuple[int, int] | None, inside: str = HIDDEN, there: Place = here
    ) -> None:
        self._folder = folder
        self.senders = f"{inside}/{NOTIFY}/r"
        """The folder for replies as the addresses of the job's sockets name it."""
        self._owner = owner
        self._there = there
        self.notify = folder / NOTIFY
        self.replies = folder / NOTIFY / "r"
        self.page = folder / STATE / "page"

    @property
    def shared(self) -> dict[str, Path]:
        """For `CapsuleSpec.shared`."""
        return {name: self._folder / name for name in (NOTIFY, STATE, SDK)}

    def make(self) -> None:
        """Make them, anew. Raises OSError."""
        self.remove()
        for folder in (self._folder, *self.shared.values()):
            folder.mkdir(parents=True)
            folder.chmod(0o755)
        self.sweep()
        self.page.write_bytes(bytes(_page.SIZE))
        self.page.chmod(0o644)
        _install(self._folder / SDK / "ckptrun")

    def keep(self) -> None:
        """Use them as they are: a job sees them that an earlier process has made them for. Raises OSError."""
        (self.notify / "socket").unlink(missing_ok=True)

    def sweep(self) -> None:
        """Leave no reply socket of an incarnation to the next one. Raises OSError."""
        shutil.rmtree(self.replies, ignore_errors=True)
        self.replies.mkdir(exist_ok=True)
        self.replies.chmod(0o1777)  # the job may change its user; nobody else comes this far

    def tell_environment(self, environment: Mapping[str, str]) -> None:
        """Say what the job would be started with today. Raises OSError."""
        text = json.dumps(dict(environment)).encode()  # with escapes: also for what is no UTF-8
        text = text.ljust(-(-len(text) // ENVIRONMENT_STEP) * ENVIRONMENT_STEP)
        self._there(lambda: self._write_environment(text))

    def _write_environment(self, text: bytes) -> None:
        path = self._folder / STATE / "environment.json"
        temporary = path.with_suffix(".new")
        temporary.unlink(missing_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            if self._owner:
                os.fchown(fd, *self._owner)
            file.write(text)
        temporary.replace(path)

    def remove(self) -> None:
        """Remove them."""
        shutil.rmtree(self._folder, ignore_errors=True)


def job_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return a job's environment with what leads it to the folders."""
    paths = [path for path in (environment.get("PYTHONPATH"), f"{HIDDEN}/{SDK}") if path]
    return {**environment, "NOTIFY_SOCKET": SOCKET, "PYTHONPATH": os.pathsep.join(paths)}


def _install(package: Path) -> None:
    """Copy the SDK, compiled for this interpreter: what a job cannot write it would compile again each time.

    What this interpreter has compiled already is copied with its source, whose time and size it names.
    """
    source = Path(ckptrun.__file__).parent / "job"
    shutil.copytree(source, package / "job", ignore=_other_versions)
    (package / "__init__.py").write_text(_INIT.format(version=ckptrun.__version__), encoding="utf-8")
    for path in package.rglob("*.py"):
        if not Path(cache_from_source(str(path))).exists():
            with suppress(py_compile.PyCompileError, OSError):
                py_compile.compile(str(path), dfile=f"{HIDDEN}/{SDK}/{path.relative_to(package.parent)}")
    for folder, _, files in os.walk(package):
        Path(folder).chmod(0o755)
        for name in files:
            (Path(folder) / name).chmod(0o644)


def _other_versions(folder: str, names: list[str]) -> list[str]:
    """Return what another version of Python has compiled, or is compiling now."""
    mine = f".{sys.implementation.cache_tag}.pyc"
    return [name for name in names if not name.endswith(mine)] if Path(folder).name == "__pycache__" else []
