"""``ckptrun kube inject``: ckptrun in a user's own manifests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ckptrun.cli.options import given, pod_run_options
from ckptrun.errors import UsageError

if TYPE_CHECKING:
    from ckptrun.kube.podshape import Shape

_STREAM = click.Path(dir_okay=False, allow_dash=True, path_type=Path)


@click.command("inject")
@click.option(
    "-f", "--filename", "source", type=_STREAM, required=True, help="The manifests; - is standard input."
)
@click.option(
    "-o", "--output", "target", type=_STREAM, help="Where the result goes. Default: standard output."
)
@click.option("--image", metavar="IMAGE", default="", help="ckptrun's image; the mode wrapper needs none.")
@click.option(
    "--mode",
    type=click.Choice(["sidecar", "wrapper"]),
    default="sidecar",
    help="Checkpoint from a container beside the job's, or as the main process of it. Default: sidecar.",
)
@click.option("--container", metavar="NAME", default="", help="The job's container, where there are several.")
@click.option("--key-secret", metavar="SECRET", default="", help="The Secret with the key; s3:// needs one.")
@click.option(
    "--key-item", metavar="ITEM", default="key", help="The item of it that is the key. Default: key."
)
@click.option(
    "--credentials-secret",
    metavar="SECRET",
    default="",
    help="The Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. Default: the service account's role.",
)
@click.option("--region", metavar="REGION", default="", help="The bucket's region.")
@click.option(
    "--store-claim", metavar="CLAIM", default="", help="The PersistentVolumeClaim of a file:// store."
)
@click.option(
    "--lineage-key",
    type=click.Choice(["name", "uid"]),
    default="name",
    help="What names the lineage: the Job's name, or its uid. Default: name.",
)
@click.option("--no-api", is_flag=True, help="Mount no token: no events, no annotations.")
@click.option(
    "--kubernetes", "version", metavar="VERSION", default="1.37", help="The cluster's. Default: 1.37."
)
@pod_run_options
def inject_command(source: Path, target: Path | None, **values: Any) -> None:
    """Add ckptrun to the Jobs, CronJobs and Pods of a manifest; other documents stay as they are.

    A second time gives the same. Comments are lost. For events the service account needs the Role that 'ckptrun kube
    role' prints.
    """
    from ckptrun.app.injecting import injected, remarked  # noqa: PLC0415 -- --help needs none of it
    from ckptrun.telemetry.speak import Speaker  # noqa: PLC0415 -- likewise

    container = values.pop("container")
    where = "standard input" if str(source) == "-" else str(source)
    try:
        with click.open_file(str(source), encoding="utf-8") as stream:
            text = stream.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{where} cannot be read: {error}", hint="name a file with manifests") from error
    result = injected(text, where, _shape(values), container)
    try:
        with click.open_file(str(target or "-"), "w", encoding="utf-8", atomic=target is not None) as stream:
            stream.write(result)
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror}", hint="choose another -o") from error
    for remark in remarked(result):
        Speaker().say(remark)


def _shape(values: dict[str, Any]) -> Shape:
    from ckptrun.app.injecting import shape  # noqa: PLC0415 -- as above

    own = (
        "image",
        "mode",
        "key_secret",
        "key_item",
        "credentials_secret",
        "region",
        "store_claim",
        "lineage_key",
    )
    about = {name: values.pop(name) for name in own}
    return shape(given(values), api=not values.pop("no_api"), version=values.pop("version"), **about)
