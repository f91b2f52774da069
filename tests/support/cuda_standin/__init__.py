"""Makes a stand-in for a GPU: ``Standin(folder)``; see ``standin_machine`` for what it does and where that is known
from."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.cuda_standin.standin_machine import Machine

HERE = Path(__file__).parent
UUIDS = ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "GPU-1f3d5b79-0a2c-4e68-8bdf-135792468ace")
MODEL = "NVIDIA Stand-in 80GB"
_INFORMATION = """Model: \t\t {model}
IRQ:   \t\t 33
GPU UUID: \t {uuid}
Bus Location: \t 0000:0{number}:00.0
Device Minor: \t {number}
"""


@dataclass
class Player:
    """A process with a context (or what else its role is)."""

    process: subprocess.Popen[str]
    child: int

    @property
    def pid(self) -> int:
        return self.process.pid


class Standin:
    """A machine with GPUs, below a folder.

    Args:
        folder: empty; may be anywhere.
        gpus: how many.
        driver: its version.
    """

    def __init__(self, folder: Path, gpus: int = 1, driver: str = "580.65.06") -> None:
        self.folder = folder
        self.machine = Machine(str(folder))
        self.devices = folder / "dev"
        self.driver = folder / "driver"
        self.players: list[Player] = []
        for name in ("dev", "states", "contexts", "bin", "site/cuda/bindings", "driver"):
            (folder / name).mkdir(parents=True)
        for name in ("nvidiactl", "nvidia-uvm", "nvidia0", "nvidia1"):
            (self.devices / name).touch()
        (folder / "libcuda.so.1").write_bytes(b"\x7fELF" + bytes(8188))
        self.gpus(UUIDS[:gpus], driver)
        self._program("cuda-checkpoint", "program")
        self._program("nvidia-smi", "smi")
        for name in ("site/cuda", "site/cuda/bindings"):
            (folder / name / "__init__.py").touch()
        (folder / "site/cuda/bindings/driver.py").write_text(
            f"import sys\nsys.path.insert(0, {str(HERE)!r})\nfrom standin_driver import standing_in\n"
            f"standing_in({str(folder)!r}, __name__, globals())\n"
        )

    @property
    def program(self) -> Path:
        """Its ``cuda-checkpoint``."""
        return self.folder / "bin" / "cuda-checkpoint"

    @property
    def options(self) -> dict[str, str]:
        """Where the hook finds it."""
        return {"devices": str(self.devices), "information": str(self.driver)}

    def gpus(
        self,
        uuids: tuple[str, ...],
        driver: str = "580.65.06",
        model: str = MODEL,
        *,
        asleep: bool = False,
    ) -> None:
        """Exchange the GPUs; those `asleep` are used by nobody, and persistence mode is off."""
        shutil.rmtree(self.driver)
        self.driver.mkdir()
        text = f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Sun Jul 20\nGCC version: 12\n"
        (self.driver / "version").write_text(text)
        awake = [(f"00000000:0{number}:00.0", uuid) for number, uuid in enumerate(uuids)]
        (self.folder / "awake").write_text(json.dumps(awake))
        for number, uuid in enumerate(uuids):
            place = self.driver / "gpus" / f"0000:0{number}:00.0"
            place.mkdir(parents=True)
            shown = "GPU-????????-????-????-????-????????????" if asleep else uuid
            (place / "information").write_text(_INFORMATION.format(model=model, uuid=shown, number=number))

    def fault(self, at: str, do: str | int, *, pid: int = 0, times: int = 1) -> None:
        """Have a call go wrong; see ``standin_machine``."""
        path = self.folder / "faults.json"
        faults = json.loads(path.read_text()) if path.exists() else []
        path.write_text(json.dumps([*faults, {"at": at, "do": do, "pid": pid, "times": times}]))

    def mend(self) -> None:
        """Have nothing more go wrong."""
        (self.folder / "faults.json").unlink()

    def play(self, role: str = "computes", environment: dict[str, str] | None = None, **facts: Any) -> Player:
        """Start a process that computes, or what else its role is."""
        facts.setdefault("gpus", list(UUIDS[:1]))
        process = subprocess.Popen(
            self.command(f"p{len(self.players)}", role, **facts),
            stdout=subprocess.PIPE,
            text=True,
            env={"PATH": os.environ["PATH"], **(environment or {})},
        )
        assert process.stdout is not None
        word, child = process.stdout.readline().split()
        assert word == "ready"
        self.players.append(Player(process, int(child)))
        return self.players[-1]

    def busy(self, pid: int, seconds: float) -> None:
        """Have a process's work on the GPU take so long, for every lock from now on."""
        (place,) = (
            path
            for path in (self.folder / "contexts").glob("*/facts.json")
            if json.loads(path.read_text())["pid"] == pid
        )
        place.write_text(json.dumps({**json.loads(place.read_text()), "busy": seconds}))

    def command(self, token: str, role: str = "computes", **facts: Any) -> list[str]:
        """Return the command line of such a process."""
        return [
            sys.executable,
            "-S",
            "-E",
            str(HERE / "player.py"),
            str(self.folder),
            token,
            json.dumps(facts),
            role,
        ]

    def states(self) -> list[str]:
        """Return the state of every living player that computes."""
        return [self.machine.state(one.pid) for one in self.players if self.machine.facts(one.pid)]

    def log(self) -> list[dict[str, Any]]:
        """Return what was asked and answered."""
        path = self.folder / "log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def done(self) -> list[str]:
        """Return the steps that succeeded, in their order; questions for the state left out."""
        return [line["done"] for line in self.log() if line.get("code") == 0 and line["done"] != "state"]

    def close(self) -> None:
        """End the players."""
        for one in self.players:
            if one.child > 1:
                os.kill(one.child, signal.SIGKILL)
            one.process.kill()
            one.process.wait()
            assert one.process.stdout is not None
            one.process.stdout.close()

    def _program(self, name: str, function: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(
            f"#!{sys.executable} -SE\nimport sys\nsys.path.insert(0, {str(HERE)!r})\n"
            f"from standin_machine import {function}\nsys.exit({function}({str(self.folder)!r}))\n"
        )
        path.chmod(0o755)
