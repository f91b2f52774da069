"""The driver by NVIDIA's program ``cuda-checkpoint``, which needs no Python package."""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
from typing import TYPE_CHECKING

from ckptrun.cuda.driver import (
    CODES,
    REACH_SECONDS,
    UNKNOWN_CODE,
    Action,
    State,
    environment,
    hung,
    lock_milliseconds,
    refused,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_END_SECONDS = 2.0
_SAID = re.compile(r'"([^"]+)"')
_OUTPUT_BYTES = 1 << 16
_BY_TEXT = {text: code for code, text in CODES.items()}


class ProgramDriver:
    """Speaks the protocol of `Driver` by running the program once for each call.

    Args:
        path: of the program.
    """

    name = "cuda-checkpoint"

    def __init__(self, path: str) -> None:
        self.path = path
        self.reach = REACH_SECONDS
        _, text = self._run(["--help"], "help", 0, _END_SECONDS * 5)
        self.maps_devices = "--device-map" in text
        self.acts = "--action" in text
        """Whether it knows the single steps: older ones know none but the whole way."""

    def prepare(self, pids: Sequence[int], more: int = 0) -> None:
        """There is nothing to prepare."""

    def state(self, pid: int, seconds: float) -> State:
        """See `Driver`."""
        code, text = self._run(["--get-state", "--pid", str(pid)], "state", pid, seconds)
        if code:
            raise _error("state", pid, text)
        word = text.split()[0].lower() if text.split() else ""
        return State(word) if word in set(State) else State.MOVING

    def act(self, pid: int, action: Action, seconds: float, devices: Mapping[str, str] | None = None) -> None:
        """See `Driver`."""
        arguments = ["--action", action.value, "--pid", str(pid)]
        if action is Action.LOCK:
            arguments += ["--timeout", str(lock_milliseconds(seconds))]
            seconds += self.reach
        if action is Action.RESTORE and devices:
            arguments += ["--device-map", ",".join(f"{old}={new}" for old, new in devices.items())]
        code, text = self._run(arguments, action.value, pid, seconds)
        if code:
            raise _error(action.value, pid, text)

    def close(self) -> None:
        """There is nothing left: every run has ended or was killed."""

    def _run(self, arguments: list[str], what: str, pid: int, seconds: float) -> tuple[int, str]:
        """Return exit status and output; a file takes it, because a killed program's pipe may stay open."""
        with tempfile.TemporaryFile() as output:
            try:
                process = subprocess.Popen(
                    [self.path, *arguments],
                    env=environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            except OSError as error:
                return UNKNOWN_CODE, f"{self.path} cannot be run: {error.strerror}"
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                _kill(process)
                raise hung(what, pid, seconds) from None
            except BaseException:
                _kill(process)
                raise
            output.seek(0)
            return code, output.read(_OUTPUT_BYTES).decode("utf-8", "replace").strip()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill it; one that the driver holds in the kernel is left to end by itself."""
    process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_END_SECONDS)


def _error(what: str, pid: int, text: str) -> Exception:
    said = _SAID.search(text)
    return refused(what, pid, _BY_TEXT.get(said[1] if said else "", UNKNOWN_CODE), text)
