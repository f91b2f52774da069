"""Answers what commands ask of this run over the control socket."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from ckptrun.core.restart import words
from ckptrun.errors import DumpError
from ckptrun.supervisor.control import ControlServer, Message, Reply, failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptrun.core.state import State
    from ckptrun.settings import RunSettings
    from ckptrun.supervisor.parts import Parts
    from ckptrun.supervisor.shell import Shell


def serve(shell: Shell, parts: Parts, settings: RunSettings) -> ControlServer:
    """Start answering; requests are carried out by the loop."""
    started = time.monotonic()

    def handle(request: Message, reply: Reply) -> None:
        shell.enqueue(lambda: answer(request, reply))

    def answer(request: Message, reply: Reply) -> None:
        match request.get("request"):
            case "status":
                reply({"ok": True, **_status(shell, parts, time.monotonic() - started)})
            case "checkpoint":
                shell.request(_telling(reply), wait=bool(request.get("wait")))
            case "stop":
                shell.at_end(lambda: reply({"ok": True, "id": shell.newest()}))
                shell.stop()

    server = ControlServer(settings.run_dir, handle)
    server.start()
    return server


def _telling(reply: Reply) -> Callable[[str | None, str | None], None]:
    def tell(checkpoint: str | None, error: str | None) -> None:
        reply(failure(DumpError(error)) if error is not None else {"ok": True, "id": checkpoint})

    return tell


def _status(shell: Shell, parts: Parts, uptime: float) -> Message:
    incarnation = shell.incarnation
    return {
        "pid": os.getpid(),
        "job_pid": incarnation.job_pid() if incarnation else None,
        "incarnation": incarnation.number if incarnation else 0,
        "uptime_seconds": uptime,
        "staging_bytes": parts.arena.held,
        "status": parts.calls.status,
        **figures(shell.state, time.monotonic()),
    }


def figures(state: State, now: float) -> dict[str, object]:
    """Return what the machine knows of the run, in the words of ``ckptrun status --json``; `now` is monotonic."""
    failure, due = state.last_failure, state.cadence.due
    return {
        "restarts": state.restarts,
        "last_failure": None if failure is None else words(failure),
        "next_checkpoint_seconds": max(due - now, 0.0) if due is not None else None,
        "current": f"{state.phase}, dumping {state.dump.id}" if state.dump else str(state.phase),
        "held_back": _held_back(state, now),
    }


def _held_back(state: State, now: float) -> dict[str, object] | None:
    """Return since when the job's critical sections hold a checkpoint back, and which they are; None if they do not."""
    held = state.incarnation.held
    if held is None:
        return None
    inside = [s for s in state.incarnation.sections if s.holds(now)]
    return {
        "seconds": now - held.since,
        "by": [{"what": s.what or s.name, "seconds": s.lasts(now)} for s in inside],
    }
