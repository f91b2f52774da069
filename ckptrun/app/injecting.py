"""``ckptrun kube inject``: from options and a file's text to the text with ckptrun in it. Reads and writes nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptrun.errors import ConfigurationError, MissingFeatureError, UsageError
from ckptrun.kube import podsecurity
from ckptrun.kube.inject import inject
from ckptrun.kube.podshape import NEWEST, Mode, Shape
from ckptrun.settings import resolve_run
from ckptrun.settings.names import check_store_url
from ckptrun.settings.sources import as_variables

if TYPE_CHECKING:
    from collections.abc import Mapping

OLDEST = (1, 27)
"""The first Kubernetes that labels pods with ``batch.kubernetes.io/job-name``."""

_NOWHERE = Path("/ckptrun")
"""A folder without ckptrun.toml: a pod's settings are not this machine's."""

_ALWAYS = {"interval": "auto", "keep": "last=3", "grace": "30s"}
"""Said in the manifest even if nobody says otherwise, so that it tells what holds."""


def injected(text: str, where: str, shape: Shape, container: str) -> str:
    """Return the manifests of ``text`` with ckptrun in them.

    Args:
        text: YAML, one document or several.
        where: what messages call it.
        shape: what is added.
        container: the job's container; empty where there is only one.

    Raises:
        ConfigurationError: a manifest cannot be given ckptrun, or its Namespace beside it would not take it.
        MissingFeatureError: PyYAML is not installed.
    """
    try:
        from ckptrun.kube import manifests  # noqa: PLC0415 -- it needs a package that may be missing
    except ImportError as error:
        raise MissingFeatureError(
            f"manifests cannot be read: {error}", hint="pip install 'ckptrun[kube]'"
        ) from error
    documents = inject(manifests.load(text, where), shape, container)
    podsecurity.check(documents)
    return manifests.dump(documents)


def remarked(text: str) -> list[str]:
    """Return what is to be said of manifests that have ckptrun in them."""
    from ckptrun.kube import manifests  # noqa: PLC0415 -- as above
    from ckptrun.kube.remarks import remarks  # noqa: PLC0415 -- likewise

    documents = manifests.load(text, "the result")
    return [*remarks(documents), podsecurity.advice(documents)]


def shape(
    given: Mapping[str, Any],
    *,
    image: str,
    mode: str,
    key_secret: str,
    key_item: str,
    credentials_secret: str,
    region: str,
    store_claim: str,
    lineage_key: str,
    api: bool,
    version: str,
) -> Shape:
    """Return what is to be added; ``given`` are options of a run.

    Raises:
        UsageError: a value does not parse, or one that is needed is missing.
        ConfigurationError: values contradict each other.
    """
    if not given.get("store"):
        raise UsageError(
            "--store is missing: a pod's own disk goes with it", hint="pass --store s3://bucket/prefix"
        )
    if mode == Mode.SIDECAR and not image:
        raise UsageError("--image is missing: ckptrun's, which 'make image' makes", hint="pass --image")
    store = check_store_url(given["store"])
    _check_store(store, key_secret, store_claim, plain=bool(given.get("no-encryption")))
    said = {**given, **{name: value for name, value in _ALWAYS.items() if given.get(name) is None}}
    settings = _checked(said, has_key=bool(key_secret))
    variables = [(name, value) for name, value in as_variables(said) if name != "CKPTRUN_STORE"]
    if region:
        variables.append(("CKPTRUN_AWS_DEFAULT_REGION", region))
    return Shape(
        image=image,
        store=store,
        settings=tuple(variables),
        credentials=credentials_secret,
        key=key_secret,
        key_item=key_item,
        store_claim=store_claim,
        mode=Mode(mode),
        lineage_key=lineage_key,
        grace=settings,
        api=api,
        version=_version(version),
    )


def _checked(said: Mapping[str, Any], *, has_key: bool) -> float:
    """Parse the options as the pod will; return the grace in seconds."""
    here = {**said, "preserve": (), "name": said.get("name") or "pod"}
    here["no-encryption"] = has_key or said.get("no-encryption")
    for path in said.get("preserve") or ():
        if not path.startswith("/"):
            raise UsageError(f"--preserve {path} is not absolute", hint="write the path as the job sees it")
    return resolve_run(["job"], here, {}, _NOWHERE, _NOWHERE).grace


def _check_store(store: str, key_secret: str, store_claim: str, *, plain: bool) -> None:
    bucket = store.startswith("s3:")
    if key_secret and plain:
        raise ConfigurationError(
            "--key-secret and --no-encryption contradict each other", hint="leave one out"
        )
    if bucket and not key_secret and not plain:
        raise ConfigurationError(
            f"{store} would hold the job's memory, secrets and all, as plain bytes",
            hint="pass --key-secret SECRET, or accept it with --no-encryption",
        )
    if bucket and store_claim:
        raise ConfigurationError(
            f"--store-claim says nothing about the store {store}", hint="leave it out, or use a file:// store"
        )
    if not bucket and not store_claim:
        raise ConfigurationError(
            f"the store {store} would be lost with its pod",
            hint="pass --store-claim CLAIM, a volume that every node can mount",
        )


def _version(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"v?1\.(\d{1,3})(\..*)?", text)
    if match is None or (version := (1, int(match[1]))) < OLDEST:
        oldest, newest = (f"{major}.{minor}" for major, minor in (OLDEST, NEWEST))
        raise UsageError(
            f"--kubernetes {text} is no version from {oldest} on",
            hint=f"write it as kubectl version does: {newest}",
        )
    return version
