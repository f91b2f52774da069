"""Brings a run and its pod together: what Kubernetes is told, and what it asks for."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from ckptrun.errors import CkptrunError, UsageError
from ckptrun.settings import find_pod

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckptrun.settings import RunSettings, StoreSettings
    from ckptrun.supervisor.shell import Shell
    from ckptrun.telemetry.events import EventLog
    from ckptrun.telemetry.speak import Speaker

STOP_FIRST_SECONDS = 2.0
"""A pod that is deleted gets SIGTERM within this time, and the stop that it means takes its own checkpoint."""


SILENT = "CKPTRUN_KUBE_API"
"""Set to ``off``, it has a pod's run leave the Kubernetes API alone, without a word."""


def attach(settings: RunSettings, shell: Shell, diary: EventLog, speaker: Speaker) -> Callable[[], None]:
    """Have a run tell its pod what happens and do what the pod wants; return what ends that.

    Outside a pod, or told to leave the API alone, it does nothing.
    """
    if settings.pod is None or _silent():
        return lambda: None
    from ckptrun.kube.duties import Hands  # noqa: PLC0415 -- for pods alone
    from ckptrun.kube.link import Link  # noqa: PLC0415 -- likewise

    def foresee(why: str, stop_likely: bool) -> None:
        def expect() -> None:
            if shell.foresee():
                diary.emit("preemption-expected", reason=why)

        if stop_likely:
            shell.enqueue(lambda: shell.after(STOP_FIRST_SECONDS, expect))
        else:
            shell.enqueue(expect)

    hands = Hands(
        speaker.error,
        speaker.detail,
        lambda reply: shell.enqueue(lambda: shell.request(reply, wait=True)),
        foresee,
    )
    link = Link(settings.pod, settings.store_url, settings.name, hands, os.environ, _facts)
    diary.observe(link.observe)
    link.start()
    return link.close


@contextlib.contextmanager
def failures_told(settings: RunSettings | None = None) -> Iterator[None]:
    """Have the pod's Events tell of an error that ends ckptrun; it is raised on.

    Args:
        settings: the run's, once they are known.
    """
    try:
        yield
    except CkptrunError as error:
        tell_pod(error, settings)
        raise


def tell_pod(error: CkptrunError, settings: RunSettings | None = None) -> None:
    """Have the pod's Events tell of an error, once; nothing is raised, and it takes a few seconds at the most.

    Args:
        error: if its lineage is held, it says by whom afterwards.
        settings: the run's, where they are known.
    """
    pod = find_pod(os.environ)
    if error.told or pod is None or _silent():
        return
    error.told = True
    from ckptrun.kube.failures import tell_failure  # noqa: PLC0415 -- for pods alone

    store, lineage = (settings.store_url, settings.name) if settings else ("", "")
    if holder := tell_failure(pod, error, os.environ, store_url=store, lineage=lineage):
        error.message = f"{error.message} ({holder})"


def affinity(settings: StoreSettings, name: str) -> dict[str, Any]:
    """Return the ``nodeAffinity`` of nodes that can restore the newest checkpoint of lineage ``name``.

    Raises:
        UsageError: there is no such lineage, or no checkpoint in it.
    """
    from ckptrun.app.stores import existing_lineage  # noqa: PLC0415 -- this command's alone
    from ckptrun.core import cpu as cpus  # noqa: PLC0415
    from ckptrun.kube.affinity import node_affinity  # noqa: PLC0415
    from ckptrun.supervisor.compat import Compat  # noqa: PLC0415

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


def _silent() -> bool:
    return os.environ.get(SILENT) == "off"


def _facts() -> dict[str, str]:
    """Return annotations of what checkpoints that are taken here will depend on."""
    from ckptrun.core.cpu import level_of  # noqa: PLC0415 -- in the link's thread
    from ckptrun.kube.affinity import compat_annotations  # noqa: PLC0415
    from ckptrun.supervisor import machine  # noqa: PLC0415

    architecture = machine.this_architecture()
    text = machine.CPUINFO.read_text(encoding="utf-8", errors="replace")
    cpu = machine.read_cpu(text, architecture)
    return compat_annotations(
        {
            "architecture": architecture,
            "cpu": cpu.model,
            "cpu-level": level_of(cpu.features),
            "kernel": os.uname().release,
            "gpu-driver": machine.read_gpu(machine.NVIDIA),
        }
    )
