"""Files that cannot simply be rolled back: a full disk, too much to keep, mounts, and others at work beside the job."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import chain
import pytest
from disk import Disk
from support.run import RESTORED, Lab

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.run import Run

pytestmark = pytest.mark.slow

JOB = (sys.executable, Path(__file__).with_name("chain.py"))
RARELY = ("--interval", "off")


@contextlib.contextmanager
def mounted(place: Path, options: str) -> Iterator[None]:
    """Mount an empty filesystem for a while."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def finish(lab: Lab, run: Run) -> str:
    """Let the chain end, and check its result."""
    (lab.work / "finish").touch()
    result = run.wait()
    assert result.code == 0, result.err
    assert chain.is_exact(lab.work, result.out), result.err
    return result.err


def test_a_disk_that_is_full_at_a_restore_ends_the_run_and_the_same_command_with_room_is_exact(lab: Lab):
    with mounted(lab.work, "size=2m"):
        run = lab.start(*JOB, options=RARELY)
        run.until("steps", lambda: size(lab.work / "log.txt") > 500)
        first = run.checkpoint()
        newest = run.checkpoint()
        run.kill_supervisor()
        (lab.work / "log.txt").unlink()
        fill(lab.work / "filler")
        before = {path.name: path.read_bytes() for path in lab.work.iterdir()}

        refused = lab.run(*JOB, options=RARELY)
        assert (refused.code, refused.out) == (74, ""), refused.err
        assert (
            f"checkpoint {newest} cannot be restored now: no room on the filesystem to write {lab.work}/"
            in refused.err
        )
        assert "No space left on device; free some space there and run the same command again" in refused.err
        assert first not in refused.err, "an older checkpoint would throw work away"
        assert {path.name: path.read_bytes() for path in lab.work.iterdir()} == before
        (row,) = lab.ask("ls", "--json").json
        assert row["state"] == "interrupted"

        (lab.work / "filler").unlink()
        events = len(lab.events())
        run = lab.start(*JOB, options=RARELY)
        assert run.event(RESTORED, after=events)["checkpoint"] == newest
        finish(lab, run)


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))


KEEPER = """
import time
from pathlib import Path
Path("kept/small").write_text("recorded")
Path("ready").touch()
while not Path("finish").exists():
    time.sleep(0.01)
print("small:", Path("kept/small").read_text())
"""


def keep(lab: Lab, *options: str) -> Run:
    run = lab.start(
        sys.executable, "-c", KEEPER, options=(*RARELY, "--preserve", str(lab.work / "kept"), *options)
    )
    run.until("ready", (lab.work / "ready").exists)
    return run


def test_a_preserved_tree_past_the_limit_is_named_and_the_job_goes_on(lab: Lab):
    kept = lab.work / "kept"
    kept.mkdir()
    for number in range(30):
        (kept / f"large-{number:02}").write_bytes(os.urandom(200_000))
    run = keep(lab, "--journal-limit", "100K")
    run.checkpoint()
    run.checkpoint()
    (kept / "small").write_text("modified")
    (kept / "large-00").write_bytes(b"modified")
    run.restored(run.kill_job)
    (lab.work / "finish").touch()
    result = run.wait()
    assert (result.code, result.out) == (0, "small: recorded\n"), result.err
    assert (kept / "large-00").read_bytes() == b"modified"
    past = [line for line in result.err.splitlines() if "--journal-limit" in line]
    assert 1 < len(past) < 12, "the first few, once"
    assert str(kept / "large-00") in past[0]
    assert "more files" in result.err
    assert f"{kept}/large-00 is not in the checkpoint and stays as it is now" in result.err
    inexact = [row["path"] for row in lab.ask("files", "--json").json["files"] if not row["exact"]]
    assert len(inexact) == 30


def test_a_preserved_tree_larger_than_the_store_costs_the_checkpoints_and_not_the_job(lab: Lab):
    kept = lab.work / "kept"
    kept.mkdir()
    (kept / "large").write_bytes(os.urandom(140 << 20))
    with Disk(lab, "size=120m"):
        run = keep(lab)
        assert lab.ask("checkpoint").code == 0
        assert "No space left on device" in run.event("commit-failed")["reason"]
        (lab.work / "finish").touch()
        result = run.wait()
    assert (result.code, result.out) == (0, "small: recorded\n"), result.err


@pytest.mark.parametrize("how", ["loop", "missing", "dangling"])
def test_a_preserved_path_that_leads_nowhere_is_refused_at_the_start(lab: Lab, how: str):
    path = lab.work / "kept"
    if how != "missing":
        path.symlink_to("kept" if how == "loop" else "nowhere")
    result = lab.run("echo", "started", options=("--preserve", str(path)))
    assert (result.code, result.out) == (78, "")
    assert str(path) in result.err
    says = "Too many levels of symbolic links" if how == "loop" else "does not exist"
    assert says in result.err


def test_a_preserved_mount_point_is_rolled_back_and_named_where_it_is_missing(lab: Lab):
    kept = lab.work / "kept"
    with mounted(kept, "size=8m"):
        run = keep(lab)
        run.checkpoint()
        (kept / "small").write_text("modified")
        run.restored(run.kill_job)
        assert (kept / "small").read_text() == "recorded"
        assert kept.is_mount()
        run.kill_supervisor()
    events = len(lab.events())
    run = keep(lab)
    run.event(RESTORED, after=events)
    (lab.work / "finish").touch()
    result = run.wait()
    assert (result.code, result.out) == (0, "small: recorded\n"), result.err
    assert f"{kept} was a mount point at the checkpoint and is none here" in result.err


NEIGHBOUR = """
import os, sys, time
from pathlib import Path
name = sys.argv[1]
step = 0
while not Path(f"finish-{name}").exists():
    step += 1
    with open(f"log-{name}", "a") as log:
        log.write(f"{step}\\n")
    Path(f"tmp-{name}").write_text(str(step))
    os.rename(f"tmp-{name}", f"state-{name}")
    time.sleep(0.01)
print(step)
"""


def test_a_sibling_job_and_an_editor_in_the_same_folder_are_left_alone(lab: Lab, tmp_path: Path):
    def steps(name: str) -> int:
        log = lab.work / f"log-{name}"
        return log.read_text().count("\n") if log.exists() else 0

    def result(name: str, run: Run) -> None:
        (lab.work / f"finish-{name}").touch()
        ended = run.wait()
        assert ended.code == 0, ended.err
        last = int(ended.out)
        assert (lab.work / f"log-{name}").read_text() == "".join(f"{step}\n" for step in range(1, last + 1))
        assert (lab.work / f"state-{name}").read_text() == str(last)

    with Lab(tmp_path / "sibling", name="sibling", options=RARELY) as sibling:
        shutil.rmtree(sibling.work)
        sibling.work = lab.work
        other = sibling.start(sys.executable, "-c", NEIGHBOUR, "b")
        other.checkpoint()
        run = lab.start(sys.executable, "-c", NEIGHBOUR, "a", options=RARELY)
        run.until("steps", lambda: steps("a") > 5 and steps("b") > 5)
        (lab.work / "notes").write_text("of a user")
        run.checkpoint()
        seen = steps("b")
        run.until("more steps", lambda: steps("a") > 50 and steps("b") > seen + 20)
        (lab.work / "notes~").write_text("of a user, saved as editors do")
        (lab.work / "notes~").rename(lab.work / "notes")
        (lab.work / "todo").write_text("a new file")
        notes = [
            (path.stat().st_ino, path.stat().st_mtime_ns) for path in (lab.work / "notes", lab.work / "todo")
        ]
        run.restored(run.kill_job)
        assert [
            (path.stat().st_ino, path.stat().st_mtime_ns) for path in (lab.work / "notes", lab.work / "todo")
        ] == notes
        assert steps("b") > seen + 20, "the sibling's log was rolled back"
        result("a", run)
        result("b", other)
