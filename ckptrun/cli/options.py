"""The options as click knows them. Values stay strings: `ckptrun.settings` parses them, from every source."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ckptrun.errors import ConfigurationError
from ckptrun.settings import adopt_store_credentials, resolve_store
from ckptrun.settings.names import check_name
from ckptrun.settings.sources import NOT_BUILT, OPTIONS, Shape

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from ckptrun.settings import StoreSettings

F = TypeVar("F", bound="Callable[..., Any]")

_STORE = {
    "store": (
        "URL",
        "Where checkpoints live: file:///path or s3://bucket/prefix. Default: the user's state directory.",
    ),
    "s3-endpoint-url": ("URL", "Another S3-compatible server than AWS's own."),
    "key-file": (
        "FILE",
        "Encrypts and authenticates the lineage; so does the environment's CKPTRUN_PASSPHRASE.",
    ),
    "no-encryption": ("", "Accept that an s3:// store holds the job's memory as plain bytes."),
}

_RUN = {
    "name": ("N", "The lineage. Default: from command and directory; required with s3://."),
    "interval": ("T", "30s, 5m, off, or auto: after 30 s, then as seldom as they are costly. Default: auto."),
    "keep": ("SPEC", "How many checkpoints stay. Default: last=3."),
    "preserve": ("PATH", "Roll this file or folder back as a whole. Repeatable."),
    "ledger": (
        "URL",
        "Where the job's effects are recorded: sqlite:///path, postgresql://, redis://. Default: a file of the run's.",
    ),
    "require-ledger": ("", "Refuse to restore where the ledger lacks what the checkpoint counts on."),
    "hook": (
        "SPEC",
        "A ready-made hook's name, a file, a folder, or module:function; options as ?name=value. Repeatable.",
    ),
    "journal-limit": ("SIZE", "Content of job-written files copied per checkpoint. Default: 1G."),
    "restart": ("POLICY", "on-failure, always, never. Default: on-failure."),
    "max-restarts": ("N", "Restarts per run. Default: 100."),
    "grace": ("T", "On SIGTERM: time for a last checkpoint. Default: 30s."),
    "max-freeze": ("T", "Give up a dump that stops the job longer. Default: 60s."),
    "staging": ("SIZE", "Memory a dump is captured into; 0 streams without. Default: auto."),
    "resume": ("", "Go on from the newest checkpoint although the last run failed or a file changed."),
    "fresh": ("", "Start anew although there is something to resume."),
    "take-over": ("", "Do not wait for another writer's lease to end."),
    "require-store": ("", "Refuse to run while the store cannot be reached."),
    "portable-cpu": (
        "LEVEL",
        "Hold libraries to this x86-64 level, as x86-64-v3, so that the job can move between CPU models.",
    ),
    "allow-io-uring": ("", "Let the job use io_uring, which cannot be checkpointed."),
    "no-private-tmp": ("", "Let the job use the machine's own TMPDIR."),
    "forward-usr1": ("", "Pass SIGUSR1 on to the job; else it asks for a checkpoint."),
    "tcp": (
        "HOW",
        "Open TCP connections: auto (the job's own survive, others close), keep, close.",
    ),
    "user": (
        "U",
        "As root: run the job as NAME, UID or UID:GID, with no capability and no way to gain one.",
    ),
    "pass-env": ("NAME", "Give the job a store credential (AWS_...) that it would not get. Repeatable."),
    "label": ("K=V", "Noted with the run. Repeatable."),
    "log-format": ("FORMAT", "text or json. Default: text."),
}

_ONE_RUN_ONLY = frozenset({"name", "resume", "fresh"})
"""Options that ``restore`` does not have: it names the lineage itself, and says what to resume."""

_NOT_IN_PODS = frozenset({"user", "pass-env", "fresh", "take-over", "no-private-tmp", "forward-usr1"})
"""Options that a manifest has a field for, or that would hold for every pod to come."""


def store_options(function: F) -> F:
    """Add the options of every command that works on a store."""
    return _added(function, _STORE)


def run_options(function: F) -> F:
    """Add the options of ``run``."""
    return _added(_added(_voice(_refusals(function)), _STORE), _RUN)


def restore_options(function: F) -> F:
    """Add those options of ``run`` that a restore has too."""
    shared = {name: help_ for name, help_ in _RUN.items() if name not in _ONE_RUN_ONLY}
    return _added(_added(_voice(_refusals(function, {"dry-run"})), _STORE), shared)


def pod_run_options(function: F) -> F:
    """Add those options of ``run`` that make sense in a manifest; the key is a Secret there."""
    shared = {name: help_ for name, help_ in _RUN.items() if name not in _NOT_IN_PODS}
    shared["name"] = ("N", "The lineage. Default: NAMESPACE.JOB, or NAMESPACE.JOB.INDEX.")
    store = {name: help_ for name, help_ in _STORE.items() if name != "key-file"}
    store["store"] = ("URL", "Where checkpoints live: s3://bucket/prefix, or file:///path on --store-claim.")
    return _added(_added(function, shared), store)


def json_option(function: F) -> F:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")(function)


def name_argument(function: F) -> F:
    """Add NAME, checked."""
    return click.argument("name", callback=lambda _ctx, _param, value: check_name(value))(function)


def store_settings(values: Mapping[str, Any]) -> StoreSettings:
    """Return which store a command works on, and give this process the store's credentials."""
    settings = resolve_store(given(values), os.environ, working_directory())
    adopt_store_credentials(os.environ)
    return settings


def working_directory() -> Path:
    """Return where ckptrun was started.

    Raises:
        ConfigurationError: that directory is gone.
    """
    try:
        return Path.cwd()
    except OSError as error:
        raise ConfigurationError(
            f"the working directory is gone: {error}", hint="change to one that exists"
        ) from error


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return click's values by option name, as `ckptrun.settings` takes them."""
    return {name.replace("_", "-"): value for name, value in values.items()}


def _added(function: F, table: Mapping[str, tuple[str, str]]) -> F:
    for name, (metavar, text) in reversed(list(table.items())):
        function = _option(name, OPTIONS[name], metavar, text)(function)
    return function


def _voice(function: F) -> F:
    function = click.option("-v", "--verbose", is_flag=True, help="Say more.")(function)
    return click.option("-q", "--quiet", is_flag=True, help="Say only what goes wrong.")(function)


def _refusals(function: F, built: Collection[str] = ()) -> F:
    """Add the options that are not built yet, hidden: settings refuse them by name."""
    for name, shape in NOT_BUILT.items():
        if name in built:
            continue
        function = _option(name, shape, "X", "", hidden=True)(function)
    return function


def _option(name: str, shape: Shape, metavar: str, text: str, *, hidden: bool = False) -> Callable[[F], F]:
    return click.option(
        f"--{name}",
        is_flag=shape is Shape.FLAG,
        multiple=shape is Shape.MANY,
        default=None if shape is Shape.VALUE else () if shape is Shape.MANY else False,
        metavar=metavar or None,
        type=None if shape is Shape.FLAG else str,
        help=text,
        hidden=hidden,
    )
