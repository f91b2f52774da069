"""`ckptrun files`: what a checkpoint holds, what a rollback set aside, and how to get at it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.run import Lab

pytestmark = pytest.mark.slow

JOB = """
import os, time
from multiprocessing import shared_memory
from pathlib import Path
memory = shared_memory.SharedMemory("zoo", create=True, size=4096)
memory.buf[:3] = b"abc"
log = open("log.txt", "a")
table = open(b"table-\\xff.bin", "w+b")
table.write(bytes(range(256)) * 300)
table.flush()
os.fchmod(table.fileno(), 0o640)
log.write("first\\n")
log.flush()
Path("ready").touch()
while not Path("second").exists():
    time.sleep(0.02)
log.write("second\\n")
log.flush()
Path("done").touch()
while not Path("enough").exists():
    time.sleep(0.02)
memory.unlink()
"""


def test_files_lists_extracts_and_tells_what_was_set_aside(lab: Lab):
    run = lab.start(sys.executable, "-c", JOB, options=("--interval", "off"))
    run.until("ready", (lab.work / "ready").exists)
    name = run.checkpoint()
    (lab.work / "second").touch()
    run.until("done", (lab.work / "done").exists)
    (lab.work / "second").unlink()
    (lab.work / "done").unlink()
    run.restored(run.kill_job)

    found = lab.ask("files", "--json").json
    assert found["checkpoint"] == name
    files = {row["path"]: row for row in found["files"]}
    log, table = files[f"{lab.work}/log.txt"], files[f"{lab.work}/table-\\xff.bin"]
    assert (log["kind"], log["size"], log["exact"]) == ("file", 6, True)
    assert (table["size"], table["mode"]) == (76800, "0640")
    assert files["/dev/shm/zoo"]["private"]
    [entry] = [row for row in found["set_aside"] if row["path"] == log["path"]]
    assert (entry["reason"], entry["offset"], entry["bytes"]) == ("cut back", 6, 7)
    assert (Path(found["folder"]) / entry["id"]).read_bytes() == b"second\n"
    shown = lab.checkpoints()[0]
    assert shown["file_bytes_frozen"] == found["bytes_inside"]

    target = lab.folder / "extracted"
    extracted = lab.ask("files", "--at", name, "--extract", str(target), "--json")
    assert extracted.code == 0, extracted.err
    assert extracted.json["problems"] == []
    assert Path(f"{target}{lab.work}/log.txt").read_text() == "first\n"
    copy = Path(os.fsdecode(os.fsencode(f"{target}{lab.work}/table-") + b"\xff.bin"))
    assert copy.read_bytes() == bytes(range(256)) * 300
    assert copy.stat().st_mode & 0o777 == 0o640
    assert Path(f"{target}/dev/shm/zoo").read_bytes()[:3] == b"abc"

    again = lab.ask("files", "--extract", str(target))
    assert again.code == 64
    assert "is not empty" in again.err
    plain = lab.ask("files")
    assert plain.code == 0
    assert "log.txt" in plain.out
    assert "cut back" in plain.out
    (lab.work / "second").touch()
    (lab.work / "enough").touch()
    assert run.wait().code == 0


def test_a_lineage_without_a_checkpoint_has_no_files(lab: Lab):
    run = lab.start(sys.executable, "-c", "import time; time.sleep(100)", options=("--interval", "off"))
    run.job_pid()
    asked = lab.ask("files")
    assert asked.code == 64
    assert "has no checkpoint yet" in asked.err
