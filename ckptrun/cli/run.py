"""``ckptrun run`` and ``ckptrun restore``: the commands that start a job."""

from __future__ import annotations

import os
from typing import Any

import click

from ckptrun.app.pods import failures_told
from ckptrun.cli.options import (
    given,
    json_option,
    name_argument,
    restore_options,
    run_options,
    store_settings,
    working_directory,
)
from ckptrun.errors import UsageError
from ckptrun.settings import adopt_store_credentials, resolve_ledger, resolve_run
from ckptrun.settings.sources import not_built


@click.command(
    "run",
    context_settings={"allow_interspersed_args": False},
    options_metavar="[OPTIONS]",
    epilog="Options can be set in the environment, as CKPTRUN_MAX_FREEZE, or in ckptrun.toml, as max-freeze.",
)
@run_options
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[--] COMMAND...")
def run_command(command: tuple[str, ...], **values: Any) -> int:
    """Run COMMAND; if an earlier run of it was interrupted, go on from its newest checkpoint."""
    with failures_told():
        settings = resolve_run(command, given(values), os.environ, working_directory())
    adopt_store_credentials(os.environ)
    from ckptrun.app.run import run  # noqa: PLC0415 -- imported once the options are known to be good

    return run(settings)


@click.command("restore")
@name_argument
@click.option("--at", metavar="ID", help="The checkpoint. Default: the newest.")
@click.option("--paused", is_flag=True, hidden=True)
@click.option(
    "--dry-run", is_flag=True, help="Say what it would mean for the job's effects; restore nothing."
)
@restore_options
@json_option
def restore_command(
    name: str, at: str | None, paused: bool, dry_run: bool, as_json: bool, **values: Any
) -> int:
    """Run lineage NAME again from a checkpoint of choice; options as for a run."""
    if paused:
        raise not_built("--paused")
    if dry_run:
        return _dry_run(name, at, as_json, values)
    if as_json:
        raise UsageError("--json is for --dry-run", hint="leave it out")
    from ckptrun.app.requests import restore_settings  # noqa: PLC0415 -- see above
    from ckptrun.app.run import run  # noqa: PLC0415

    environ = dict(os.environ)
    adopt_store_credentials(os.environ)  # the settings' job environment is made from the one before
    return run(restore_settings(name, at, given(values), environ, working_directory()))


def _dry_run(name: str, at: str | None, as_json: bool, values: dict[str, Any]) -> int:
    from ckptrun.app.effects import rewinding  # noqa: PLC0415 -- see above
    from ckptrun.cli import render  # noqa: PLC0415

    ledger = resolve_ledger(given(values), os.environ, working_directory())
    plan = rewinding(store_settings(values), name, at, ledger)
    render.document(plan) if as_json else render.rewinding(plan)
    return 0


def value_options() -> frozenset[str]:
    """Return the spellings of those options of ``run`` that are followed by a value."""
    return frozenset(
        spelling
        for parameter in run_command.params
        if isinstance(parameter, click.Option) and not parameter.is_flag
        for spelling in parameter.opts
    )
