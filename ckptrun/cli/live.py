"""``status``, ``checkpoint`` and ``stop``: commands that ask a live run on this machine."""

from __future__ import annotations

from typing import Any

import click

from ckptrun.cli.options import json_option, name_argument, store_options, store_settings


@click.command("status")
@name_argument
@store_options
@json_option
def status_command(name: str, as_json: bool, **values: Any) -> None:
    """Show how the live run of NAME is doing."""
    from ckptrun.app import requests  # noqa: PLC0415 -- --help needs none of it
    from ckptrun.cli import render  # noqa: PLC0415

    status = requests.status(store_settings(values), name)
    render.document(status) if as_json else render.pairs(status)


@click.command("checkpoint")
@name_argument
@click.option("--wait", is_flag=True, help="Return when it is committed.")
@store_options
@json_option
def checkpoint_command(name: str, wait: bool, as_json: bool, **values: Any) -> None:
    """Ask the live run of NAME for a checkpoint; print its id."""
    from ckptrun.app import requests  # noqa: PLC0415 -- see above
    from ckptrun.cli import render  # noqa: PLC0415

    reply = requests.checkpoint(store_settings(values), name, wait=wait)
    render.document(reply) if as_json else render.word(reply["id"])


@click.command("stop")
@name_argument
@store_options
@json_option
def stop_command(name: str, as_json: bool, **values: Any) -> None:
    """Checkpoint the live run of NAME, then stop it; the same command goes on from there."""
    from ckptrun.app import requests  # noqa: PLC0415 -- see above
    from ckptrun.cli import render  # noqa: PLC0415

    reply = requests.stop(store_settings(values), name)
    if as_json:
        render.document(reply)
