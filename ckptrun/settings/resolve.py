"""From what was said to what holds: merge the sources, parse, fill defaults in, check value with value.

Called by ``cli`` once per command. Reads the working directory's ``ckptrun.toml`` and whether a key file
exists; writes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ckptrun.core.config import RestartPolicy, TcpPolicy
from ckptrun.core.cpu import parse_level
from ckptrun.core.retention import Keep, parse_keep
from ckptrun.errors import ConfigurationError, UsageError
from ckptrun.settings import values
from ckptrun.settings.environment import check_own_credentials, job_environment, withheld_names
from ckptrun.settings.model import HookSettings, KeyChoice, KeyKind, LogFormat, RunSettings, StoreSettings
from ckptrun.settings.names import check_name, check_store_url, default_name, state_directory
from ckptrun.settings.pod import find_pod, pod_lineage
from ckptrun.settings.portable import cap
from ckptrun.settings.sources import FILE_NAME, NOT_BUILT, Level, Sources, read_document
from ckptrun.settings.units import parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

HOOKS_FOLDER = "hooks.d"
"""Beside the file: a folder of hooks that is used without being named."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The environment and the working directory of a job in another container."""

    environment: Mapping[str, str]
    cwd: Path


def resolve_store(
    given: Mapping[str, Any], environ: Mapping[str, str], cwd: Path, home: Path | None = None
) -> StoreSettings:
    """Return which store a command works on, and how it is opened.

    Raises:
        UsageError: a value on the command line or in the environment does not parse.
        ConfigurationError: ``ckptrun.toml`` is wrong, or values contradict each other.
    """
    sources = Sources(given, environ, read_document(cwd))
    sources.refuse(("key",))
    return _store(sources, environ, cwd, home)


def resolve_run(
    command: Sequence[str],
    given: Mapping[str, Any],
    environ: Mapping[str, str],
    cwd: Path,
    home: Path | None = None,
    elsewhere: Elsewhere | None = None,
) -> RunSettings:
    """Return the settings of a run of ``command`` (not empty) in ``cwd`` (absolute).

    Args:
        command: the job's.
        given: what the command line says.
        environ: this process's environment.
        cwd: this process's working directory, and the job's.
        home: for its state directory.
        elsewhere: of a job that lives in another container: it has nothing of `environ` and `cwd`.

    Raises:
        UsageError: no command, a value that does not parse, an option that is not built yet, an ``s3://``
            store without a name.
        ConfigurationError: ``ckptrun.toml`` is wrong, values contradict each other, or an ``s3://`` store
            would hold plain bytes.
    """
    if not command or not command[0]:
        raise UsageError("no command to run", hint="write it behind the options: ckptrun -- python train.py")
    sources = Sources(given, environ, read_document(cwd))
    sources.refuse(NOT_BUILT)
    store = _store(sources, environ, cwd, home)
    _check_encrypted(store)
    _check_contradictions(sources)
    pass_env = sources.many("pass-env", str)
    level = sources.value("portable-cpu", parse_level, "")
    environment = job_environment(environ, store_url=store.url, pass_env=pass_env)
    if elsewhere:
        environment = job_environment(elsewhere.environment)
    environment, uncapped = cap(environment, level) if level else (environment, ())
    return RunSettings(
        command=tuple(command),
        name=_name(sources, store.url, command, elsewhere.cwd if elsewhere else cwd, environ),
        cwd=elsewhere.cwd if elsewhere else cwd,
        store_url=store.url,
        s3_endpoint_url=store.endpoint,
        key=store.key,
        no_encryption=store.no_encryption,
        state_dir=store.state_dir,
        environment=environment,
        withheld=() if elsewhere else withheld_names(environ, store_url=store.url, pass_env=pass_env),
        portable_cpu=level,
        uncapped=uncapped,
        interval=sources.value("interval", values.interval, "auto"),
        keep_last=sources.value("keep", parse_keep, Keep()).last,
        preserve=sources.many(
            "preserve",
            lambda text: (
                elsewhere.cwd / text if elsewhere else values.existing(cwd / Path(text).expanduser())
            ),
        ),
        journal_limit=sources.value("journal-limit", parse_size, 1 << 30),
        restart=sources.value(
            "restart", lambda text: values.choice(RestartPolicy, text), RestartPolicy.ON_FAILURE
        ),
        max_restarts=sources.value("max-restarts", values.count, 100),
        grace=sources.value("grace", values.positive_duration, 30.0),
        max_freeze=sources.value("max-freeze", values.positive_duration, 60.0),
        staging=sources.value("staging", values.staging, "auto"),
        resume=sources.flag("resume"),
        fresh=sources.flag("fresh"),
        take_over=sources.flag("take-over"),
        require_store=sources.flag("require-store"),
        allow_io_uring=sources.flag("allow-io-uring"),
        private_tmp=not sources.flag("no-private-tmp"),
        tcp=sources.value("tcp", lambda text: values.choice(TcpPolicy, text), TcpPolicy.AUTO),
        user=sources.value("user", values.user, ""),
        forward_usr1=sources.flag("forward-usr1"),
        log_format=sources.value("log-format", lambda text: values.choice(LogFormat, text), LogFormat.TEXT),
        labels=dict(sources.many("label", values.label)),
        hooks=_hooks(sources, environ, cwd),
        ledger=sources.value("ledger", str, ""),
        require_ledger=sources.flag("require-ledger"),
        verbosity=_verbosity(sources),
        pod=find_pod(environ),
    )


def check_preserved(
    given: Mapping[str, Any],
    environ: Mapping[str, str],
    cwd: Path,
    job_cwd: Path,
    there: Callable[[Callable[[], Path]], Path],
) -> None:
    """Find out whether what is to be preserved is there, as `resolve_run` does for a job that is not `elsewhere`.

    Args:
        given: see `resolve_run`.
        environ: likewise.
        cwd: likewise.
        job_cwd: the job's working directory.
        there: runs what looks at the job's files.

    Raises:
        ConfigurationError: a path is not there, or cannot be reached.
    """
    sources = Sources(given, environ, read_document(cwd))
    sources.many("preserve", lambda text: there(lambda: values.existing(job_cwd / text)))


def resolve_hooks(
    given: Mapping[str, Any], environ: Mapping[str, str], cwd: Path
) -> tuple[HookSettings, dict[str, str]]:
    """Return what is said about hooks, and the environment they would get, without a run.

    Raises:
        UsageError, ConfigurationError: see `resolve_run`.
    """
    sources = Sources(given, environ, read_document(cwd))
    return _hooks(sources, environ, cwd), job_environment(environ)


def resolve_ledger(given: Mapping[str, Any], environ: Mapping[str, str], cwd: Path) -> str:
    """Return the URL of the effect ledger that is named, without a run; empty if none is.

    Raises:
        UsageError, ConfigurationError: see `resolve_run`.
    """
    return Sources(given, environ, read_document(cwd)).value("ledger", str, "")


def _hooks(sources: Sources, environ: Mapping[str, str], cwd: Path) -> HookSettings:
    folder = cwd / HOOKS_FOLDER
    used = (cwd / FILE_NAME).exists() and folder.is_dir()
    return HookSettings(
        sources.many("hook", str), sources.hook_tables, folder if used else None, cwd, dict(environ)
    )


def _store(sources: Sources, environ: Mapping[str, str], cwd: Path, home: Path | None) -> StoreSettings:
    state_dir = state_directory(environ, home or Path(environ.get("HOME") or Path.home()))
    url = sources.value("store", check_store_url, f"file://{quote(str(state_dir / 'store'))}")
    endpoint = sources.found("s3-endpoint-url")
    if endpoint is not None and not str(endpoint.value).startswith(("http://", "https://")):
        raise UsageError(
            f"{endpoint.where}: {endpoint.value!r} is no URL", hint="write http://host:port or https://…"
        )
    if endpoint is not None and endpoint.level is Level.COMMAND_LINE and not url.startswith("s3:"):
        raise ConfigurationError(
            f"--s3-endpoint-url says nothing about the store {url}",
            hint="give --store s3://bucket/prefix too",
        )
    if url.startswith("s3:"):
        check_own_credentials(environ)
    return StoreSettings(
        url=url,
        endpoint=str(endpoint.value) if endpoint is not None and url.startswith("s3:") else None,
        key=_key(sources, environ, cwd),
        no_encryption=sources.flag("no-encryption"),
        state_dir=state_dir,
    )


def _key(sources: Sources, environ: Mapping[str, str], cwd: Path) -> KeyChoice:
    """Return the one key that was chosen; a choice on the command line wins over the environment's."""
    passphrase = environ.get("CKPTRUN_PASSPHRASE")
    if passphrase == "":  # an unset secret must not turn encryption off unseen
        raise ConfigurationError("CKPTRUN_PASSPHRASE is empty", hint="give it a value, or unset it")
    file = sources.found("key-file")
    if passphrase and sources.flag("no-encryption"):
        raise ConfigurationError(
            "--no-encryption and CKPTRUN_PASSPHRASE contradict each other", hint="leave one of them out"
        )
    if file is not None and sources.flag("no-encryption"):
        raise ConfigurationError(
            f"--no-encryption and {file.where} contradict each other", hint="leave one out"
        )
    if file is not None and passphrase and file.level is Level.ENVIRONMENT:
        raise ConfigurationError(
            "CKPTRUN_KEY_FILE and CKPTRUN_PASSPHRASE are both set",
            hint="a lineage has one key: unset one of them",
        )
    if file is not None and (not passphrase or file.level is Level.COMMAND_LINE):
        path = cwd / Path(str(file.value)).expanduser()
        if not path.is_file():
            raise ConfigurationError(
                f"{file.where}: {path} is no file", hint="name the file that holds the key"
            )
        return KeyChoice(KeyKind.FILE, path=path)
    return KeyChoice(KeyKind.PASSPHRASE, passphrase=passphrase) if passphrase else KeyChoice()


def _check_encrypted(store: StoreSettings) -> None:
    if store.url.startswith("s3:") and store.key.kind is KeyKind.NONE and not store.no_encryption:
        raise ConfigurationError(
            f"{store.url} would hold the job's memory, secrets and all, as plain bytes",
            hint="set CKPTRUN_PASSPHRASE, pass --key-file FILE, or accept it with --no-encryption",
        )


def _check_contradictions(sources: Sources) -> None:
    if sources.flag("resume") and sources.flag("fresh"):
        raise ConfigurationError("--resume and --fresh contradict each other", hint="choose one")
    limit, policy = sources.found("max-restarts"), sources.found("restart")
    if limit is not None and policy is not None and policy.value == "never" and limit.value != "0":
        raise ConfigurationError(
            f"{limit.where} limits what {policy.where} never does", hint="leave one of them out"
        )


def _name(
    sources: Sources, store_url: str, command: Sequence[str], cwd: Path, environ: Mapping[str, str]
) -> str:
    if sources.found("name") is not None:
        return sources.value("name", check_name, "")
    if of_pod := pod_lineage(environ):
        return of_pod
    if store_url.startswith("s3:"):
        raise UsageError(
            f"a run in {store_url} needs a name: in containers every default would be alike",
            hint="pass --name NAME; in a pod, CKPTRUN_POD_NAME and CKPTRUN_POD_NAMESPACE give it one",
        )
    return default_name(command, cwd)


def _verbosity(sources: Sources) -> int:
    if sources.flag("quiet") and sources.flag("verbose"):
        raise UsageError("--quiet and --verbose contradict each other", hint="choose one")
    return int(sources.flag("verbose")) - int(sources.flag("quiet"))
