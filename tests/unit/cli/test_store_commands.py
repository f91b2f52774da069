"""Commands that read a store, over a real directory store with real checkpoints in it."""

from __future__ import annotations

import json
import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ckptrun.app.identity import this_owner
from ckptrun.app.requests import restore_settings
from ckptrun.cli.main import main
from ckptrun.core.model import BytesSource, Exit, FileContent, ImageStream, RunState, Snapshot, Trigger
from ckptrun.errors import ConfigurationError, NoCheckpointError, UsageError
from ckptrun.store.repository import CommandFacts, Keep, KeySource, Lineage, RunInfo, open_backend
from ckptrun.supervisor.control import ControlServer
from ckptrun.telemetry.events import FILE_NAME, EventLog

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

KEEP = Keep(last=10)


class Place:
    """A store, a state directory, and the program's output."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.url = f"file://{folder}/store"
        self._capfd = capfd

    def cli(self, *words: str) -> tuple[int, str, str]:
        code = main([words[0], "--store", self.url, *words[1:]])
        captured = self._capfd.readouterr()
        return code, captured.out, captured.err

    def json(self, *words: str) -> Any:
        code, out, _ = self.cli(*words, "--json")
        assert code == 0
        return json.loads(out)

    def run(
        self,
        name: str,
        *,
        checkpoints: int = 2,
        state: RunState = RunState.FINISHED,
        exit_: Exit | None = None,
        key: KeySource | None = None,
    ) -> list[str]:
        """Make a lineage with a run that ended, and return its checkpoints' ids, oldest first."""
        lineage = Lineage(open_backend(self.url, s3_endpoint_url=None), name, key)
        command = CommandFacts(("python", "train.py"), str(self.folder), "digest")
        writer = lineage.acquire(this_owner(), take_over=False, command=command)
        run = RunInfo(RunState.RUNNING, None, command, time.time(), labels={"team": "a"})
        writer.set_run(run)
        ids = []
        for number in range(checkpoints):
            snapshot = Snapshot(
                f"c{number}",
                Trigger.INTERVAL,
                1_700_000_000.5 + number,
                (ImageStream("inventory.img", BytesSource(random.Random(number).randbytes(300_000))),),
                facts={"compat": {"kernel": "6.1"}},
            )
            ids.append(writer.commit(writer.put(snapshot, frozen_seconds=0.25), keep=KEEP).id)
        if state is not RunState.RUNNING:
            writer.close(replace(run, state=state, exit=exit_, ended=time.time()))
        return ids


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Place:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("CKPTRUN_PASSPHRASE", raising=False)
    return Place(tmp_path, capfd)


# --- ls


def test_an_empty_store_lists_nothing(place: Place):
    (place.folder / "store").mkdir()
    assert place.json("ls") == []


def test_ls_has_the_contracts_fields(place: Place):
    place.run("train", exit_=Exit("job", 0))
    place.run("eval", checkpoints=0, state=RunState.FAILED, exit_=Exit("ckptrun", 74))
    evaluation, training = place.json("ls")
    assert training.pop("bytes_stored") > 0
    assert training == {
        "name": "train",
        "store": place.url,
        "state": "finished",
        "checkpoints": 2,
        "set_aside": 0,
        "newest": "2023-11-14T22:13:21.500Z",
        "exit": {"by": "job", "code": 0},
    }
    assert (evaluation["state"], evaluation["newest"]) == ("failed", None)
    assert evaluation["exit"] == {"by": "ckptrun", "code": 74}


def test_ls_for_people_is_one_line_a_lineage(place: Place):
    place.run("train", exit_=Exit("job", 3), state=RunState.FAILED)
    _, out, _ = place.cli("ls")
    head, row = out.splitlines()
    assert head.split() == ["NAME", "STATE", "CHECKPOINTS", "NEWEST", "STORED", "EXIT"]
    assert row.startswith("train")
    assert "3 by job" in row
    assert "\x1b" not in out


def test_ls_and_show_say_what_is_set_aside_and_which_is_the_newest_that_a_run_goes_on_from(place: Place):
    older, newer = place.run("train", state=RunState.RUNNING)
    lineage = Lineage(open_backend(place.url, s3_endpoint_url=None), "train", None)
    command = CommandFacts(("python", "train.py"), str(place.folder), "digest")
    lineage.acquire(this_owner(), take_over=True, command=command).go_on_from(older)
    (row,) = place.json("ls")
    assert (row["checkpoints"], row["set_aside"], row["newest"]) == (2, 1, "2023-11-14T22:13:20.500Z")
    assert "2, 1 set aside" in place.cli("ls")[1]
    shown = place.json("show", "train")["checkpoints"]
    assert [(one["id"], one["set_aside"]) for one in shown] == [(newer, True), (older, False)]
    table = {line.split()[0]: line for line in place.cli("show", "train")[1].splitlines() if line}
    assert "set aside" in table[newer]
    assert "committed" in table[older]


def test_a_run_whose_supervisor_died_is_interrupted(place: Place, monkeypatch: pytest.MonkeyPatch):
    dead = replace(this_owner(), start_time=1)
    monkeypatch.setattr(f"{__name__}.this_owner", lambda: dead)
    place.run("train", state=RunState.RUNNING)
    assert place.json("ls")[0]["state"] == "interrupted"


def test_a_run_whose_supervisor_lives_is_running(place: Place):
    place.run("train", state=RunState.RUNNING)
    assert place.json("ls")[0]["state"] == "running"


def test_a_lineage_of_another_key_is_listed_with_its_problem_beside_the_others(place: Place):
    place.run("secret", key=KeySource(passphrase="geheim"))
    place.run("train")
    secret, training = place.json("ls")
    assert (secret["name"], secret["state"]) == ("secret", None)
    assert secret["problem"]
    assert training["state"] == "finished"


# --- show


def test_show_has_the_contracts_fields_newest_first(place: Place):
    place.run("train", exit_=Exit("job", 0))
    shown = place.json("show", "train")
    assert (shown["name"], shown["command"], shown["labels"]) == (
        "train",
        ["python", "train.py"],
        {"team": "a"},
    )
    assert shown["epoch"] >= 1
    newest, oldest = shown["checkpoints"]
    assert newest.keys() >= {
        *("id", "seq", "state", "trigger", "created", "frozen_seconds", "memory_bytes", "new_bytes"),
        *(
            "stored_bytes",
            "upload_seconds",
            "files",
            "inexact",
            "file_bytes_frozen",
            "pinned",
            "metric",
            "compat",
        ),
    }
    assert (newest["id"], oldest["id"]) == ("c1", "c0")
    assert newest["seq"] > oldest["seq"]
    assert (newest["state"], newest["trigger"], newest["frozen_seconds"]) == ("committed", "interval", 0.25)
    assert newest["created"] == "2023-11-14T22:13:21.500Z"
    assert (newest["compat"]["kernel"], newest["compat"]["files"]) == ("6.1", 0)
    assert newest["compat"].keys() >= {"cpu", "kernel", "criu", "libc", "files"}


def test_show_for_people_names_every_checkpoint(place: Place):
    ids = place.run("train")
    _, out, _ = place.cli("show", "train")
    assert "command  python train.py\n" in out
    assert all(any(line.startswith(id_) for line in out.splitlines()) for id_ in ids)


def test_show_marks_a_checkpoint_whose_manifest_is_damaged(place: Place):
    place.run("train")
    manifest = max((place.folder / "store" / "train" / "manifests").iterdir())
    manifest.chmod(0o600)
    manifest.write_bytes(manifest.read_bytes()[:-8])
    states = [checkpoint["state"] for checkpoint in place.json("show", "train")["checkpoints"]]
    assert states == ["corrupt", "committed"]


@pytest.mark.parametrize("command", ["show", "verify", "restore"])
def test_a_lineage_that_is_not_there_is_named(place: Place, command: str):
    (place.folder / "store").mkdir()
    code, out, err = place.cli(command, "nobody")
    assert (code, out) == (64, "")
    assert "'nobody'" in err


@pytest.mark.parametrize("passphrase", ["", "wrong"])
def test_a_wrong_key_ends_with_78(place: Place, monkeypatch: pytest.MonkeyPatch, passphrase: str):
    place.run("secret", key=KeySource(passphrase="geheim"))
    if passphrase:
        monkeypatch.setenv("CKPTRUN_PASSPHRASE", passphrase)
    assert place.cli("show", "secret")[0] == 78


def test_the_right_passphrase_opens_a_lineage(place: Place, monkeypatch: pytest.MonkeyPatch):
    place.run("secret", key=KeySource(passphrase="geheim"))
    monkeypatch.setenv("CKPTRUN_PASSPHRASE", "geheim")
    assert len(place.json("show", "secret")["checkpoints"]) == 2


# --- verify


def test_verify_counts_what_it_read_and_finds_nothing_bad(place: Place):
    place.run("train")
    report = place.json("verify", "train")
    assert report["checked_bytes"] > 0
    assert report["bad"] == []


def test_verify_of_a_damaged_pack_ends_with_73_and_names_the_checkpoint(place: Place):
    place.run("train", checkpoints=1)
    for pack in (place.folder / "store" / "train" / "packs").iterdir():
        pack.chmod(0o600)
        data = bytearray(pack.read_bytes())
        data[len(data) // 2] ^= 1
        pack.write_bytes(data)
    code, out, _ = place.cli("verify", "train", "--json")
    assert code == 73
    assert "c0" in json.loads(out)["bad"][0]


def test_verify_reads_the_jobs_state_as_well(place: Place):
    place.run("train", checkpoints=1)
    before = place.json("verify", "train")["checked_bytes"]
    writer = Lineage(open_backend(place.url, s3_endpoint_url=None), "train", None).acquire(
        this_owner(), take_over=True, command=CommandFacts((), "/", "")
    )
    content = FileContent("state-a-0-1000", BytesSource(random.Random(9).randbytes(1000)))
    what = Snapshot("state-1", Trigger.EXIT, 1.0, (), (content,))
    record = writer.keep_state(writer.put(what, frozen_seconds=0.0))
    writer.release()
    assert place.json("verify", "train")["checked_bytes"] > before
    (place.folder / "store" / "train" / "manifests" / f"{record.seq:08d}-state-1").unlink()
    code, out, _ = place.cli("verify", "train", "--json")
    assert code == 73
    assert json.loads(out)["bad"][0].startswith("state-1: ")


def test_verify_at_reads_one_checkpoint(place: Place):
    place.run("train")
    assert place.json("verify", "train", "--at", "c0")["checkpoints"] == 1
    assert place.cli("verify", "train", "--at", "c9")[0] == 64


# --- restore


def settings_for(place: Place, at: str | None = None, **given: Any) -> Any:
    environ = {"HOME": "/h", "XDG_STATE_HOME": str(place.folder / "state"), "PATH": "/bin"}
    return restore_settings("train", at, {"store": place.url, **given}, environ, place.folder)


def test_a_restore_runs_the_lineages_own_command_where_it_ran(place: Place):
    place.run("train")
    settings = settings_for(place, "c0", grace="5s")
    assert settings.command == ("python", "train.py")
    assert (settings.cwd, settings.name, settings.at, settings.resume) == (place.folder, "train", "c0", True)
    assert settings.grace == 5.0


def test_a_restore_from_a_checkpoint_that_is_not_there_is_refused(place: Place):
    place.run("train")
    with pytest.raises(UsageError, match="no checkpoint 'c9'"):
        settings_for(place, "c9")


def test_a_restore_without_any_checkpoint_ends_with_74(place: Place):
    place.run("train", checkpoints=0)
    with pytest.raises(NoCheckpointError):
        settings_for(place)


def test_a_restore_where_the_commands_directory_is_gone_is_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    place.run("train")
    monkeypatch.setattr("pathlib.Path.is_dir", lambda _self: False)
    with pytest.raises(ConfigurationError, match="is no directory here"):
        settings_for(place)


# --- events and status of a live run


def run_dir(place: Place) -> Path:
    return settings_for(place).run_dir


def test_events_are_one_json_object_a_line_or_one_list(place: Place):
    place.run("train")
    run_dir(place).mkdir(parents=True)
    log = EventLog(run_dir(place) / FILE_NAME)
    log.emit("run-started", pid=1)
    log.emit("committed", id="c0")
    log.close()
    _, out, _ = place.cli("events", "train")
    assert [json.loads(line)["event"] for line in out.splitlines()] == ["run-started", "committed"]
    assert place.json("events", "train") == [json.loads(line) for line in out.splitlines()]
    assert place.cli("events", "train", "--follow")[1] == out  # nobody lives: it ends


def test_live_commands_reach_the_run_of_that_store(place: Place):
    place.run("train")
    seen: list[dict[str, Any]] = []

    def handle(request: dict[str, Any], reply: Any) -> None:
        seen.append(request)
        reply({"ok": True, "id": "c7", "pid": 7})

    server = ControlServer(run_dir(place), handle)
    server.start()
    try:
        status = place.json("status", "train")
        assert (status["pid"], status["restarts"]) == (7, None)
        assert list(status)[:3] == ["pid", "job_pid", "incarnation"]
        assert place.cli("checkpoint", "train", "--wait")[:2] == (0, "c7\n")
        assert place.json("stop", "train")["id"] == "c7"
        assert main(["status", "train", "--store", "file:///elsewhere"]) == 64
    finally:
        server.close()
    assert seen == [{"request": "status"}, {"request": "checkpoint", "wait": True}, {"request": "stop"}]
