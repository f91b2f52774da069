"""``doctor`` and ``explain``: commands that say what is wrong and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ckptrun.cli.options import json_option, store_options, store_settings
from ckptrun.errors import UsageError


@click.command("doctor")
@click.option(
    "--pid",
    type=click.IntRange(min=1),
    metavar="P",
    help="Tell whether process P and all below it can be checkpointed; it runs on undisturbed.",
)
@click.option("--fix", is_flag=True, help="Provide CRIU if there is none that works here.")
@store_options
@json_option
def doctor_command(pid: int | None, fix: bool, as_json: bool, **values: Any) -> int:
    """Tell whether jobs can be checkpointed on this machine and into this store, or a process."""
    from ckptrun.app.doctor import diagnose, diagnose_process, exit_code  # noqa: PLC0415 -- --help needs none of it
    from ckptrun.cli import render  # noqa: PLC0415

    if pid is not None and (fix or any(values.values())):
        raise UsageError(
            "--pid looks at nothing but the process", hint="run ckptrun doctor without it as well"
        )
    result = diagnose(store_settings(values), fix=fix) if pid is None else diagnose_process(pid)
    render.document(result) if as_json else render.checks(result)
    return exit_code(result)


@click.command("explain")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def explain_command(file: Path, as_json: bool) -> None:
    """Tell in one sentence what a log of CRIU's says, and what to do."""
    from ckptrun.app.doctor import explain  # noqa: PLC0415 -- see above
    from ckptrun.cli import render  # noqa: PLC0415

    explanation = explain(file)
    render.document(explanation) if as_json else render.pairs(explanation)
