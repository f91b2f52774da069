"""``ckptrun run`` and ``ckptrun restore``: the commands that start a job."""

from __future__ import annotations

import os
from typing import Any

import click

from ckptrun.cli.options import given, name_argument, restore_options, run_options, working_directory
from ckptrun.settings import adopt_store_credentials, resolve_run
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
    settings = resolve_run(command, given(values), os.environ, working_directory())
    adopt_store_credentials(os.environ)
    from ckptrun.app.run import run  # noqa: PLC0415 -- imported once the options are known to be good

    return run(settings)


@click.command("restore")
@name_argument
@click.option("--at", metavar="ID", help="The checkpoint. Default: the newest.")
@click.option("--paused", is_flag=True, hidden=True)
@restore_options
def restore_command(name: str, at: str | None, paused: bool, **values: Any) -> int:
    """Run lineage NAME again from a checkpoint of choice; options as for a run."""
    if paused:
        raise not_built("--paused")
    from ckptrun.app.requests import restore_settings  # noqa: PLC0415 -- see above
    from ckptrun.app.run import run  # noqa: PLC0415

    environ = dict(os.environ)
    adopt_store_credentials(os.environ)  # the settings' job environment is made from the one before
    return run(restore_settings(name, at, given(values), environ, working_directory()))


def value_options() -> frozenset[str]:
    """Return the spellings of those options of ``run`` that are followed by a value."""
    return frozenset(
        spelling
        for parameter in run_command.params
        if isinstance(parameter, click.Option) and not parameter.is_flag
        for spelling in parameter.opts
    )
