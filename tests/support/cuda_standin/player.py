"""Plays a process that computes on a GPU: has ``libcuda`` mapped, device files open, and a thread of CUDA's.

``player.py FOLDER TOKEN FACTS [computes|imports|forks|monitors]``. Standard library only. Prints ``ready``, then a
counter that never stops.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path


def main() -> None:
    folder, token, facts, role = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]), sys.argv[4]
    place = folder / "contexts" / token
    names = ("nvidiactl", "nvidia-uvm", *facts.get("devices", ["nvidia0"]))
    held: list[int] = []
    host: list[bytes] = []

    def take(*_: object) -> None:
        held.extend(os.open(folder / "dev" / name, os.O_RDWR | os.O_CLOEXEC) for name in names)
        host.clear()

    def leave(*_: object) -> None:
        host.append(b"\x01" * facts.get("memory", 0))  # what the GPU held is the process's memory now
        while held:
            os.close(held.pop())

    mapped = []
    if role != "monitors":
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "libcuda.so.1", place)
        pid = 0 if role == "imports" else os.getpid()
        (place / "facts.json").write_text(json.dumps({"memory": 1 << 20, **facts, "pid": pid}))
        for library in (place / "libcuda.so.1", *map(Path, facts.get("libraries", []))):
            with library.open("rb") as file:
                mapped.append(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
    if role != "imports":
        signal.signal(signal.SIGUSR1, leave)
        signal.signal(signal.SIGUSR2, take)
        take()
    if role in {"computes", "forks"}:
        start_thread("cuda-EvtHandlr")
    if facts.get("peers"):
        start_thread("pt_nccl_watchdg")
    child = os.fork() if role == "forks" else 1
    while child == 0:
        signal.pause()
    print("ready", child, flush=True)
    step = 0
    while True:
        time.sleep(0.05)
        step += 1
        if "steps" in facts:
            print("step", step, "gpu" if held else "host", flush=True)
            if step >= facts["steps"]:
                return


def start_thread(name: str) -> None:
    """Start a thread that does nothing, and return once it has its name."""
    begun = threading.Event()

    def idle() -> None:
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(name)
        begun.set()
        threading.Event().wait()

    threading.Thread(target=idle, daemon=True).start()
    begun.wait()


main()
