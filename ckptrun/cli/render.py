"""What the commands print on stdout: JSON documents, and tables for people.

Tables are plain where stdout is no terminal: one line a row, never wrapped or cut, so that one can grep.
"""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ckptrun.settings.units import format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_NONE = "-"
_WIDE = 10_000
_REWINDING = {
    "keep": "stays, a replay gets its result",
    "settle": "stays unsettled, a replay finds out",
    "pend": "undone, unless a replay claims it",
    "cancel": "not sent, a replay queues it again",
    "reclaim": "counts again",
    "missing": "was undone, the job counts on it",
    "send": "sent after the next checkpoint",
    "hand": "handed to the hooks after the next checkpoint",
}
_STYLES = {
    "running": "green",
    "finished": "green",
    "interrupted": "yellow",
    "set aside": "yellow",
    "failed": "red",
    "corrupt": "red",
}


def document(value: Any) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def json_line(value: Any) -> None:
    """Print one JSON object on a line of its own, at once."""
    sys.stdout.write(json.dumps(value, default=str) + "\n")
    sys.stdout.flush()


def word(value: Any) -> None:
    """Print a bare value, nothing if it is None."""
    if value is not None:
        sys.stdout.write(f"{value}\n")


def lineages(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the lineages of a store."""
    _table(
        ("NAME", "STATE", "CHECKPOINTS", "NEWEST", "STORED", "EXIT"),
        [
            (
                row["name"],
                row["state"] or row.get("problem"),
                f"{row['checkpoints']}, {row['set_aside']} set aside"
                if row["set_aside"]
                else row["checkpoints"],
                row["newest"],
                _size(row["bytes_stored"]),
                _exit(row["exit"]),
            )
            for row in rows
        ],
    )


def effects(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the effects of a lineage."""
    _table(
        ("KEY", "KIND", "STATE", "CHECKPOINT", "INCARNATION"),
        [
            (
                row["key"],
                row["kind"],
                _effect_state(row),
                row["checkpoint"],
                row["incarnation"],
            )
            for row in rows
        ],
    )


def _effect_state(row: Mapping[str, Any]) -> str:
    if row["pending"]:
        return f"{row['state']}, pending"
    if row["sender"] == "hooks" and row["state"] in {"queued", "sending"}:
        return f"{row['state']}, for hooks"
    return str(row["state"])


def rewinding(value: Mapping[str, Any]) -> None:
    """Print what a restore would mean for the effects of a job."""
    pairs({key: item for key, item in value.items() if key != "effects"})
    _console().print()
    _table(
        ("WHAT", "KEY", "KIND", "STATE"),
        [(_REWINDING[row["action"]], row["key"], row["kind"], row["state"]) for row in value["effects"]],
    )


def lineage(value: Mapping[str, Any]) -> None:
    """Print a lineage and its checkpoints."""
    pairs({key: item for key, item in value.items() if key != "checkpoints"})
    _console().print()
    _table(
        (
            "ID",
            "SEQ",
            "STATE",
            "TRIGGER",
            "CREATED",
            "FROZEN",
            "MEMORY",
            "NEW",
            "STORED",
            "UPLOAD",
            "FILES",
            "FROZEN COPY",
        ),
        [
            (
                row["id"],
                row["seq"],
                "set aside" if row["set_aside"] and row["state"] == "committed" else row["state"],
                row["trigger"],
                row["created"],
                _duration(row["frozen_seconds"]),
                _size(row["memory_bytes"]),
                _size(row["new_bytes"]),
                _size(row["stored_bytes"]),
                _duration(row["upload_seconds"]),
                f"{row['files']}, {len(row['inexact'])} inexact" if row["inexact"] else row["files"],
                _size(row["file_bytes_frozen"]),
            )
            for row in value["checkpoints"]
        ],
    )


def files(value: Mapping[str, Any]) -> None:
    """Print a checkpoint's files, and what was set aside."""
    _table(
        ("FILE", "KIND", "SIZE", "MODE", "MODIFIED", "TAKEN"),
        [
            (
                row["path"],
                row["kind"],
                _size(row["size"]),
                row["mode"],
                row["modified"],
                row["how"] if row["exact"] else "NOT EXACT",
            )
            for row in value["files"]
        ],
    )
    copied = f"{format_size(value['bytes_inside'])} copied while the job was stopped"
    _console().print(Text(f"\n{len(value['files'])} files in checkpoint {value['checkpoint']}, {copied}"))
    if value["set_aside"]:
        _console().print(Text(f"\nset aside by rollbacks, in {value['folder']}:"))
        _table(
            ("ID", "FILE", "WHY", "FROM BYTE", "SIZE", "WHEN"),
            [
                (row["id"], row["path"], row["reason"], row["offset"], _size(row["bytes"]), row["time"])
                for row in value["set_aside"]
            ],
        )
    for problem in value["problems"]:
        _console().print(Text(f"problem: {problem}", "red"))


def verified(report: Mapping[str, Any]) -> None:
    """Print what a verification found."""
    for bad in report["bad"]:
        _console().print(Text(f"bad: {bad}", "red"))
    verdict = f"{len(report['bad'])} bad" if report["bad"] else "all good"
    _console().print(Text(f"{format_size(report['checked_bytes'])} checked, {verdict}"))


def checks(result: Mapping[str, Any]) -> None:
    """Print the doctor's findings, each remedy under its finding."""
    for check in result["checks"]:
        mark = Text("ok      ", "green") if check["ok"] else Text("problem ", "red")
        _console().print(mark + Text(f"{check['name']}: {check['detail']}"))
        if check["remedy"]:
            _console().print(Text(f"        -> {check['remedy']}"))


def hooks(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print hooks: those a run would have, in their order, then the ready-made ones."""
    for title, configured in (("a run here has", True), ("ready-made", False)):
        chosen = [row for row in rows if row["configured"] is configured]
        if not chosen:
            continue
        _console().print(Text(f"{title}:"))
        cells = [
            (row["name"], _phases(row["phases"]), _duration(row["timeout"]), row["description"])
            for row in chosen
        ]
        _table(("NAME", "PHASES", "TIMEOUT", "WHAT"), cells)
        _console().print()


def hook_calls(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print how hooks did that were tried."""
    for row in rows:
        style = (
            "green" if row["outcome"] == "ok" else "yellow" if row["outcome"] in {"veto", "retry"} else "red"
        )
        reason = f": {row['reason']}" if row["reason"] else ""
        _console().print(
            Text(f"{row['hook']} {row['phase']} ")
            + Text(row["outcome"], style)
            + Text(f"{reason} ({row['seconds']:.2f} s)")
        )
        for label in ("done", "released", "data", "events"):
            if row[label]:
                _console().print(Text(f"  {label}: {json.dumps(row[label])}"))
        for line in row["stderr"].splitlines():
            _console().print(Text(f"  stderr: {line}"))


def _phases(names: Sequence[str]) -> str:
    return "all" if len(names) == 7 else ", ".join(names)


def pairs(values: Mapping[str, Any]) -> None:
    """Print names and values, one pair a line; units from the names' endings."""
    labels = {key: key.removesuffix("_seconds").removesuffix("_bytes").replace("_", " ") for key in values}
    width = max(map(len, labels.values()), default=0)
    for key, value in values.items():
        _console().print(Text(f"{labels[key]:<{width}}  {_shown(key, value)}"))


def _shown(key: str, value: Any) -> str:
    if key.endswith("_seconds"):
        return _duration(value)
    if key.endswith("_bytes"):
        return _size(value)
    if key in _SHOWN:
        return _SHOWN[key](value)
    if isinstance(value, dict):
        return ", ".join(f"{name}={item}" for name, item in value.items()) or _NONE
    if isinstance(value, (list, tuple)):
        return shlex.join(map(str, value)).replace("\n", "\\n") or _NONE
    return _NONE if value in {None, ""} else str(value)


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        table.add_column(head, no_wrap=True)
    for row in rows:
        cells = [_NONE if cell is None else str(cell) for cell in row]
        table.add_row(*(Text(cell, _STYLES.get(cell, "")) for cell in cells))
    _console().print(table)


def _console() -> Console:
    terminal = sys.stdout.isatty()
    return Console(
        file=sys.stdout, highlight=False, soft_wrap=not terminal, width=None if terminal else _WIDE
    )


def _size(value: float | None) -> str:
    return _NONE if value is None else format_size(value)


def _duration(value: float | None) -> str:
    return _NONE if value is None else format_duration(value)


def _exit(value: Mapping[str, Any] | None) -> str:
    return _NONE if value is None else f"{value['code']} by {value['by']}"


def _held_back(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return _NONE
    by = ", ".join(f"{one['what']} (for {_duration(one['seconds'])})" for one in value["by"])
    return f"a checkpoint, for {_duration(value['seconds'])}, by {by}"


_SHOWN = {"exit": _exit, "held_back": _held_back}
