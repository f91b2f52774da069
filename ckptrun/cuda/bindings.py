"""The driver by NVIDIA's Python package ``cuda-bindings`` (ckptrun's extra ``cuda``).

Each process of the job has a helper process of its own here, so that calls run side by side and one that hangs is
killed alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from ckptrun.cuda.driver import (
    REACH_SECONDS,
    Action,
    CudaError,
    CudaTimeoutError,
    State,
    environment,
    hung,
    lock_milliseconds,
    refused,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

START_SECONDS = 30.0
INITIALISE_SECONDS = 60.0
"""Eight GPUs without persistence mode take most of a minute to wake up."""
_END_SECONDS = 2.0
_STATES = (State.RUNNING, State.LOCKED, State.CHECKPOINTED, State.FAILED, State.MOVING, State.MOVING)


class BindingsDriver:
    """Speaks the protocol of `Driver` by helper processes.

    Args:
        python: an interpreter that has ``cuda-bindings`` and ckptrun.
    """

    name = "cuda-bindings"

    def __init__(self, python: str = sys.executable) -> None:
        self.maps_devices = False
        self.reach = REACH_SECONDS
        self._python = python
        self._helpers: dict[int, _Helper] = {}
        self._spare: list[_Helper] = []
        self._lock = threading.Lock()

    def version(self, seconds: float = START_SECONDS) -> int:
        """Return the newest CUDA the driver knows, as 12080 for 12.8.

        Raises:
            CudaError: there is no driver, or the package does not work.
        """
        helper = _Helper(self._python)
        try:
            self.maps_devices = helper.greeted()["maps_devices"]
            reply = helper.ask({"do": "version"}, seconds)
        finally:
            helper.end()
        why = "no answer" if reply is None else reply.get("error") or reply["code"]
        if reply is None or why:
            raise CudaError(f"cuda-bindings cannot reach the driver: {why}", hint="look at nvidia-smi")
        return int(reply["value"])

    def prepare(self, pids: Sequence[int], more: int = 0) -> None:
        """Start the helpers, and have them wake the GPUs up, side by side: that takes seconds."""
        helpers = [self._begin(pid) for pid in pids]
        with self._lock:
            self._spare += [_Helper(self._python) for _ in range(more - len(self._spare))]
            helpers += self._spare
        for helper in helpers:
            helper.initialise()
        for helper in helpers:
            self.maps_devices = helper.initialised()["maps_devices"]

    def state(self, pid: int, seconds: float) -> State:
        """See `Driver`."""
        value = int(self._call(pid, "state", {"do": "state", "pid": pid}, seconds))
        return _STATES[value] if 0 <= value < len(_STATES) else State.MOVING

    def act(self, pid: int, action: Action, seconds: float, devices: Mapping[str, str] | None = None) -> None:
        """See `Driver`."""
        request: dict[str, Any] = {"do": action.value, "pid": pid}
        if action is Action.LOCK:
            request["milliseconds"] = lock_milliseconds(seconds)
            seconds += self.reach
        elif action is Action.RESTORE:
            request["devices"] = [[old, new] for old, new in (devices or {}).items()]
        self._call(pid, action.value, request, seconds)

    def close(self) -> None:
        """End all helpers."""
        with self._lock:
            helpers = [*self._helpers.values(), *self._spare]
            self._helpers, self._spare = {}, []
        for helper in helpers:
            helper.end()

    def _call(self, pid: int, what: str, request: dict[str, Any], seconds: float) -> Any:
        helper = self._helper(pid)
        reply = helper.ask(request, seconds)
        if reply is None:
            self._forget(pid, helper)
            raise hung(what, pid, seconds)
        if "error" in reply:
            raise CudaError(f"cuda-bindings could not {what} process {pid}: {reply['error']}")
        if reply["code"]:
            raise refused(what, pid, reply["code"])
        return reply.get("value") or 0

    def _begin(self, pid: int) -> _Helper:
        with self._lock:
            helper = self._helpers.get(pid)
            if helper is None:
                helper = self._helpers[pid] = self._spare.pop() if self._spare else _Helper(self._python)
        return helper

    def _helper(self, pid: int) -> _Helper:
        helper = self._begin(pid)
        try:
            helper.greeted()
        except CudaError:
            self._forget(pid, helper)
            raise
        return helper

    def _forget(self, pid: int, helper: _Helper) -> None:
        with self._lock:
            if self._helpers.get(pid) is helper:
                del self._helpers[pid]
        helper.end()


class _Helper:
    """One ``ckptrun.cuda.worker``."""

    def __init__(self, python: str) -> None:
        # -P: the job's working directory may hold anything, also a folder named cuda.
        command = [python, "-P", "-m", "ckptrun.cuda.worker"]
        self._process = subprocess.Popen(
            command,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._buffer = b""
        self._hello: dict[str, Any] | None = None
        self._initialising = False
        self._initialised = False

    def greeted(self) -> dict[str, Any]:
        """Wait until it serves, and return what it can.

        Raises:
            CudaError: it cannot.
        """
        if self._hello is None:
            self._hello = self._read(START_SECONDS)
        if self._hello is None:
            raise CudaTimeoutError(
                "cuda-bindings did not start", hint="try: python -c 'import cuda.bindings.driver'"
            )
        if not self._hello.get("ok"):
            raise CudaError(
                f"cuda-bindings cannot be used: {self._hello['error']}",
                hint="pip install -U 'ckptrun[cuda]' in the environment of ckptrun",
            )
        return self._hello

    def initialise(self) -> None:
        """Have it initialise CUDA, if it has not; `initialised` waits for that."""
        if not self._initialised and not self._initialising:
            self._initialising = self._write({"do": "initialise"})

    def initialised(self) -> dict[str, Any]:
        """Wait until it has initialised CUDA, and return what it can; that it cannot is nothing yet.

        Raises:
            CudaTimeoutError: it hangs.
            CudaError: it does not serve at all.
        """
        hello = self.greeted()
        if self._initialising and self._read(INITIALISE_SECONDS) is None:
            raise CudaTimeoutError(
                f"CUDA could not be initialised within {INITIALISE_SECONDS:g} s", hint="look at nvidia-smi"
            )
        self._initialising, self._initialised = False, True
        return hello

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any] | None:
        """Return the answer; None if there was none in time."""
        if not self._write(request):
            return {"error": "its helper process has ended"}
        return self._read(seconds)

    def _write(self, request: dict[str, Any]) -> bool:
        """Send a request; False if there is nobody to read it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            return False
        return True

    def _read(self, seconds: float) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        file, deadline = self._process.stdout.fileno(), time.monotonic() + seconds
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([file], [], [], left)[0]:
                return None
            piece = os.read(file, 1 << 16)
            if not piece:
                return {"ok": False, "error": "its helper process has ended"}
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def end(self) -> None:
        """Kill it; one that the driver holds in the kernel is left to end by itself."""
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
