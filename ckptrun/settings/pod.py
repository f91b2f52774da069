"""Which pod this is, by what the downward API has put into the environment, and the lineage name that follows. Pure.

`resolve_run` names a run by it that has no name; ``ckptrun.kube`` writes of the pod to the Kubernetes API. The
variables are those of docs/design/kubernetes.md.
"""

from __future__ import annotations

import enum
import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptrun.errors import UsageError
from ckptrun.settings.names import NAME_LIMIT, check_name

if TYPE_CHECKING:
    from collections.abc import Mapping

_DIGEST = 8


class LineageKey(enum.StrEnum):
    """What tells lineages apart: the name of the Job, so that one applied anew goes on, or its uid."""

    NAME = "name"
    UID = "uid"


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod; what is not known is empty.

    Args:
        namespace: its namespace.
        name: its name.
        uid: its uid.
        node: the node it runs on.
        service_account: whom it acts as.
        job: the Job that made it.
        job_uid: that Job's uid.
        index: its completion index, if the Job is an Indexed one.
        container: the container the job runs in.
    """

    namespace: str
    name: str
    uid: str = ""
    node: str = ""
    service_account: str = ""
    job: str = ""
    job_uid: str = ""
    index: str = ""
    container: str = ""

    def lineage(self, key: LineageKey = LineageKey.NAME) -> str:
        """Return the lineage name: ``NAMESPACE.JOB``, ``NAMESPACE.JOB.INDEX``, or by the pod's own name.

        A dot within a name becomes ``_``, which no Kubernetes name has: so a Job ``a.1`` and index 1 of a Job ``a``
        differ. What is too long is cut, and a digest of the whole put in place of the rest.

        Raises:
            UsageError: the key is the uid, and that is not known; or a variable holds what can be in no name.
        """
        if key is LineageKey.UID:
            owner = self.job_uid if self.job else self.uid
            if not owner:
                variable = "CKPTRUN_JOB_UID" if self.job else "CKPTRUN_POD_UID"
                raise UsageError(
                    f"CKPTRUN_LINEAGE_KEY=uid needs {variable}, which is not set",
                    hint=f"set {variable} by the downward API, or CKPTRUN_LINEAGE_KEY=name",
                )
        else:
            owner = self.job or self.name
        if self.index and not (self.index.isascii() and self.index.isdecimal()):
            raise UsageError(
                f"CKPTRUN_COMPLETION_INDEX={self.index!r} is no whole number",
                hint="take it from the annotation batch.kubernetes.io/job-completion-index",
            )
        parts = [self.namespace, owner.replace(".", "_"), *([self.index] if self.index else [])]
        return check_name(_shortened(".".join(parts)))


def find_pod(environ: Mapping[str, str]) -> Pod | None:
    """Return the pod this process is in; None where the downward API names none."""

    def said(name: str) -> str:
        return environ.get(f"CKPTRUN_{name}", "").strip()

    if not said("POD_NAME") or not said("POD_NAMESPACE"):
        return None
    return Pod(
        said("POD_NAMESPACE"),
        said("POD_NAME"),
        said("POD_UID"),
        said("NODE_NAME"),
        said("SERVICE_ACCOUNT"),
        said("JOB_NAME"),
        said("JOB_UID"),
        said("COMPLETION_INDEX"),
        said("JOB_CONTAINER"),
    )


def pod_lineage(environ: Mapping[str, str]) -> str | None:
    """Return the lineage name that the pod gives a run without a name; None outside a pod.

    Raises:
        UsageError: ``CKPTRUN_LINEAGE_KEY`` is neither ``name`` nor ``uid``; or see `Pod.lineage`.
    """
    pod = find_pod(environ)
    if pod is None:
        return None
    text = environ.get("CKPTRUN_LINEAGE_KEY", "").strip() or LineageKey.NAME
    try:
        key = LineageKey(text)
    except ValueError:
        choices = ", ".join(LineageKey)
        raise UsageError(
            f"CKPTRUN_LINEAGE_KEY={text!r} is no such choice", hint=f"choose {choices}"
        ) from None
    return pod.lineage(key)


def _shortened(name: str) -> str:
    if len(name) <= NAME_LIMIT:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:_DIGEST]
    return f"{re.sub('[-._]+$', '', name[: NAME_LIMIT - _DIGEST - 1])}-{digest}"
