"""What `pipx install` gets: the wheel, alone, in an environment of its own, runs a job with the helper it carries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from support.processes import PATIENCE, die_with_parent

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "--retries", "10"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", folder, REPOSITORY], check=True)
    return next(folder.glob("ckptrun-*.whl"))


@pytest.mark.slow
def test_the_wheel_carries_helper_hooks_and_format(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"ckptrun/capsule/stub/bin/{a}/ckptrun-stub" for a in ("x86_64", "aarch64")} <= names
    assert {"ckptrun/_hooks/README.md", "ckptrun/store/FORMAT.md"} <= names
    assert {f"ckptrun/hooking/schema/{name}.json" for name in ("context", "result", "hook")} <= names
    assert "ckptrun/_hooks/command/hook.json" in names
    assert wheel.name.endswith("-py3-none-any.whl")


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run jobs as an ordinary user")
def test_an_installed_wheel_runs_a_job_and_takes_a_checkpoint(wheel: Path, tmp_path: Path):
    home = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", home], check=True)
    subprocess.run([home / "bin/pip", "--disable-pip-version-check", "-q", "install", wheel], check=True)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    ckptrun = home / "bin/ckptrun"
    tried = [ckptrun, "hooks", "test", "on-exit", "--for-real", "--hook", "command?on-exit=touch%20hooked"]
    subprocess.run(tried, env=environment, cwd=tmp_path, check=True)
    assert (tmp_path / "hooked").exists()
    argv = [
        ckptrun,
        "--name",
        "w",
        "--interval",
        "off",
        "--",
        "sh",
        "-c",
        "until [ -e go ]; do sleep 0.1; done",
    ]
    with subprocess.Popen(
        argv,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call
    ) as run:
        deadline = time.monotonic() + PATIENCE
        while subprocess.run([ckptrun, "checkpoint", "w", "--wait"], env=environment, check=False).returncode:
            assert time.monotonic() < deadline
        (tmp_path / "go").touch()
        told = run.communicate(timeout=PATIENCE)[1]
    assert run.returncode == 0, told
    shown = subprocess.run(
        [ckptrun, "show", "w", "--json"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(shown.stdout)["checkpoints"]
