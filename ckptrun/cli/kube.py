"""``ckptrun kube``: what prepares and examines pods."""

from __future__ import annotations

import click

from ckptrun.cli.lazily import LazyGroup

SUBCOMMANDS = {
    "inject": ("kube_inject", "Add ckptrun to Jobs, CronJobs and Pods of a manifest."),
    "install": ("kube_install", "Put the shim and CRIU into a pod's volume; what its init container does."),
    "role": ("kube_role", "Print the Role for events, annotations and leases."),
    "affinity": ("kube_affinity", "Print the node affinity that a lineage's newest checkpoint needs."),
}
"""See `LazyGroup.modules`."""


class _Group(LazyGroup):
    modules = SUBCOMMANDS


@click.group("kube", cls=_Group)
def kube_command() -> None:
    """Prepare pods for ckptrun, and see what they need."""
