"""What a sidecar lacks in its pod is named, with the field that gives it."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from ckptrun.app import pod
from ckptrun.errors import ConfigurationError


def installed(folder: Path) -> Path:
    (folder / "bin").mkdir()
    (folder / "bin" / "ckptrun-shim").touch(mode=0o755)
    return folder


def test_everything_of_a_sidecars_lies_in_the_shared_folder(tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    (tmp_path / "criu").mkdir()
    pod.prepare(installed(tmp_path), environ)
    places = {"XDG_STATE_HOME": "state", "TMPDIR": "work", "CKPTRUN_CRIU": "criu"}
    assert environ == {name: f"{tmp_path}/{place}" for name, place in places.items()}
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in ("run", "work", "state")}
    assert modes == {"run": 0o755, "work": 0o700, "state": 0o700}


def test_a_missing_volume_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"there is no folder .*/gone; mount the pod's emptyDir"):
        pod.prepare(tmp_path / "gone", {})


def test_a_volume_that_cannot_be_written_is_named() -> None:
    """`/proc` takes no folders, whoever asks."""
    with pytest.raises(
        ConfigurationError, match=r"nothing can be written in /proc: .*writable in the sidecar"
    ):
        pod.prepare(Path("/proc"), {})


def test_a_missing_shim_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="ckptrun-shim; let an init container run"):
        pod.prepare(tmp_path, {})


def test_a_container_in_a_user_namespace_of_its_own_is_named() -> None:
    argv = ["unshare", "--user", "sh", "-c", "echo ready; read line"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        with pytest.raises(ConfigurationError, match="hostUsers: false"):
            pod.check_peer(process.pid)
        process.stdin.close()
    pod.check_peer(os.getpid())


def test_a_probe_knows_whether_a_sidecar_listens(tmp_path: Path) -> None:
    path = tmp_path / "shim.sock"
    assert not pod.is_listening(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        assert not pod.is_listening(path)
        listener.listen()
        assert pod.is_listening(path)
    assert not pod.is_listening(path)
