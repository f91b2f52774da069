"""Whether there is a GPU to test with, and what is missing if not; for ``tests/gpu``."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys

from support.run import REPOSITORY

from ckptrun.cuda.gpus import this_machine

PYTHON = os.environ.get("CKPTRUN_GPU_PYTHON", sys.executable)
_TORCH = "import torch; print(torch.cuda.is_available(), torch.version.cuda, torch.cuda.device_count())"
_SECONDS = 300


@functools.cache
def missing() -> str:
    """Return what this machine lacks, as a sentence; empty if nothing."""
    if os.geteuid() != 0:
        return "CUDA's checkpoints need root"
    machine = this_machine()
    if not machine.gpus:
        return "there is no NVIDIA GPU here, or no driver for it"
    asked = subprocess.run(
        [PYTHON, "-c", _TORCH], capture_output=True, text=True, check=False, timeout=_SECONDS
    )
    if not asked.stdout.startswith("True"):
        why = (asked.stdout or asked.stderr).strip().splitlines()[-1:]
        return f"{PYTHON} has no PyTorch that sees the GPU: {''.join(why)} (CKPTRUN_GPU_PYTHON names another)"
    doctor = subprocess.run(
        [sys.executable, "-m", "ckptrun", "doctor", "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        timeout=_SECONDS,
    )
    checks = json.loads(doctor.stdout)["checks"]
    bad = [check for check in checks if not check["ok"] and check["name"] != "store"]
    return f"{bad[0]['name']}: {bad[0]['detail']}; {bad[0]['remedy']}" if bad else ""
