"""``ckptrun kube role``: the rights in the API that a pod of ``kube inject`` makes use of."""

from __future__ import annotations

import json

import click


@click.command("role")
@click.option("-n", "--namespace", metavar="NAMESPACE", required=True, help="The pods' namespace.")
@click.option(
    "--service-account", "account", metavar="NAME", required=True, help="The pods' service account."
)
@click.option(
    "--nodes", is_flag=True, help="Also a ClusterRole to watch nodes: a drain is noticed at the cordon."
)
def role_command(namespace: str, account: str, nodes: bool) -> None:
    """Print the Role that ckptrun needs for events, annotations and leases, bound to a service account.

    It is JSON, for ``kubectl apply -f -``. Without it all else works.
    """
    from ckptrun.kube.rbac import bound  # noqa: PLC0415 -- --help needs none of it

    click.echo(json.dumps(bound(namespace, account, nodes=nodes), indent=2))
