"""A visit sees another process's files under its own paths, makes files as its user, and takes nothing home as code."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from ckptrun.capsule.spec import Identity
from ckptrun.capsule.visit import AtHome, Visits, here, home
from ckptrun.core.model import BytesSource
from ckptrun.errors import ConfigurationError
from ckptrun.settings import check_preserved

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UID, GID, GROUP = 4201, 4202, 4203

_THERE = """
set -e
mount -t tmpfs none "$1"
mkdir "$1/far"
echo there > "$1/far/file"
ln -s "$1/far" "$1/near"
echo 'raise RuntimeError("a stranger ran in the supervisor")' > "$1/strange.py"
chmod 1777 "$1" "$1/far"
mount --bind "$2" "$2"
mount -o remount,bind,ro "$2"
echo ready
exec cat
"""


@dataclass
class Other:
    """A process with a mount namespace of its own."""

    pid: int
    files: Path
    shared: Path


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Other]:
    files, shared = tmp_path / "files", tmp_path / "shared"
    files.mkdir()
    shared.mkdir(mode=0o700)
    tmp_path.chmod(0o755)
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _THERE, "sh"]
    with subprocess.Popen(
        [*argv, str(files), str(shared)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        yield Other(process.pid, files, shared)
        process.stdin.close()


@pytest.fixture
def visits(other: Other) -> Iterator[Visits]:
    visits = Visits(other.pid, other.shared, Identity(UID, GID, (GROUP,)))
    yield visits
    visits.close()


def test_absolute_symlinks_lead_where_they_lead_there(other: Other, visits: Visits) -> None:
    file = other.files / "near" / "file"
    assert not file.exists()
    assert visits(file.read_text) == "there\n"
    assert not file.exists()


def test_what_is_made_there_belongs_to_the_other_user(other: Other, visits: Visits) -> None:
    def make() -> os.stat_result:
        file = other.files / "made"
        file.write_text("x")
        os.chown(file, -1, GROUP)
        os.utime(file, ns=(5, 7))
        return file.stat()

    status = visits(make)
    assert (status.st_uid, status.st_gid, status.st_mtime_ns) == (UID, GROUP, 7)


def test_the_shared_folder_can_be_written_although_the_other_side_cannot(
    other: Other, visits: Visits
) -> None:
    visits(lambda: (other.shared / "log").write_text("x"))
    assert (other.shared / "log").read_text() == "x"
    with pytest.raises(OSError, match="Read-only"):
        (other.shared.__class__(f"/proc/{other.pid}/root{other.shared}") / "log").write_text("y")


def test_nothing_that_lies_there_is_imported(
    other: Other, visits: Visits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(other.files))
    with pytest.raises(ImportError, match="strange would be imported on a visit"):
        visits(lambda: __import__("strange"))
    assert "strange" not in sys.modules


def test_a_visit_has_things_done_at_home(other: Other, visits: Visits) -> None:
    me = threading.current_thread()
    inside = other.files / "far" / "file"

    def work() -> tuple[bool, bool, bool]:
        at_home = home(lambda: threading.current_thread() is me and not inside.exists())
        return threading.current_thread() is not me, inside.exists(), at_home

    assert visits(work) == (True, True, True)
    assert home(lambda: threading.current_thread() is me)

    with pytest.raises(ZeroDivisionError):
        visits(lambda: home(lambda: 1 // 0))


def test_sources_are_read_at_home(visits: Visits) -> None:
    threads = set[str]()

    class Watched(BytesSource):
        def pieces(self) -> Iterator[memoryview]:
            threads.add(threading.current_thread().name)
            yield from super().pieces()

    source = AtHome(Watched(b"content"))
    assert b"".join(map(bytes, visits(lambda: list(source.pieces())))) == b"content"
    assert visits(lambda: bytes(source.read(1, 2))) == b"on"
    assert threads == {threading.current_thread().name}


def test_visits_in_visits_are_one(visits: Visits) -> None:
    assert visits(lambda: visits(threading.get_ident) == threading.get_ident())
    assert here(lambda: 7) == 7


def test_visits_go_on_after_the_other_process_has_ended(other: Other, visits: Visits) -> None:
    os.kill(other.pid, 9)
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    assert visits((other.files / "far" / "file").read_text) == "there\n"


def test_a_path_to_preserve_is_looked_for_where_the_job_lives(other: Other, visits: Visits, tmp_path: Path):
    def check(path: str) -> None:
        check_preserved({}, {"CKPTRUN_PRESERVE": path}, tmp_path, other.files, visits)

    check(f"near/file:{other.files}/far")
    with pytest.raises(ConfigurationError) as caught:
        check(f"near:{tmp_path}/here")
    assert str(caught.value).startswith(
        f"CKPTRUN_PRESERVE: {tmp_path}/here does not exist; name a file or folder"
    )
    (tmp_path / "here").touch()  # seen by the other side, as by this one
    check(f"{tmp_path}/here")
    with pytest.raises(ConfigurationError, match=f"{other.files}/gone does not exist"):
        check("gone")
