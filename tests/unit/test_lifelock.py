"""What proves to a run that the one before it has ended, in whatever PID namespace that was."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ckptrun.app.beginning import Beginning
from ckptrun.app.identity import command_facts, this_owner
from ckptrun.app.lifelock import LifeLock
from ckptrun.app.stores import backend_of
from ckptrun.errors import FencedError, HeldError
from ckptrun.settings import resolve_run
from ckptrun.store.repository import Lineage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ckptrun.settings import RunSettings
    from ckptrun.store.repository import Writer

BOOT = "this-boot"
HOLDER = """
import sys
from pathlib import Path
from ckptrun.app.lifelock import LifeLock
from ckptrun.app.stores import backend_of
lock = LifeLock(Path(sys.argv[1]), sys.argv[2])
lock.enter(sys.argv[3])
print(*sorted(lock.gone), flush=True)
sys.stdin.read()
"""


class Holder:
    """A process that has the lock."""

    def __init__(self, folder: Path, session: str, boot: str = BOOT) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, folder, boot, session],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        self.gone = set(self._process.stdout.readline().split())

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[..., Holder]]:
    holders: list[Holder] = []

    def start(session: str, folder: Path = tmp_path, boot: str = BOOT) -> Holder:
        holders.append(Holder(folder, session, boot))
        return holders[-1]

    yield start
    for holder in holders:
        holder.kill()


def test_a_session_is_known_to_be_gone_once_its_process_is(hold: Callable[..., Holder], tmp_path: Path):
    first = hold("first")
    assert not LifeLock(tmp_path, BOOT).gone
    first.kill()
    second = hold("second")
    assert second.gone == {"first"}
    second.kill()
    assert LifeLock(tmp_path, BOOT).gone == {"first", "second"}


def test_a_copy_of_a_live_runs_folder_proves_nothing(hold: Callable[..., Holder], tmp_path: Path):
    (tmp_path / "run").mkdir()
    hold("first", tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert not LifeLock(tmp_path / "copy", BOOT).gone


def test_another_boot_proves_nothing(hold: Callable[..., Holder], tmp_path: Path):
    hold("first", boot="another-boot").kill()
    assert not LifeLock(tmp_path, BOOT).gone


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_filesystem_whose_locks_may_be_somebody_elses_proves_nothing(
    hold: Callable[..., Holder], tmp_path: Path
):
    with contextlib.ExitStack() as stack:
        if subprocess.run(
            ["mount", "-t", "ramfs", "none", tmp_path], capture_output=True, check=False
        ).returncode:
            pytest.skip("mount is not possible here")
        stack.callback(subprocess.run, ["umount", "--lazy", tmp_path], check=True)
        hold("first").kill()
        assert not LifeLock(tmp_path, BOOT).gone


@pytest.fixture
def settings(tmp_path: Path) -> RunSettings:
    given = {"store": f"file://{tmp_path}/store", "name": "train", "no-encryption": True}
    found = resolve_run(("true",), given, {"HOME": str(tmp_path)}, tmp_path)
    found.run_dir.mkdir(parents=True)
    return found


@pytest.fixture
def busy(settings: RunSettings) -> Iterator[tuple[str, Writer]]:
    """A session of another PID namespace whose HEAD moves on: whoever watches it takes it to live."""
    who = replace(this_owner(), pid_namespace="pid:[1]", pid=1)
    command = command_facts(settings.command, settings.cwd)
    writer = Lineage(backend_of(settings.store), settings.name, None).acquire(
        who, take_over=False, command=command
    )
    ended = threading.Event()

    def renew() -> None:
        with contextlib.suppress(FencedError):
            while not ended.wait(0.1):
                writer.renew()

    thread = threading.Thread(target=renew)
    thread.start()
    yield who.session, writer
    ended.set()
    thread.join()


def beginning(settings: RunSettings) -> Beginning:
    return Beginning(settings, command_facts(settings.command, settings.cwd), lambda _: None)


def test_the_next_container_takes_over_at_once_from_one_that_is_proven_dead(
    hold: Callable[..., Holder], settings: RunSettings, busy: tuple[str, Writer]
):
    session, _ = busy
    hold(session, settings.run_dir, this_owner().boot_id).kill()
    _, writer = beginning(settings).open_store()
    assert writer is not None
    assert writer.epoch == 2


@pytest.mark.slow
def test_two_containers_that_share_a_state_directory_and_live_are_told_apart(
    hold: Callable[..., Holder], settings: RunSettings, busy: tuple[str, Writer]
):
    session, _ = busy
    hold(session, settings.run_dir, this_owner().boot_id)
    with pytest.raises(HeldError):
        beginning(settings).open_store()
