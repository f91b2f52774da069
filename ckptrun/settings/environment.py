"""Which environment variables are ckptrun's own, and which the job gets. See docs/design/environment.md.

Pure but for `adopt_store_credentials`, which changes the mapping it is given.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptrun.errors import ConfigurationError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, MutableMapping

PREFIX = "CKPTRUN_"
AWS_OVERRIDE = f"{PREFIX}AWS_"
"""``CKPTRUN_AWS_X`` is ``AWS_X`` for ckptrun alone."""

STORE_CREDENTIALS = frozenset(
    {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_SECURITY_TOKEN",
        "AWS_PROFILE",
        "AWS_DEFAULT_PROFILE",
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_CONFIG_FILE",
        "AWS_ROLE_ARN",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    }
)
"""Every variable botocore's credential chain starts from. Regions and endpoints are no secret and stay."""


_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def has_own_credentials(environ: Mapping[str, str]) -> bool:
    """Tell whether ckptrun was given store credentials of its own (``CKPTRUN_AWS_…``)."""
    return any(f"{PREFIX}{name}" in environ for name in STORE_CREDENTIALS)


def check_own_credentials(environ: Mapping[str, str]) -> None:
    """Refuse a ``CKPTRUN_AWS_…`` key that cannot be one: what a Secret holds is often empty, or ends with a line break.

    Raises:
        ConfigurationError: it is empty, or has white space in it.
    """
    for name in _KEYS:
        value = environ.get(f"{PREFIX}{name}")
        if value is not None and (not value or re.search(r"\s", value)):
            problem = "is empty" if not value else "has a space or a line break in it"
            raise ConfigurationError(
                f"{PREFIX}{name} {problem}",
                hint="give it the bucket's own, or unset it; a pod has it from a Secret: kubectl create secret generic "
                "bucket --from-literal=AWS_ACCESS_KEY_ID=… --from-literal=AWS_SECRET_ACCESS_KEY=…",
            )


def withheld_names(
    environ: Mapping[str, str], *, store_url: str, pass_env: Collection[str] = ()
) -> tuple[str, ...]:
    """Return the names of store credentials that the job does not get although it might expect them.

    Plain ``AWS_…`` variables are the store's when the store is an S3 one and ckptrun was given no credentials
    of its own; else they are the job's.
    """
    if not store_url.startswith("s3:") or has_own_credentials(environ):
        return ()
    return tuple(sorted(name for name in STORE_CREDENTIALS if name in environ and name not in pass_env))


def job_environment(
    environ: Mapping[str, str], *, store_url: str = "", pass_env: Collection[str] = ()
) -> dict[str, str]:
    """Return the environment of the job: ``environ`` without ckptrun's settings, keys and store credentials.

    Args:
        environ: the environment ckptrun was started in, before `adopt_store_credentials`.
        store_url: the run's store.
        pass_env: names of store credentials the job shall have all the same (``--pass-env``).

    Raises:
        UsageError: ``pass_env`` names one of ckptrun's own variables.
    """
    own = sorted(name for name in pass_env if name.startswith(PREFIX))
    if own:
        raise UsageError(
            f"--pass-env {own[0]} would show the job a setting of ckptrun's own",
            hint="give the job's value another name",
        )
    hidden = set(withheld_names(environ, store_url=store_url, pass_env=pass_env))
    return {
        name: value for name, value in environ.items() if not name.startswith(PREFIX) and name not in hidden
    }


def adopt_store_credentials(environ: MutableMapping[str, str]) -> None:
    """Make ``CKPTRUN_AWS_X`` the ``AWS_X`` of this process, where boto3 looks.

    Once any credential is ckptrun's own, the plain ones are the job's: they are dropped here, so that a
    session token of one pair never joins the keys of another.
    """
    if has_own_credentials(environ):
        for name in STORE_CREDENTIALS:
            environ.pop(name, None)
    for name in [name for name in environ if name.startswith(AWS_OVERRIDE)]:
        environ[name.removeprefix(PREFIX)] = environ[name]
