"""``ckptrun sidecar``: the container beside a pod's job."""

from __future__ import annotations

import os
from typing import Any

import click

from ckptrun.cli.options import given, run_options
from ckptrun.settings import adopt_store_credentials


@click.command("sidecar", options_metavar="[OPTIONS]")
@click.option("--once", is_flag=True, help="End with the job; for clusters without native sidecars.")
@click.option(
    "--ready", is_flag=True, help="Say by the exit code whether a sidecar listens; a startup probe."
)
@run_options
def sidecar_command(once: bool, ready: bool, **values: Any) -> int:
    """Checkpoint and restore the job of another container of this pod; options as for a run."""
    if ready:
        from ckptrun.app import pod  # noqa: PLC0415 -- each imports only what it needs

        return 0 if pod.is_listening(pod.shared_folder(os.environ) / pod.SOCKET) else 1
    adopt_store_credentials(os.environ)
    from ckptrun.app.sidecar import sidecar  # noqa: PLC0415 -- as above

    return sidecar(given(values), once=once)
