"""Tells of a run that could not begin, or ended on an error of ckptrun's: one Event, at once, within a few seconds.

Used by ``app``, in the main thread: what ended the run is told before the container ends.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from typing import TYPE_CHECKING

from ckptrun import errors
from ckptrun.kube import objects
from ckptrun.kube.access import find_access
from ckptrun.kube.api import Api, ApiError
from ckptrun.kube.objects import Notice
from ckptrun.kube.presence import KIND, described, living_holder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptrun.errors import CkptrunError
    from ckptrun.settings.pod import Pod

SECONDS = 2.0
"""To connect, and for an answer: the end of the container waits for it."""

REASONS: tuple[tuple[type[errors.CkptrunError], str], ...] = (
    (errors.FencedError, "Fenced"),
    (errors.HeldError, "LineageHeld"),
    (errors.WrongKeyError, "WrongKey"),
    (errors.ChoiceNeededError, "ChoiceNeeded"),
    (errors.ConfigurationError, "BadConfiguration"),
    (errors.UsageError, "BadConfiguration"),
    (errors.PermissionMissingError, "PermissionMissing"),
    (errors.MissingFeatureError, "FeatureMissing"),
    (errors.StoreUnreachableError, "StoreUnreachable"),
    (errors.StoreRefusedError, "StoreRefused"),
    (errors.StoreFullError, "StoreFull"),
    (errors.CorruptError, "StoreCorrupt"),
    (errors.StoreError, "StoreUnusable"),
    (errors.LedgerError, "LedgerUnusable"),
    (errors.NoCheckpointError, "NoCheckpoint"),
    (errors.CkptrunError, "RunFailed"),
)
"""Kind of error -> reason of the Event; the first that fits."""


def tell_failure(
    pod: Pod, error: CkptrunError, environ: Mapping[str, str], *, store_url: str = "", lineage: str = ""
) -> str:
    """Write an Event on the pod; whatever becomes of that, nothing is raised.

    Args:
        pod: the pod this is.
        error: what ended the run.
        environ: where the API's address is found.
        store_url: of the lineage, where it is known.
        lineage: its name: if it is held, the Lease says by whom.

    Returns:
        Who holds the lineage, in words; empty if that is not known.
    """
    holder = ""
    with contextlib.suppress(errors.CkptrunError, ApiError, OSError):
        api = Api(find_access(environ), (SECONDS, SECONDS))
        if isinstance(error, errors.HeldError) and store_url and lineage:
            holder = _holder(api, pod, objects.lease_name(store_url, lineage))
        reason = next(reason for kind, reason in REASONS if isinstance(error, kind))
        message = f"{error.message} ({holder})" if holder else error.message
        notice = Notice(reason, f"{message}; {error.hint}" if error.hint else message, warning=True)
        now = time.time()
        name = objects.event_name(pod, secrets.token_hex(8))
        path = f"/api/v1/namespaces/{pod.namespace}/events"
        api.call("create", "events", path, objects.event(pod, name, notice, 1, now, now))
    return holder


def _holder(api: Api, pod: Pod, name: str) -> str:
    """Return what the lineage's Lease says of another pod."""
    path = f"/apis/coordination.k8s.io/v1/namespaces/{pod.namespace}/leases/{name}"
    try:
        lease = api.call("get", KIND, path)
    except ApiError:
        return ""
    now = time.time()
    living = living_holder(lease, now)
    return described(lease, now) if living and living != pod.uid else ""
