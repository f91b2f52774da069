"""Runs a job that waits for the file ``go``: once undisturbed, once killed and restored on the way."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from support.processes import PATIENCE, Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from support.run import Lab, Run


def undisturbed(lab: Lab, *words: object) -> str:
    """Return what a Python job prints when it runs without ckptrun."""
    with tempfile.TemporaryDirectory() as folder:  # a short path: sockets lie there
        Path(folder).chmod(0o755)  # for children that become somebody else
        Path(folder, "go").touch()
        done = subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=folder,
            env=lab.env | {"TMPDIR": folder},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def killed_twice(
    lab: Lab,
    *words: object,
    options: Iterable[str] = (),
    between: Callable[[Run], None] = lambda _: None,
) -> Result:
    """Run a Python job, checkpoint and kill it twice, then let it end.

    Args:
        lab: where.
        words: the script and its arguments.
        options: for ckptrun.
        between: called after each restore, with the job running.
    """
    run = lab.start(sys.executable, *words, options=options)
    run.prints("ready\n")
    for _ in range(2):
        run.checkpoint()
        run.restored(run.kill_job)
        between(run)
    (lab.work / "go").touch()
    return run.wait()


def expect_same(lab: Lab, *words: object, options: Iterable[str] = ()) -> None:
    """Fail unless the job prints, killed twice, what it prints undisturbed."""
    wanted = undisturbed(lab, *words)
    result = killed_twice(lab, *words, options=options)
    differing = [
        pair for pair in zip_longest(result.out.splitlines(), wanted.splitlines()) if pair[0] != pair[1]
    ]
    assert (result.code, differing) == (0, []), f"found, wanted: {differing}\n{result.err}"
