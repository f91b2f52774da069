"""A GPU's driver that is none: the state machine of CUDA checkpoints, shared by any number of processes through files.

It has two faces, made by `cuda_standin.Standin`: a program ``cuda-checkpoint`` (and ``nvidia-smi``), and a Python
module ``cuda.bindings.driver``. Both end in `Machine.call`. Standard library only; must not know the code under test.

Written from NVIDIA's documentation (CUDA driver API, "CUDA Checkpointing"; NVIDIA/cuda-checkpoint: README and
issues), not from a GPU:

- running -lock-> locked -checkpoint-> checkpointed -restore-> locked -unlock-> running; anything else is
ILLEGAL_STATE (401);
- a lock waits for submitted work; if it has a time limit and reaches it, NOT_READY (600), and the process still runs;
- a checkpointed process holds no device file;
- a process without CUDA: NOT_INITIALIZED (3); one that is gone: OPERATING_SYSTEM (304);
- a device map names every GPU of the machine of the checkpoint, seen by the process or not (cuda-python's
cuda.core.checkpoint: "every GPU visible to the kernel-mode driver"); else INVALID_VALUE (1);
- initialising CUDA takes seconds, and fails with NO_DEVICE (100) where CUDA_VISIBLE_DEVICES leaves no GPU;
- a GPU that nobody uses, without persistence mode, has question marks for a UUID in /proc until something wakes it up;
- any call about a process hangs while a peer of its is locked or checkpointed (issue 30);
- an error in a checkpoint or restore may leave ``failed`` for ever.

Where the state is: a process that holds its device files runs, or is locked if a file here says so; one that has a CUDA
context and no device file is checkpointed. So a process that CRIU has restored from a dump is in the state it was
dumped in.

Faults: ``faults.json`` is a list of ``{"at": action, "pid": host PID or 0 for any, "do": ..., "times": n}``. ``do``
is ``hang``, ``die`` (the process, then 304), ``fail`` (state failed, code 999), ``late`` (hangs; done a moment later
although the caller was killed), ``wait:SECONDS``, or a number: that error.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

RUNNING, LOCKED, CHECKPOINTED, FAILED = "running", "locked", "checkpointed", "failed"
STATES = (RUNNING, LOCKED, CHECKPOINTED, FAILED)
STEPS = {
    "lock": (RUNNING, LOCKED),
    "checkpoint": (LOCKED, CHECKPOINTED),
    "restore": (CHECKPOINTED, LOCKED),
    "unlock": (LOCKED, RUNNING),
}
TEXTS = {
    1: "invalid argument",
    2: "out of memory",
    3: "initialization error",
    100: "no CUDA-capable device is detected",
    304: "OS call failed or operation not supported on this OS",
    401: "the operation cannot be performed in the present state",
    600: "device not ready",
    800: "operation not permitted",
    801: "operation not supported",
    999: "unknown error",
}
CLOSE, OPEN = signal.SIGUSR1, signal.SIGUSR2
"""What tells a `player` to let go of its devices, and to take them again."""


class Machine:
    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def call(self, what: str, pid: int, milliseconds: int = 0, devices: dict[str, str] | None = None):
        """Return the driver's code, and the state or None."""
        call = self._note(pid=pid, call=what, milliseconds=milliseconds, devices=devices or {})
        code, value = self._call(what, pid, milliseconds, devices)
        self._note(pid=pid, done=what, code=code, of=call)
        return code, value

    def initialise(self, visible: str | None) -> int:
        """Have a process that calls the driver initialise CUDA: it takes its time, and needs a GPU that it may see."""
        path = self.folder / "initialise-seconds"
        time.sleep(float(path.read_text()) if path.exists() else 0.0)
        here = [str(number) for number, _ in enumerate(self.gpus())]
        code = 0 if visible is None or visible.split(",")[0] in {*here, *self.gpus()} else 100
        self._note(pid=os.getpid(), initialised=code)
        return code

    def gpus(self) -> list[str]:
        """Return the UUIDs of the GPUs that the kernel's part of the driver knows."""
        paths = sorted((self.folder / "driver").rglob("information"))
        found = [re.search(r"GPU-[\w-]+", path.read_text()) for path in paths]
        return [match[0] for match in found if match]

    def _call(self, what, pid, milliseconds, devices):
        facts = self.facts(pid)
        if facts is None:
            return (3 if Path(f"/proc/{pid}").exists() else 304), None
        faulty = self._fault(what, pid)
        if faulty is not None:
            return faulty, None
        self._wait_for_peers(pid, facts)
        if what == "state":
            return 0, self.state(pid)
        if what == "lock" and self.state(pid) == RUNNING and (busy := facts.get("busy", 0)):
            limit = milliseconds / 1000 if milliseconds else busy
            time.sleep(min(busy, limit))
            if busy > limit:
                return 600, None
        if what == "restore" and (missing := self._unmapped(facts, devices)):
            return missing, None
        while (code := self.step(what, pid)) is None:
            self._wait_for_peers(pid, facts)
        return code, None

    def _fault(self, what, pid):
        """Let a scripted fault happen, and return its code; None if there is none, or it only takes time."""
        do = str(self._take_fault(what, pid))
        if do in {"hang", "late"}:
            if do == "late":
                code = f"import time; time.sleep(0.5); Machine({str(self.folder)!r}).step({what!r}, {pid})"
                command = [sys.executable, "-SEc", f"from standin_machine import Machine; {code}"]
                import subprocess  # noqa: PLC0415 - each of hundreds of runs would import it

                subprocess.Popen(command, cwd=Path(__file__).parent, start_new_session=True)
            time.sleep(3600)
        elif do == "die":
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: self.facts(pid) is None)
            return 304
        elif do == "fail":
            self._set(pid, FAILED)
            return 999
        elif do.startswith("wait:"):
            time.sleep(float(do[5:]))
        return int(do) if do.isdigit() else None

    def step(self, what: str, pid: int):
        """Go a step, and return the code; None if a peer came first."""
        before, after = STEPS[what]
        with self._exclusive():
            if self._blocked(pid, self.facts(pid)):
                return None
            if self.facts(pid) is None:
                return 304
            if self.state(pid) != before:
                return 401
            if what in {"checkpoint", "restore"}:
                os.kill(pid, CLOSE if what == "checkpoint" else OPEN)
                wait_for(lambda: self._holds(pid) == (what == "restore") or self.facts(pid) is None)
                if self.facts(pid) is None:
                    return 304
            self._set(pid, after)
            if what == "checkpoint":
                (self.folder / "checkpointed-gpus").write_text(json.dumps(self.gpus()))
            return 0

    def state(self, pid: int) -> str:
        try:
            flag = (self.folder / "states" / str(pid)).read_text()
        except OSError:
            flag = ""
        if flag == FAILED:
            return FAILED
        if not self._holds(pid):
            return CHECKPOINTED
        return LOCKED if flag == LOCKED else RUNNING

    def facts(self, pid: int):
        """Return what a process said of its context; None if it has none or is gone."""
        try:
            maps = Path(f"/proc/{pid}/maps").read_text()
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return None
        place = re.search(rf"{re.escape(str(self.folder))}/contexts/([^/\n]+)/libcuda\.so\.1", maps)
        inner = int(re.search(r"^NSpid:.*?(\d+)$", status, re.MULTILINE)[1])
        if place is None:
            return None
        facts = json.loads((self.folder / "contexts" / place[1] / "facts.json").read_text())
        return facts if facts["pid"] == inner else None

    def contexts(self):
        """Yield every process with a context, by PID."""
        for name in os.listdir("/proc"):
            if name.isdigit() and (facts := self.facts(int(name))) is not None:
                yield int(name), facts

    def _holds(self, pid: int) -> bool:
        try:
            links = [os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            return False
        return any(link.startswith(f"{self.folder}/dev/nvidia") for link in links)

    def _wait_for_peers(self, pid: int, facts) -> None:
        while self._blocked(pid, facts):
            time.sleep(0.01)

    def _blocked(self, pid: int, facts) -> bool:
        if not facts or not facts.get("peers") or self.state(pid) != RUNNING:
            return False
        return any(
            other != pid and self.state(other) != RUNNING
            for other, its in self.contexts()
            if its.get("peers")
        )

    def _unmapped(self, facts, devices) -> int:
        wanted = facts.get("gpus", [])
        if devices:
            if set(devices) != set(json.loads((self.folder / "checkpointed-gpus").read_text())):
                return 1
            wanted = [devices.get(one, "") for one in wanted]
        return 0 if set(wanted) <= set(self.gpus()) else 1

    def _set(self, pid: int, state: str) -> None:
        path = self.folder / "states" / str(pid)
        if state == RUNNING:
            path.unlink(missing_ok=True)
        else:
            path.write_text(state)

    def _take_fault(self, what: str, pid: int):
        with self._exclusive():
            path = self.folder / "faults.json"
            faults = json.loads(path.read_text()) if path.exists() else []
            for fault in faults:
                if fault["at"] == what and fault.get("pid", 0) in {0, pid} and fault.get("times", 1) > 0:
                    fault["times"] = fault.get("times", 1) - 1
                    path.write_text(json.dumps(faults))
                    return fault["do"]
        return None

    def _note(self, **facts) -> int:
        with self._exclusive(), open(self.folder / "log", "a+") as file:
            file.seek(0)
            number = sum(1 for _ in file)
            facts["stopped"] = stopped(facts["pid"])
            file.write(json.dumps({"number": number, "at": time.time(), **facts}) + "\n")
        return number

    @contextmanager
    def _exclusive(self):
        with open(self.folder / "exclusive", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def stopped(pid: int) -> bool:
    """Say whether a process stands still, as in a dump."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "tT"
    except OSError:
        return False


def wait_for(true, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError("the stand-in has waited too long")
        time.sleep(0.002)


HELP = """CUDA checkpoint and restore utility.
Version 570.86.10. Copyright (C) 2025 NVIDIA Corporation. All rights reserved.

Operations:
--get-state --pid <pid>
--action lock | checkpoint | restore | unlock --pid <pid> [--timeout <ms>]
--get-restore-tid --pid <pid>
"""


def program(folder: str) -> int:
    """Be ``cuda-checkpoint``."""
    machine, words = Machine(folder), sys.argv[1:]
    if words[0] == "--help":
        mapping = (
            "--device-map|-d <oldUuid=newUuid,...>\n"
            if not (machine.folder / "no-device-map").exists()
            else ""
        )
        print(HELP + mapping)
        return 0
    pid = int(words[words.index("--pid") + 1])
    if words[0] == "--get-state":
        code, state = machine.call("state", pid)
        print(state if not code else f'Error getting process state for process ID {pid}: "{TEXTS[code]}"')
        return int(bool(code))
    action = words[words.index("--action") + 1]
    limit = int(words[words.index("--timeout") + 1]) if "--timeout" in words else 0
    pairs = words[words.index("--device-map") + 1].split(",") if "--device-map" in words else []
    code, _ = machine.call(action, pid, limit, dict(pair.split("=") for pair in pairs))
    if code:
        print(f'Could not {action} on process ID {pid}: "{TEXTS[code]}"', file=sys.stderr)
    return int(bool(code))


def smi(folder: str) -> int:
    """Be ``nvidia-smi``, as far as it is asked here."""
    machine = Machine(folder)
    if sys.argv[1] == "--query-compute-apps=pid,used_memory":
        for pid, facts in machine.contexts():
            if machine.state(pid) != CHECKPOINTED:
                print(f"{pid}, {facts['memory'] >> 20}")
    elif sys.argv[1] == "--query-gpu=mig.mode.current":
        print(
            (machine.folder / "mig").read_text().strip() if (machine.folder / "mig").exists() else "Disabled"
        )
    elif sys.argv[1] == "--query-gpu=pci.bus_id,uuid":
        for place, uuid in json.loads((machine.folder / "awake").read_text()):
            print(f"{place}, {uuid}")
    else:
        return 2
    return 0
