"""``effects``: what a lineage has done to the world outside."""

from __future__ import annotations

import os
from typing import Any

import click

from ckptrun.cli.options import (
    given,
    json_option,
    name_argument,
    store_options,
    store_settings,
    working_directory,
)
from ckptrun.settings import resolve_ledger


@click.command("effects")
@name_argument
@click.option("--ledger", metavar="URL", help="Where they are recorded. Default: the run's directory.")
@store_options
@json_option
def effects_command(name: str, as_json: bool, **values: Any) -> None:
    """List the effects of lineage NAME, in their order."""
    from ckptrun.app import effects  # noqa: PLC0415 -- it imports the supervisor, which takes its time
    from ckptrun.cli import render  # noqa: PLC0415

    ledger = resolve_ledger(given(values), os.environ, working_directory())
    rows = effects.entries(store_settings(values), name, ledger)
    render.document(rows) if as_json else render.effects(rows)
