"""Run a ready-made hook's program as `hook_programs` does, in a fork of this process: its modules are loaded once.

For programs with large packages, which start slowly, and for tests that call them many times.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from typing import Any

from support.hook_programs import HOOKS, Answer, context
from support.processes import PATIENCE, POLL_SECONDS, die_with_parent


@dataclass
class Forked:
    """A hook's call that is under way."""

    pid: int
    out: Any
    err: Any
    status: int | None = None

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> Answer:
        """Wait for its end, not for that of processes it leaves behind."""
        deadline = time.monotonic() + PATIENCE
        while self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = status
            elif time.monotonic() > deadline:
                self.kill()
            else:
                time.sleep(POLL_SECONDS / 5)
        texts = []
        for file in (self.out, self.err):
            file.seek(0)
            texts.append(file.read().decode())
            file.close()
        return Answer(os.waitstatus_to_exitcode(self.status), *texts)


def start(name: str, given: dict[str, Any]) -> Forked:
    """Start the program; its standard input has the context."""
    given_file, out, err = (tempfile.TemporaryFile() for _ in range(3))  # noqa: SIM115 - `Forked` closes them
    given_file.write(json.dumps(given).encode())
    given_file.seek(0)
    pid = os.fork()
    if pid:
        given_file.close()
        return Forked(pid, out, err)
    code = 1
    try:
        die_with_parent()
        os.setsid()
        for descriptor, file in enumerate((given_file, out, err)):
            os.dup2(file.fileno(), descriptor)
        for number, closed in ((0, "r"), (1, "w"), (2, "w")):
            setattr(sys, ("stdin", "stdout", "stderr")[number], os.fdopen(number, closed))
        program = HOOKS / name / "hook.py"
        for module in [m for m in sys.modules if _is_a_hooks(m)]:
            del sys.modules[
                module
            ]  # another hook's, of the same name: a program of its own would not have it
        sys.path.insert(0, str(program.parent))
        sys.argv = [str(program)]
        runpy.run_path(str(program), run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - as the interpreter says it
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _is_a_hooks(module: str) -> bool:
    return (getattr(sys.modules[module], "__file__", None) or "").startswith(f"{HOOKS}/")


def call(name: str, phase: str, **fields: Any) -> Answer:
    """Run the program for one phase."""
    return start(name, context(phase, **fields)).wait()
