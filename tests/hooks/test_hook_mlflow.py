"""The ready-made hook `mlflow` against MLflow itself: a folder, SQLite, PostgreSQL and a tracking server."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from support.hook_programs import Answer, call_inside, program
from support.ports import free_ports

os.environ |= {"MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.postgres import PostgresServer

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # MLflow's own

FREEZE = 1_700_000_000_000
CHECKPOINT = {"id": "c-1", "trigger": "interval", "created": FREEZE / 1000 + 0.0004}
OK = {"ok": True, "error": None}
NUMBERS = itertools.count()
VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_CONTEXT")


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(
    scope="module",
    params=["folder", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sqlite", "postgresql"))],
)
def uri(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("mlflow")
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        return server.database().replace("postgresql://", "postgresql+psycopg://")
    return str(folder) if request.param == "folder" else f"sqlite:///{folder}/mlflow.db"


class Tracked:
    """An experiment of its own with one run, and the hook on it."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        from mlflow import MlflowClient  # noqa: PLC0415 - slow to import, for workers that do not run this file

        self.client = MlflowClient(uri)
        self.name = f"experiment {next(NUMBERS)}"
        self.experiment = self.client.create_experiment(self.name)
        self.run = self.begin()
        self.options: dict[str, Any] = {"tracking_uri": uri, "run_id": self.run}

    def begin(self, at: int = FREEZE - 100_000, **tags: str) -> str:
        return str(self.client.create_run(self.experiment, start_time=at, tags=tags).info.run_id)

    def log(self, step: int, at: int, key: str = "loss", value: float | None = None) -> None:
        from mlflow.entities import Metric  # noqa: PLC0415

        point = Metric(key, float(step) if value is None else value, FREEZE + at, step)
        self.client.log_batch(self.run, metrics=[point], synchronous=True)

    def steps(self, key: str = "loss") -> list[int]:
        if key not in self.client.get_run(self.run).data.metrics:
            return []
        return [point.step for point in self.client.get_metric_history(self.run, key)]

    def call(self, phase: str, **fields: Any) -> Answer:
        return call_inside("mlflow", phase, options=self.options, checkpoint=CHECKPOINT, **fields)

    def restore(self, data: dict[str, Any] | None, **fields: Any) -> Answer:
        return self.call("pre-restore", data=data, **fields)


@pytest.fixture
def tracked(uri: str) -> Tracked:
    return Tracked(uri)


def test_points_logged_after_the_freeze_are_cut_and_no_others(tracked: Tracked):
    tracked.log(1, -300)
    tracked.log(1, -300, "deep/accuracy")
    data = tracked.call("pre-checkpoint").data
    tracked.log(2, -1)
    tracked.log(3, 0)  # in the very millisecond: it was before, or it is logged again
    tracked.log(4, 5)
    data |= tracked.call("post-checkpoint", data=data, outcome=OK).data
    for step in (5, 6):
        tracked.log(step, step * 10)
        tracked.log(step, step * 10, "deep/accuracy")
        tracked.log(step, step * 10, "new")
    answer = tracked.restore(data)
    assert answer.result["done"] == ["in-step", "cut"]
    assert answer.event("mlflow")["cut"] == {tracked.run: 7}
    assert (tracked.steps(), tracked.steps("deep/accuracy"), tracked.steps("new")) == ([1, 2, 3], [1], [])
    assert tracked.client.get_run(tracked.run).data.metrics == {"loss": 3.0, "deep/accuracy": 1.0}
    again = tracked.restore(data)
    assert again.event("mlflow")["cut"] == {tracked.run: 0}


def test_the_replayed_curve_is_that_of_an_undisturbed_run(tracked: Tracked):
    other = Tracked(tracked.uri)
    for step in range(10):
        tracked.log(step, step - 5)
        other.log(step, step - 5)
    tracked.restore(None)
    for step in range(6, 10):
        tracked.log(step, step + 100)
    assert tracked.steps() == other.steps()
    metrics = [one.client.get_run(one.run).data.metrics for one in (tracked, other)]
    assert metrics[0] == metrics[1]


def test_points_with_times_of_their_own_are_told_by_their_number(tracked: Tracked):
    tracked.log(1, 7_000_000)  # later than the freeze, and yet before it
    data = tracked.call("pre-checkpoint").data
    data |= tracked.call("post-checkpoint", data=data, outcome=OK).data
    tracked.log(2, 8_000_000)
    tracked.log(3, 9_000_000)
    tracked.restore(data)
    assert tracked.steps() == [1]


def test_points_that_bear_an_old_time_and_came_after_the_second_look_are_cut(tracked: Tracked):
    tracked.log(1, -3000)
    data = tracked.call("pre-checkpoint").data
    data |= tracked.call("post-checkpoint", data=data, outcome=OK).data
    tracked.log(2, -2000)
    tracked.restore(data)
    assert tracked.steps() == [1]


def test_nan_and_infinity_are_cut_like_any_other(tracked: Tracked):
    tracked.log(1, -1, value=float("nan"))
    for step, value in ((2, float("nan")), (3, float("inf")), (4, float("-inf"))):
        tracked.log(step, 10, value=value)
    tracked.restore(None)
    assert tracked.steps() == [1]


def test_a_point_in_the_middle_is_cut_and_the_rest_stays(tracked: Tracked):
    data = tracked.call("pre-checkpoint").data
    for step, at in ((1, -10), (2, 10), (3, -5)):
        tracked.log(step, at)
    tracked.restore(data)
    assert sorted(tracked.steps()) == [1, 3]


def test_a_run_that_ended_after_the_checkpoint_is_open_again(tracked: Tracked):
    tracked.client.set_terminated(tracked.run, "FAILED", end_time=FREEZE + 5)
    answer = tracked.restore(None)
    assert answer.event("mlflow")["reopened"] == [tracked.run]
    info = tracked.client.get_run(tracked.run).info
    assert (info.status, info.end_time) == ("RUNNING", None)
    tracked.client.set_terminated(tracked.run, "FINISHED", end_time=FREEZE - 5)
    tracked.restore(None)
    assert tracked.client.get_run(tracked.run).info.status == "FINISHED"


def test_tagged_runs_are_found_and_those_begun_after_the_checkpoint_deleted(tracked: Tracked):
    lineage = f"train-{next(NUMBERS)}"
    del tracked.options["run_id"]
    mine = tracked.run = tracked.begin(**{"ckptrun.lineage": lineage})
    tracked.log(1, -5)
    data = tracked.call("pre-checkpoint", lineage=lineage).data
    tracked.log(2, 5)
    later = tracked.begin(at=FREEZE + 1, **{"ckptrun.lineage": lineage})
    others = tracked.begin(at=FREEZE + 1, **{"ckptrun.lineage": "else"})
    event = tracked.restore(data, lineage=lineage).event("mlflow")
    assert (event["cut"], event["deleted"]) == ({mine: 1}, [later])
    stages = [tracked.client.get_run(run).info.lifecycle_stage for run in (mine, later, others)]
    assert stages == ["active", "deleted", "active"]
    tracked.client.restore_run(later)


def test_the_only_open_run_of_an_experiment_is_the_jobs(tracked: Tracked):
    tracked.options = {"tracking_uri": tracked.uri, "experiment": tracked.name}
    tracked.log(1, 5)
    data = tracked.call("pre-checkpoint").data
    tracked.client.set_terminated(tracked.run, "FAILED", end_time=FREEZE + 9)
    tracked.log(2, 8)
    tracked.begin()  # somebody else's, since
    tracked.restore(data)
    assert tracked.steps() == [1]
    tracked.client.set_terminated(tracked.begin(), "FINISHED")
    assert "which of the 2 open runs" in tracked.call("pre-checkpoint").reason


def test_a_dry_run_changes_nothing(tracked: Tracked):
    tracked.log(1, 5)
    answer = tracked.restore(None, dry_run=True)
    assert answer.result["reason"].startswith("1 points would be cut")
    assert tracked.steps() == [1]


def test_a_run_that_is_not_there_is_named(tracked: Tracked):
    tracked.options["run_id"] = "0" * 32
    assert "there is no run 000" in tracked.call("pre-checkpoint").reason


def test_without_a_word_about_runs_or_places_it_says_what_to_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert "Give tracking_uri=" in call_inside("mlflow", "pre-checkpoint").reason
    for place in (f"sqlite:///{tmp_path}/none.db", str(tmp_path / "none")):
        options = {"tracking_uri": place}
        assert "which runs are the job's?" in call_inside("mlflow", "pre-checkpoint", options=options).reason
        with monkeypatch.context() as with_tag:
            with_tag.setenv("MLFLOW_RUN_CONTEXT", '{"ckptrun.lineage": "train"}')
            for phase in ("pre-checkpoint", "pre-restore"):  # MLflow has made nothing yet
                assert call_inside("mlflow", phase, options=options).code == 0
    assert list(tmp_path.iterdir()) == []


def test_a_database_out_of_reach_is_told():
    (port,) = free_ports(1)
    options = {"tracking_uri": f"postgresql://127.0.0.1:{port}/mlflow", "run_id": "abc"}
    reason = call_inside("mlflow", "pre-restore", options=options).reason
    assert reason.startswith("MLflow's database cannot be used: ")


def test_a_password_that_is_not_encoded_is_not_taken_for_a_place():
    options = {"tracking_uri": "http://me:s3cr3t/more@127.0.0.1:1/", "run_id": "0" * 32}
    answer = call_inside("mlflow", "pre-checkpoint", options=options)
    assert answer.reason.startswith("tracking_uri= is not a URL; correct it")
    assert "s3cr3t" not in answer.out + answer.err


def test_a_note_too_large_for_a_checkpoint_leaves_it_to_times():
    hook = program("mlflow")

    class Many:
        def counts(self, run: str) -> dict[str, int]:
            return {f"{run}-{os.urandom(20).hex()}": number for number in range(2000)}

    note = hook.note(Many(), [hook.Run("r", True, 0, None)])
    assert len(note) < hook.NOTE_BYTES
    kept = hook._kept(hook._unpack(note)["r"], None, FREEZE)["loss"]
    assert kept.cut([FREEZE, FREEZE + 1], 0) == [1]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """MLflow's own tracking server: its application, and Werkzeug's server for it."""
    monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", str(tmp_path))
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", str(tmp_path))
    from mlflow.server import app  # noqa: PLC0415 - slow to import
    from werkzeug.serving import make_server  # noqa: PLC0415

    serving = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=serving.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{serving.server_port}"
    serving.shutdown()
    thread.join()


@pytest.mark.slow
def test_of_a_tracking_server_runs_are_tagged_so_that_readers_can_cut(server: str):
    tracked = Tracked(server)
    assert tracked.call("pre-checkpoint").result["done"] == ["noted"]
    tracked.log(1, 5)
    for _ in range(2):
        assert tracked.restore(None).result["done"] == ["in-step", "tagged"]
    marks = json.loads(tracked.client.get_run(tracked.run).data.tags["ckptrun.superseded"])
    assert [mark[0] for mark in marks] == [FREEZE, FREEZE]
    assert all(FREEZE < mark[1] <= time.time() * 1000 for mark in marks)
    tracked.options["run_id"] = "0" * 32
    assert "answers 404 to runs/get" in tracked.call("pre-checkpoint").reason
