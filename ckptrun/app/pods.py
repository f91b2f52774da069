"""Brings a run and its pod together: what Kubernetes is told, and what it asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptrun.app.stores import existing_lineage
from ckptrun.core import cpu as cpus
from ckptrun.errors import UsageError
from ckptrun.kube.affinity import node_affinity
from ckptrun.supervisor.compat import Compat

if TYPE_CHECKING:
    from ckptrun.settings import StoreSettings


def affinity(settings: StoreSettings, name: str) -> dict[str, Any]:
    """Return the ``nodeAffinity`` of nodes that can restore the newest checkpoint of lineage ``name``.

    Raises:
        UsageError: there is no such lineage, or no checkpoint in it.
    """
    found = existing_lineage(settings, name)
    newest = max(found.live(), key=lambda record: record.seq, default=None)
    if newest is None:
        raise UsageError(
            f"lineage {name!r} has no checkpoint yet", hint=f"'ckptrun show {name}' tells how it stands"
        )
    compat = Compat.from_json(found.load(newest).facts.get("compat"))
    features = set(compat.cpu.features) if compat.cpu else set()
    if compat.portable in cpus.LEVELS:
        features -= cpus.capped(compat.portable)
    return node_affinity(compat.architecture, features, gpu=bool(compat.gpu))
