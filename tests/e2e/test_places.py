"""Folders that cannot be written when a run starts: what is wrong and which variable names another is said."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.run import Lab, Result

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")]

SHORT = "/mnt"
OFF = ("--interval", "off")
NO_CHECKPOINT = 76


def readonly(lab: Lab, *more: str) -> tuple[str, ...]:
    """Return what starts a program to which /run and the temporary folders are read-only, all but the lab's own."""
    own = shlex.quote(str(lab.folder))
    words = [
        "mount --make-rprivate /",
        f"mount --bind {own} {SHORT}",
        "for f in /run /tmp /var/tmp; do mount --rbind $f $f && mount -o remount,bind,ro $f; done",
        f"mount --bind {SHORT} {own}",
        f"umount {SHORT}",
        f"mount -t tmpfs -o mode=1777 none {SHORT}",
        *more,
        'exec "$@"',
    ]
    return ("unshare", "-m", "sh", "-ec", "\n".join(words), "sh")


def refused(result: Result, *said: str) -> None:
    assert result.code == 78, result.err
    assert "internal" not in result.err
    for words in said:
        assert words in result.err


def test_no_place_for_sockets_is_told_with_the_folders_and_the_variable(lab: Lab):
    lab.prefix = readonly(lab)
    lab.environment = {"TMPDIR": "/no/such/folder"}
    refused(
        lab.run("true", options=OFF),
        "/run (Read-only file system), /tmp (Read-only file system), /no/such/folder (No such file or directory)",
        "set TMPDIR to a folder that can be written",
    )


def test_a_tmpdir_whose_path_is_too_long_for_sockets_is_told(lab: Lab):
    lab.prefix = readonly(lab)
    place = lab.folder / ("x" * 40)
    place.mkdir()
    lab.environment = {"TMPDIR": str(place)}
    refused(lab.run("true", options=OFF), f"{place} (a path of more than 40 bytes)")


def test_an_ordinary_user_without_a_place_for_sockets_is_told(ordinary: Lab):
    ordinary.prefix = (*readonly(ordinary), *ordinary.prefix)
    ordinary.environment = {"XDG_RUNTIME_DIR": "", "TMPDIR": ""}
    result = ordinary.run("sh", "-c", "echo well")  # its state directory will do
    assert (result.code, result.out) == (0, "well\n"), result.err
    assert list(ordinary.state_dir.glob("ckptrun-*")) == []
    ordinary.name = "another"
    ordinary.environment |= {"XDG_STATE_HOME": str(ordinary.home / ("x" * 40))}
    refused(ordinary.run("true"), "/tmp (Read-only file system)", "set TMPDIR")


def test_tmpdir_serves_where_nothing_else_does_and_what_criu_lacks_is_told(lab: Lab):
    lab.prefix = readonly(lab)
    lab.environment = {"TMPDIR": SHORT}
    run = lab.start("sh", "-c", "read forever", options=OFF, stdin=-1)
    run.job_pid()
    asked = lab.ask("checkpoint", "--wait")
    assert asked.code == NO_CHECKPOINT, asked.err
    assert "make /tmp writable" in asked.err
    run.stdin.close()
    assert run.wait().code == 1


def test_a_full_folder_is_passed_over(lab: Lab):
    lab.prefix = ("unshare", "-m", "sh", "-ec", 'mount -t tmpfs -o size=4k none /run; exec "$@"', "sh")
    assert lab.run("true", options=OFF).code == 0


def test_no_place_for_temporary_files_is_told(lab: Lab):
    lab.prefix = readonly(lab, "cd /proc")
    refused(lab.run("true", options=OFF), "there is no place for", "set TMPDIR")


@pytest.mark.parametrize("kind", ["file", "read-only"])
def test_a_state_folder_that_cannot_be_written_is_told_with_the_variable(lab: Lab, kind: str):
    state = lab.folder / "state"
    if kind == "file":
        state.touch()
    else:
        state.mkdir()
        mount = f'mount -t tmpfs -o ro none {shlex.quote(str(state))}; exec "$@"'
        lab.prefix = ("unshare", "-m", "sh", "-ec", mount, "sh")
    lab.environment = {"XDG_STATE_HOME": str(state)}
    refused(lab.run("true", options=OFF), str(state), "set XDG_STATE_HOME")
