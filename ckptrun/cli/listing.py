"""``ls``, ``show``, ``files``, ``verify`` and ``events``: commands that read a store or a run's diary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ckptrun.cli.options import json_option, name_argument, store_options, store_settings
from ckptrun.errors import CorruptError, StoreError, UsageError


@click.command("ls")
@store_options
@json_option
def ls_command(as_json: bool, **values: Any) -> None:
    """List the lineages of a store."""
    from ckptrun.app import queries  # noqa: PLC0415 -- it imports the store, which takes its time
    from ckptrun.cli import render  # noqa: PLC0415

    lineages = queries.lineages(store_settings(values))
    render.document(lineages) if as_json else render.lineages(lineages)


@click.command("show")
@name_argument
@store_options
@json_option
def show_command(name: str, as_json: bool, **values: Any) -> None:
    """Show lineage NAME and its checkpoints, newest first."""
    from ckptrun.app import queries  # noqa: PLC0415 -- see above
    from ckptrun.cli import render  # noqa: PLC0415

    lineage = queries.lineage(store_settings(values), name)
    render.document(lineage) if as_json else render.lineage(lineage)


@click.command("verify")
@name_argument
@click.option("--at", metavar="ID", help="This checkpoint only. Default: all.")
@click.option("--quick", is_flag=True, help="Check that everything is there, without reading it.")
@store_options
@json_option
def verify_command(name: str, at: str | None, quick: bool, as_json: bool, **values: Any) -> int:
    """Read every chunk of NAME's checkpoints back."""
    from ckptrun.app import queries  # noqa: PLC0415 -- see above
    from ckptrun.cli import render  # noqa: PLC0415

    report = queries.verify(store_settings(values), name, at=at, quick=quick)
    render.document(report) if as_json else render.verified(report)
    return CorruptError.exit_code if report["bad"] else 0


@click.command("files")
@name_argument
@click.option("--at", metavar="ID", help="Of this checkpoint. Default: the newest.")
@click.option(
    "--extract",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write them into this folder, which must be empty, each under its whole path.",
)
@store_options
@json_option
def files_command(name: str, at: str | None, extract: Path | None, as_json: bool, **values: Any) -> int:
    """List the files that a checkpoint of NAME holds, and what rollbacks on this machine have set aside."""
    from ckptrun.app import files  # noqa: PLC0415 -- see above
    from ckptrun.cli import render  # noqa: PLC0415

    found = files.files(store_settings(values), name, at=at, extract=extract)
    render.document(found) if as_json else render.files(found)
    return StoreError.exit_code if found["problems"] else 0


@click.command("events")
@name_argument
@click.option("--follow", is_flag=True, help="Go on until the run ends.")
@store_options
@json_option
def events_command(name: str, follow: bool, as_json: bool, **values: Any) -> None:
    """Tell what happened to NAME on this machine, one JSON object a line; with --json, one list."""
    if follow and as_json:
        raise UsageError(
            "--follow and --json contradict each other", hint="without --json, each line is JSON"
        )
    from ckptrun.app import queries  # noqa: PLC0415 -- see above
    from ckptrun.cli import render  # noqa: PLC0415

    events = queries.events(store_settings(values), name, follow=follow)
    if as_json:
        render.document(list(events))
        return
    for event in events:
        render.json_line(event)
