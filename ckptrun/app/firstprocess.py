"""What ckptrun does where it is PID 1, as a container's entry point: it leaves the place to the static helper.

PID 1 has every orphan for a child and ignores each signal that it has no handler for. ckptrun waits for children of its
own in many places, so it does not reap: it goes on in a child of itself, and PID 1 becomes the helper's `reaper`.
"""

from __future__ import annotations

import os
import signal

from ckptrun.capsule import helper as helpers
from ckptrun.errors import MissingFeatureError


def hand_over() -> None:
    """Return in a child of PID 1; call it first of all, before any thread is started.

    Raises:
        MissingFeatureError: the helper is not there, or cannot be executed.
    """
    helper = helpers.find()
    # What is sent before the helper waits for it must not be lost.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    pid = os.fork()
    if pid == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    try:
        os.execv(helper.path, ["ckptrun-reaper", "reaper", str(pid)])  # noqa: S606 - this is no child
    except OSError as error:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise MissingFeatureError(
            f"the static helper {helper.path} cannot be executed: {error.strerror}",
            hint="install ckptrun where programs may be executed, or run it below an init (podman run --init)",
        ) from error
