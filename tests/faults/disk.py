"""A small disk of a test's own, in a mount namespace of its own: read-only, full, nearly full, and well again.

It goes when the test goes, even when pytest is killed: the namespace lives as long as one process that dies with it.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from support.run import die_with_parent

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from support.run import Lab


class Disk:
    """A tmpfs that only programs started with `prefix` see.

    Args:
        lab: gets the disk as its store's place, and the prefix.
        options: of the mount: ``size=80m``, ``nr_inodes=200``.
    """

    def __init__(self, lab: Lab, options: str) -> None:
        self.place = lab.folder / "disk"
        self.place.mkdir()
        lab.store = f"file://{self.place}/store"
        script = f"mount -t tmpfs -o {options} none {self.place} && echo ready && read forever"
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"
        enter = ("nsenter", "--mount", "--target", str(self._holder.pid))
        self._enter = enter
        lab.prefix = (*enter, "sh", "-c", 'cd "$0" && exec "$@"', str(lab.work))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._holder.kill()
        self._holder.communicate()

    def run(self, *argv: str | Path) -> str:
        """Run a program that sees the disk; return its output."""
        argv = (*self._enter, *map(str, argv))
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    def remount(self, options: str) -> None:
        """Change the mount's options: ``ro``, ``rw``, ``size=…``."""
        self.run("mount", "-o", f"remount,{options}", self.place)

    def exhaust_inodes(self) -> None:
        """Let no file be made any more."""
        self.run(sys.executable, "-c", EXHAUST, self.place / "filler")

    def free_inodes(self) -> None:
        """Undo `exhaust_inodes`."""
        self.run("rm", "-r", self.place / "filler")


EXHAUST = """
import itertools, os, sys
os.mkdir(sys.argv[1])
try:
    for number in itertools.count():
        open(f"{sys.argv[1]}/{number}", "x").close()
except OSError:
    pass
"""
