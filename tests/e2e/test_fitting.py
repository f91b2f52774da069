"""A checkpoint goes on only where it fits: what differs is named before anything is fetched, and nothing is lost."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from jobs import count
from support.builds import another_build, library_of

from ckptrun.app.identity import this_owner
from ckptrun.core.cpu import AVX, ZMM_HIGH
from ckptrun.core.model import Snapshot, Trigger
from ckptrun.store.repository import Keep, Lineage, open_backend

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.run import Lab, Result

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("held")]

STEPS = 150
OFTEN = ("--interval", "0.4s")


def loading(lab: Lab, library: Path) -> tuple[object, ...]:
    """Return a job that has a library of its own loaded; a file in the command would be looked at by itself."""
    lab.environment = {**lab.environment, "OWN_LIBRARY": str(library)}
    path = Path(__file__).parent / "jobs" / "count.py"
    load = "import ctypes, os, runpy; ctypes.CDLL(os.environ['OWN_LIBRARY'])"
    script = f"{load}; runpy.run_path({str(path)!r}, run_name='__main__')"
    return (sys.executable, "-c", script, "--steps", STEPS, "--pause", 0.04)


def finished(result: Result, lab: Lab) -> None:
    assert result.code == 0, result.err
    assert result.out.splitlines()[-1] == count.result(STEPS)
    assert (lab.work / "log.txt").read_text().splitlines() == count.lines(STEPS)


def packs(lab: Lab) -> Path:
    return Path(lab.store.removeprefix("file://")) / lab.name / "packs"


def state(lab: Lab) -> str:
    return str(lab.ask("show", "--json").json["state"])


@pytest.mark.parametrize("gone", [False, True], ids=["another build", "gone"])
def test_another_build_of_a_library_is_refused_by_name_before_any_download(lab: Lab, gone: bool):
    library = library_of(lab.folder)
    kept = shutil.copy2(library, lab.folder / "kept.so")
    job = loading(lab, library)
    run = lab.start(*job, options=OFTEN)
    run.commit(2)
    run.kill_supervisor()
    if gone:
        library.unlink()
    else:
        another_build(library)
    log = (lab.work / "log.txt").read_bytes()
    hidden = packs(lab).rename(packs(lab).with_name("elsewhere"))

    for _ in range(2):  # it stays refused, and resumable
        refused = lab.run(*job, options=OFTEN)
        assert refused.code == 74, refused.err
        assert f"{library} is {'not here' if gone else 'another one'}" in refused.err
        assert "put the same versions there" in refused.err
        assert refused.err.count("does not fit here") == 1
        assert (lab.work / "log.txt").read_bytes() == log
        assert state(lab) == "interrupted"
    assert {row["state"] for row in lab.checkpoints()} == {"committed"}

    hidden.rename(packs(lab))
    shutil.copy2(kept, library)
    finished(lab.run(*job, options=OFTEN), lab)
    assert len(lab.events("job-started")) == 1


def test_a_library_that_is_replaced_under_the_running_job_stops_its_restore(lab: Lab):
    library = library_of(lab.folder)
    kept = shutil.copy2(library, lab.folder / "kept.so")
    job = loading(lab, library)
    run = lab.start(*job)
    run.checkpoint()
    copy = lab.folder / "new.so"
    shutil.copy2(library, copy)
    another_build(copy)
    copy.replace(library)
    run.kill_job()
    ended = run.wait()
    assert ended.code == 74, ended.err
    assert f"{library} is another one" in ended.err
    shutil.copy2(kept, library)
    finished(lab.run(*job, options=OFTEN), lab)


def claim(lab: Lab, change: Callable[[dict[str, Any]], None]) -> None:
    """Commit the newest checkpoint once more, as the newest, with other facts about the machine it was made on."""
    lineage = Lineage(open_backend(lab.store, s3_endpoint_url=None), lab.name, None)
    newest = lineage.load(lineage.checkpoints()[0])
    facts: dict[str, Any] = dict(newest.facts)
    change(facts["compat"])
    streams = tuple(replace(s, memory=newest.memory_runs(s.name)) for s in newest.streams)
    head = lineage.head()
    assert head is not None
    writer = lineage.acquire(this_owner(), take_over=False, command=head.run.command)
    snapshot = Snapshot("claim", Trigger.REQUEST, newest.record.created + 1, streams, newest.files, facts)
    writer.commit(writer.put(snapshot, frozen_seconds=0.1), keep=Keep(3))
    writer.release()


def interrupted(lab: Lab, *options: str) -> tuple[object, ...]:
    command = (sys.executable, Path(__file__).parent / "jobs" / "count.py", "--steps", STEPS, "--pause", 0.04)
    run = lab.start(*command, options=(*OFTEN, *options))
    run.commit(2)
    run.kill_supervisor()
    return command


def test_a_cpu_feature_that_is_missing_here_is_named(lab: Lab):
    command = interrupted(lab)

    def change(compat: dict[str, Any]) -> None:
        compat["cpu"] = ["GenuineIntel", "Xeon of tomorrow", compat["cpu"][2] + " amx_fp16 cmpccxadd"]

    claim(lab, change)
    refused = lab.run(*command, options=OFTEN)
    assert refused.code == 74, refused.err
    assert "lacks amx_fp16, cmpccxadd" in refused.err
    assert "Xeon of tomorrow" in refused.err
    assert "--portable-cpu" in refused.err
    assert state(lab) == "interrupted"
    oldest = lab.checkpoints()[-1]["id"]
    finished(lab.execute(lab.argv("restore", lab.name, "--store", lab.store, "--at", oldest)), lab)


def test_a_portable_job_goes_on_where_features_above_its_level_are_missing(lab: Lab):
    command = interrupted(lab, "--portable-cpu", "x86-64-v2")

    def change(compat: dict[str, Any]) -> None:
        assert compat["portable"] == "x86-64-v2"
        compat["cpu"][2] += " amx_fp16 cmpccxadd"

    claim(lab, change)
    result = lab.run(*command, options=(*OFTEN, "--portable-cpu", "x86-64"))
    assert (
        "--portable-cpu x86-64 has no effect: the job was started with --portable-cpu x86-64-v2" in result.err
    )
    finished(result, lab)
    assert lab.checkpoints()[0]["compat"]["portable_cpu"] == "x86-64-v2"


def test_a_portable_jobs_threads_hold_no_registers_above_the_level(lab: Lab):
    flags = Path("/proc/cpuinfo").read_text()
    if "avx512vl" not in flags:
        pytest.skip("this CPU has no AVX-512")
    pytest.importorskip("numpy")
    script = (
        "import numpy as np, time\n"
        "a = np.random.default_rng(1).random((100, 100))\n"
        "while True:\n a = a @ a; a /= np.abs(a).max(); print(len(str(a)), flush=True); time.sleep(0.01)"
    )
    command = (sys.executable, "-c", script)
    held = {}
    for level in ("", "x86-64-v3"):
        lab.name = f"job{level}"
        run = lab.start(
            *command, options=("--interval", "off", *(["--portable-cpu", level] if level else []))
        )
        run.prints("\n")
        run.checkpoint()
        run.kill_supervisor()
        lineage = Lineage(open_backend(lab.store, s3_endpoint_url=None), lab.name, None)
        facts: Any = lineage.load(lineage.checkpoints()[0]).facts
        held[level] = facts["compat"]["registers"]
    assert held[""] >> ZMM_HIGH & 1, "the test's job does not use what it should be kept from"
    assert held["x86-64-v3"] < 1 << AVX + 1


def test_show_says_in_short_what_a_checkpoint_depends_on(lab: Lab):
    interrupted(lab)
    compat = lab.checkpoints()[0]["compat"]
    assert compat["cpu"].startswith("x86-64")
    assert compat["kernel"]
    assert compat["criu"].split(".")[0].isdigit()
    assert compat["libc"].split()[0] in {"glibc", "musl"}
    assert compat["files"] > 5
    assert compat["portable_cpu"] is None
