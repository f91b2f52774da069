"""``ckptrun hooks``: what would run, and trying it without a run."""

from __future__ import annotations

import json
import os
from typing import Any

import click

from ckptrun.cli.options import given, json_option, working_directory
from ckptrun.errors import HookError, UsageError
from ckptrun.settings import resolve_hooks

PHASES = (
    "pre-checkpoint",
    "post-checkpoint",
    "post-commit",
    "on-failure",
    "pre-restore",
    "post-restore",
    "on-exit",
)

_hook_option = click.option(
    "--hook", multiple=True, metavar="SPEC", help="As for a run; beside those of ckptrun.toml. Repeatable."
)


@click.group("hooks")
def hooks_command() -> None:
    """List the hooks that would run, or try them with a made-up context."""


@hooks_command.command("list")
@_hook_option
@json_option
def list_command(as_json: bool, **values: Any) -> None:
    """List the hooks that a run here would have, and the ready-made ones."""
    from ckptrun.app.hooks import listing  # noqa: PLC0415 -- --help needs none of it
    from ckptrun.cli import render  # noqa: PLC0415

    cwd = working_directory()
    rows = listing(*resolve_hooks(given(values), os.environ, cwd), cwd)
    render.document(rows) if as_json else render.hooks(rows)


@hooks_command.command("test")
@click.argument("phase", type=click.Choice(PHASES))
@_hook_option
@click.option("--data", metavar="JSON", help="What the hook is to have stored with the checkpoint.")
@click.option(
    "--for-real", is_flag=True, help="Have hooks act; else they are asked only to say what they would do."
)
@json_option
def try_command(phase: str, data: str | None, for_real: bool, as_json: bool, **values: Any) -> int:
    """Run the hooks of PHASE with a made-up context; end with 76 if one vetoes or fails.

    A hook of your own decides itself what it makes of the context's dry_run.
    """
    from ckptrun.app.hooks import attempt  # noqa: PLC0415 -- see above
    from ckptrun.cli import render  # noqa: PLC0415

    cwd = working_directory()
    settings, environment = resolve_hooks(given(values), os.environ, cwd)
    rows = attempt(phase, settings, environment, cwd, data=_object(data), dry_run=not for_real)
    render.document(rows) if as_json else render.hook_calls(rows)
    return 0 if all(row["outcome"] == "ok" for row in rows) else HookError.exit_code


def _object(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UsageError(f"--data is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise UsageError("--data is no JSON object", hint="write it as '{\"position\": 42}'")
    return value
