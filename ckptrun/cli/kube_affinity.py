"""``ckptrun kube affinity``: which nodes can restore a lineage's newest checkpoint."""

from __future__ import annotations

import json
from typing import Any

import click

from ckptrun.cli.options import name_argument, store_options, store_settings


@click.command("affinity")
@name_argument
@store_options
def affinity_command(name: str, **values: Any) -> None:
    """Print the nodeAffinity that restores of lineage NAME's newest checkpoint need, for a pod's ``affinity``.

    It is JSON, which is YAML too. CPU features and GPUs are matched by the labels of Node Feature Discovery.
    """
    from ckptrun.app.pods import affinity  # noqa: PLC0415 -- it imports the store, which takes its time

    click.echo(json.dumps(affinity(store_settings(values), name), indent=2))
