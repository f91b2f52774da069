"""The hook `mlflow`: cuts metrics that were logged after the checkpoint. See README.md beside this file.

The position is how many points each metric has, before the freeze and after it. Between the two, a point's own time
decides against that of the freeze: both are of the job's machine. Without a position the times decide alone.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time
import zlib
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from folder import Folder
from server import Server
from tracking import TAG, Kept, Run, StepError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracking import Store

NOTE_BYTES = 28 << 10
"""A note up to this is kept with the checkpoint; two of them, of 64 KiB there."""


def note(store: Store, runs: list[Run]) -> str:
    """Return what is there: by run, whether it is open, and how many points each metric has."""
    found: dict[str, Any] = {run.id: {"open": run.is_open, "counts": store.counts(run.id)} for run in runs}
    packed = _pack(found)
    if len(packed) > NOTE_BYTES:  # then times decide alone
        packed = _pack({name: {"open": of_run["open"], "counts": None} for name, of_run in found.items()})
    return packed


def bring_back(context: dict[str, Any], store: Store, runs: list[Run]) -> dict[str, Any]:
    """pre-restore: cut points, open runs that have ended since, delete runs that have begun since."""
    data, dry_run = context["data"] or {}, context["dry_run"]
    before, after = _unpack(data.get("before")), _unpack(data.get("after"))
    freeze = int(context["checkpoint"]["created"] * 1000)
    cut, reopened, discarded = {}, [], []
    for run in runs:
        if run.began > freeze and run.id not in before:
            discarded.append(run.id)
            if not dry_run:
                store.discard(run.id, int(time.time() * 1000))
            continue
        cut[run.id] = store.cut(run.id, _kept(before.get(run.id), after.get(run.id), freeze), dry_run=dry_run)
        if not run.is_open and (run.ended or 0) > freeze:
            reopened.append(run.id)
            if not dry_run:
                store.reopen(run.id)
    count = sum(cut.values())
    event = {"event": "mlflow", "cut": cut, "reopened": reopened, "deleted": discarded}
    words = (
        f"{count} points {'would be ' if dry_run else ''}cut in {len(cut)} runs, {len(reopened)} opened again"
    )
    return {"done": ["in-step", "cut"], "reason": f"{words}, {len(discarded)} deleted", "events": [event]}


def _kept(before: dict[str, Any] | None, after: dict[str, Any] | None, freeze: int) -> Mapping[str, Kept]:
    """Return what each metric has of the checkpoint, also one that nobody has noted."""
    counted = (before or {}).get("counts") or {}
    seen = (after or {}).get("counts")
    kept: dict[str, Kept] = defaultdict(lambda: Kept(0, None if seen is None else 0, freeze))
    for key in {*counted, *(seen or {})}:
        kept[key] = Kept(counted.get(key, 0), None if seen is None else seen.get(key, 0), freeze)
    return kept


def chosen(context: dict[str, Any], store: Store, ids: list[str]) -> list[Run]:
    """Return the job's runs: those named, those tagged with the lineage, or the only open one of the experiment."""
    if ids:
        runs = store.runs(ids)
        missing = sorted(set(ids) - {run.id for run in runs})
        if missing:
            raise StepError(f"there is no run {', '.join(missing)}; correct run_id= or MLFLOW_RUN_ID")
        return runs
    tagged = store.tagged(context["lineage"])
    experiment = context["options"].get("experiment") or os.environ.get("MLFLOW_EXPERIMENT_NAME")
    if tagged or TAG in os.environ.get("MLFLOW_RUN_CONTEXT", ""):
        return tagged
    if not experiment:
        raise StepError(
            f"which runs are the job's? Set MLFLOW_RUN_CONTEXT='{_tags(context)}' for it, or give run_id="
        )
    known = _unpack((context["data"] or {}).get("before"))
    if known:
        return store.runs(known)
    running = [run for run in store.in_experiment(experiment) if run.is_open]
    if len(running) > 1:
        names = ", ".join(sorted(run.id for run in running)[:5])
        raise StepError(
            f"which of the {len(running)} open runs of {experiment} is the job's ({names})? "
            f"Set MLFLOW_RUN_CONTEXT='{_tags(context)}' for it, or give run_id="
        )
    return running


def _tags(context: dict[str, Any]) -> str:
    """Return what MLflow gives to every run that the job makes, so that they are known."""
    return json.dumps({TAG: context["lineage"]})


def on_server(context: dict[str, Any], server: Server, ids: list[str]) -> dict[str, Any]:
    """Mark instead of cut."""
    if not ids:
        raise StepError("of a tracking server's runs, run_id= or MLFLOW_RUN_ID must name the job's")
    if context["phase"] != "pre-restore":
        for run in ids:
            server.tags(run)  # that it can be done is better known now
        return {"done": ["noted"]}
    if not context["dry_run"]:
        for run in ids:
            server.mark(run, int(context["checkpoint"]["created"] * 1000), int(time.time() * 1000))
    event = {"event": "mlflow", "tagged": ids}
    return {"done": ["in-step", "tagged"], "reason": f"{len(ids)} runs tagged, not cut", "events": [event]}


def answer(context: dict[str, Any]) -> dict[str, Any]:
    """Do what the phase asks for."""
    options = context["options"]
    uri = options.get("tracking_uri") or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise StepError("where does the job log to? Give tracking_uri=, or set MLFLOW_TRACKING_URI")
    ids = [one for one in (options.get("run_id") or os.environ.get("MLFLOW_RUN_ID") or "").split(",") if one]
    if uri.startswith(("http://", "https://")):
        return on_server(context, Server(uri), ids)
    store = _opened(uri)
    runs = chosen(context, store, ids)
    if context["phase"] == "pre-restore":
        return bring_back(context, store, runs)
    name = "before" if context["phase"] == "pre-checkpoint" else "after"
    open_ones = [run for run in runs if run.is_open or ids]
    return {
        "done": ["noted"],
        "data": {name: note(store, open_ones)},
        "reason": f"{len(open_ones)} open runs",
    }


def _opened(uri: str) -> Store:
    if "://" not in uri or uri.startswith("file:"):
        return Folder(uri)
    from database import Database  # noqa: PLC0415 - SQLAlchemy is slow to import

    return Database(uri)


def _pack(value: dict[str, Any]) -> str:
    return base64.b85encode(zlib.compress(json.dumps(value, separators=(",", ":")).encode())).decode()


def _unpack(packed: str | None) -> dict[str, Any]:
    return {} if packed is None else dict(json.loads(zlib.decompress(base64.b85decode(packed))))


def main() -> int:
    """Answer, or say why not; return the exit code."""
    context = json.load(sys.stdin)
    try:
        print(json.dumps(answer(context)))
    except StepError as error:
        print(error, file=sys.stderr)
    except Exception as error:  # of the many that SQLAlchemy and its drivers have
        if type(error).__module__.split(".")[0] not in {"sqlalchemy", "psycopg", "sqlite3"}:
            raise
        said = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        print(f"MLflow's database cannot be used: {said}", file=sys.stderr)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
