"""``ckptrun kube install``: what a pod's init container does."""

from __future__ import annotations

import os
from pathlib import Path

import click


@click.command("install")
@click.argument("folder", type=click.Path(path_type=Path))
def install_command(folder: Path) -> None:
    """Put the shim and CRIU into FOLDER, the volume that the containers of a pod share."""
    from ckptrun.app.installing import install  # noqa: PLC0415 -- --help needs none of it
    from ckptrun.app.pods import failures_told  # noqa: PLC0415 -- likewise

    with failures_told():
        install(folder, os.environ)
