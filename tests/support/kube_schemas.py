"""Checks objects strictly: by the schemas of the oldest and the newest Kubernetes, and by what no schema says."""

from __future__ import annotations

import functools
import re
from typing import Any

from kubernetes_validate import utils

OLDEST, NEWEST = "1.25.0", "1.37.0"

utils.schema_contents = functools.lru_cache(maxsize=None)(utils.schema_contents)  # a megabyte each

_QUALIFIED = re.compile(r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_REASON = re.compile(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?")


def check(found: dict[str, Any], version: str, kind: str) -> None:
    """Raise ValueError for an object that a server would refuse, or that has a field nobody knows."""
    _refuse(f"not a {kind} of {version}", (found.get("apiVersion"), found.get("kind")) != (version, kind))
    for release in (OLDEST, NEWEST):
        try:
            utils.validate(found, release, strict=True)
        except utils.ValidationError as error:
            raise ValueError(f"{error.json_path}: {error.message}") from error
    _RULES.get(found["kind"], lambda _: None)(found)


def _event(found: dict[str, Any]) -> None:
    _refuse("the message is too long", len(found.get("message", "").encode()) > 1024)
    _refuse("no reason", not 0 < len(found.get("reason", "")) <= 128)
    _refuse("the type is neither Normal nor Warning", found.get("type") not in {"Normal", "Warning"})
    _refuse("another namespace", found["involvedObject"].get("namespace") != found["metadata"]["namespace"])
    _refuse("the instance is too long", len(found.get("reportingInstance", "")) > 128)
    _refuse("no controller's name", not _QUALIFIED.fullmatch(found.get("reportingComponent", "")))
    _refuse("no count", found.get("count", 0) < 1)
    _refuse("it ends before it begins", found["lastTimestamp"] < found["firstTimestamp"])


def _lease(found: dict[str, Any]) -> None:
    spec = found.get("spec", {})
    _refuse("no holder's name", spec.get("holderIdentity") == "")
    _refuse("it lasts no time", spec.get("leaseDurationSeconds", 1) <= 0)
    _refuse("turns run backwards", spec.get("leaseTransitions", 0) < 0)
    for owner in found["metadata"].get("ownerReferences", ()):
        _refuse("an owner without a uid", not owner.get("uid"))


def _pod(found: dict[str, Any]) -> None:
    kinds = [entry["type"] for entry in found.get("status", {}).get("conditions", ())]
    _refuse("a condition twice", len(kinds) != len(set(kinds)))
    for entry in found.get("status", {}).get("conditions", ()):
        _refuse("a condition's type", not _QUALIFIED.fullmatch(entry["type"]))
        _refuse("a condition's reason", not _REASON.fullmatch(entry.get("reason", "x")))
        _refuse("a condition's status", entry["status"] not in {"True", "False", "Unknown"})
    for key in found["metadata"].get("annotations", {}):
        _refuse(f"annotation {key}", not _QUALIFIED.fullmatch(key))


def _refuse(what: str, wrong: bool) -> None:
    if wrong:
        raise ValueError(what)


_RULES = {"Event": _event, "Lease": _lease, "Pod": _pod}
