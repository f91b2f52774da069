"""``ckptrun kube``: what prepares and examines pods.

Each subcommand has a module of its own, imported when it is called.
"""

from __future__ import annotations

import importlib

import click

SUBCOMMANDS = {
    "inject": ("kube_inject", "Add ckptrun to Jobs, CronJobs and Pods of a manifest."),
    "install": ("kube_install", "Put the shim and CRIU into a pod's volume; what its init container does."),
    "affinity": ("kube_affinity", "Print the node affinity that a lineage's newest checkpoint needs."),
}
"""Subcommand -> module of this package that has it as ``NAME_command``, and its line in the help."""


class _Group(click.Group):
    """Imports a subcommand's module on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 -- click's signature
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in SUBCOMMANDS:
            return None
        module = importlib.import_module(f"ckptrun.cli.{SUBCOMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in SUBCOMMANDS.items()])


@click.group("kube", cls=_Group)
def kube_command() -> None:
    """Prepare pods for ckptrun, and see what they need."""
