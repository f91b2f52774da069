"""A job that has outlasted its sidecar, as the next one finds it: to be gone on with, to be ended, or at its end.

docs/design/kubernetes.md ("Going on") says when it is which.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

from ckptrun.app.beginning import Beginning
from ckptrun.app.identity import command_facts
from ckptrun.capsule.container import EVENTS, UNWRITTEN
from ckptrun.capsule.processes import descendants
from ckptrun.core.model import Exit, RunState
from ckptrun.errors import ConfigurationError
from ckptrun.store.repository import RunInfo
from ckptrun.supervisor import handover

if TYPE_CHECKING:
    from ckptrun.capsule.shim import Shim
    from ckptrun.capsule.streams import Streams
    from ckptrun.settings import RunSettings
    from ckptrun.supervisor.container import Container
    from ckptrun.supervisor.handover import Handover
    from ckptrun.telemetry.speak import Speaker

KILL_SECONDS = 10.0
"""How long the processes of a job that is killed may take to end."""
KILL_PAUSE = 0.01


def left(container: Container, settings: RunSettings) -> Handover | None:
    """Return what an earlier sidecar has left, if it can be gone on with as it is."""
    found = handover.read(settings.run_dir / handover.FILE_NAME)
    return found if found is not None and found.fits(container.shim.hello) else None


def settle(container: Container, settings: RunSettings, streams: Streams, speaker: Speaker) -> int | None:
    """See to a job of an earlier sidecar's that cannot be gone on with; return the code if that is all."""
    shim = container.shim
    if not shim.hello.begun:
        return None
    well = shim.hello.ended == 0
    if well:
        speaker.say("the job has ended well while no sidecar was there")
    elif shim.root_pid is not None:
        speaker.say(
            "the job has run on without its sidecar, and cannot be gone on with as it is: "
            "it is killed, and goes on from its newest checkpoint"
        )
    _kill(shim)
    streams.take_over(shim.hello.kept)
    streams.incarnation_ended()
    for name in (EVENTS, UNWRITTEN):
        if name in shim.hello.kept:
            os.close(shim.hello.kept[name])
    with contextlib.suppress(OSError):
        shim.keep({})
    (settings.run_dir / handover.FILE_NAME).unlink(missing_ok=True)
    if well:
        return None if _record_end(container, settings, speaker) else 0
    shim.taken()
    return None


def _record_end(container: Container, settings: RunSettings, speaker: Speaker) -> bool:
    """Have the lineage say that the job has ended well; return whether a run can do what is to follow that."""
    command = container.there(lambda: command_facts(settings.command, settings.cwd))
    beginning = Beginning(settings, command, speaker.error, container.there)
    _, writer = beginning.open_store()
    if writer is None:
        beginning.mark(finished=True)
        return False
    started = writer.previous.started if writer.previous else time.time()
    labels = dict(settings.labels)
    writer.set_run(RunInfo(RunState.FINISHED, Exit("job", 0), command, started, None, labels))
    writer.release()
    return True


def _kill(shim: Shim) -> None:
    """Kill everything below the shim, and wait until it has told of the job root's end.

    Raises:
        ConfigurationError: it does not end.
    """
    deadline = time.monotonic() + KILL_SECONDS
    while (left := descendants(shim.pid)) or shim.root_pid is not None:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if shim.ended.wait(KILL_PAUSE):
            return
        if time.monotonic() > deadline:
            raise ConfigurationError(
                f"the job's processes {left} do not end", hint="delete the pod: the next one goes on"
            )
