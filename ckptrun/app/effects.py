"""The effect ledger of a lineage: for a run, for ``ckptrun effects`` and for the dry run of a restore."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from ckptrun.effects import identity, plan
from ckptrun.effects.ledger import open_ledger, without_password
from ckptrun.effects.model import Kind, Mark
from ckptrun.effects.worker import Surroundings
from ckptrun.errors import NoCheckpointError
from ckptrun.supervisor.facts import Facts
from ckptrun.supervisor.ledger import Wanted
from ckptrun.telemetry.events import rfc3339

if TYPE_CHECKING:
    from pathlib import Path

    from ckptrun.effects.ledger import Ledger
    from ckptrun.effects.model import Entry
    from ckptrun.settings import RunSettings, StoreSettings
    from ckptrun.supervisor.privilege import Privilege
    from ckptrun.supervisor.vault import Vault

FILE_NAME = "effects.sqlite"
"""In the run's directory: the ledger where no other is named."""


def check_ledger(settings: RunSettings) -> None:
    """See that the ledger that was named could be used; nothing is connected to.

    Raises:
        UsageError, MissingFeatureError: it could not.
    """
    if settings.ledger:
        open_ledger(settings.ledger, settings.name).close()


def wanted_ledger(
    settings: RunSettings,
    privilege: Privilege,
    vault: Vault,
    finished: bool | None,
    sdk: Path,
    *,
    takers: bool,
) -> Wanted:
    """Return what a run wants of its ledger.

    Args:
        settings: the run's.
        privilege: as whom the job runs.
        vault: knows the writer's epoch.
        finished: whether the run before ended well.
        sdk: the job's SDK, as workers find it.
        takers: whether a hook takes messages.
    """
    lineage = lineage_in_ledger(settings.store_url, settings.name)
    url = ledger_url(settings.ledger, settings.run_dir)
    own = settings.run_dir / FILE_NAME
    job = privilege.job
    environment = {**settings.environment, **dict(privilege.environment)}
    return Wanted(
        lineage,
        lambda: open_ledger(url, lineage),
        lambda: bool(settings.ledger) or own.exists(),
        settings.require_ledger,
        lambda: vault.epoch,
        finished,
        Surroundings(
            environment,
            str(settings.cwd),
            (job.uid, job.gid, job.groups) if job else None,
            str(sdk),
            restricted=privilege.confined,
        ),
        takers,
        without_password(url),
    )


def entries(store: StoreSettings, name: str, ledger: str) -> list[dict[str, Any]]:
    """Return the effects of lineage ``name``, in their order.

    Raises:
        LedgerUnavailableError: the ledger is out of reach.
    """
    return [_row(entry) for entry in _open(store, name, ledger).since(0)]


def rewinding(store: StoreSettings, name: str, at: str | None, ledger: str) -> dict[str, Any]:
    """Return what a restore of ``name`` from checkpoint ``at`` (None: the newest) would mean for its effects.

    Raises:
        UsageError: there is no such lineage or checkpoint.
        NoCheckpointError: the lineage has none.
        LedgerUnavailableError: the ledger is out of reach.
    """
    from ckptrun.app.stores import existing_lineage, record_of  # noqa: PLC0415 -- listing needs no store

    lineage = existing_lineage(store, name)
    records = lineage.live() or lineage.checkpoints()
    if not records:
        raise NoCheckpointError(
            f"lineage {name!r} has no checkpoint", hint="start it with 'ckptrun -- COMMAND'"
        )
    record = record_of(lineage, name, at) if at else max(records, key=lambda one: one.seq)
    value = Facts.from_json(lineage.load(record).facts).channel.get("effects")
    opened = _open(store, name, ledger)
    mark, head = Mark.from_json(value if isinstance(value, dict) else None), opened.head()
    life = mark.life or head.life
    lacking = identity.lacks(mark, head, opened.claims())
    known = {
        (entry.life, entry.key): entry for entry in (*opened.since(max(mark.seq, life)), *opened.loose())
    }
    mark = Mark(max(mark.seq, life), life)
    steps = plan.rewind(known.values(), mark)
    steps += plan.unsent(known.values(), mark)
    return {
        "checkpoint": record.id,
        "ledger": without_password(ledger_url(ledger, store.run_dir(name))),
        "lost": bool(lacking),
        **(
            {"warning": f"this ledger is not the one that the checkpoint counts on: {lacking}"}
            if lacking
            else {}
        ),
        "effects": [{"action": step.action.value, **_row(step.entry)} for step in steps],
    }


def ledger_url(ledger: str, run_dir: Path) -> str:
    """Return the URL of a ledger; of none, that of the run's own file."""
    return ledger or f"sqlite://{run_dir / FILE_NAME}"


def lineage_in_ledger(store_url: str, name: str) -> str:
    """Return how a ledger calls a lineage: the same name in two stores is two lineages."""
    digest = hashlib.sha256(store_url.rstrip("/").encode("utf-8", "surrogateescape")).hexdigest()
    return f"{name}@{digest[:8]}"


def _open(store: StoreSettings, name: str, ledger: str) -> Ledger:
    return open_ledger(ledger_url(ledger, store.run_dir(name)), lineage_in_ledger(store.url, name))


def _row(entry: Entry) -> dict[str, Any]:
    result = entry.result
    return {
        "key": entry.key,
        "kind": str(entry.kind),
        "state": str(entry.state),
        "pending": entry.pending,
        "checkpoint": entry.follows or None,
        "incarnation": entry.incarnation,
        "seq": entry.seq,
        "began": rfc3339(entry.began),
        "result": result.get("value") if isinstance(result, dict) else None,
        "sender": (entry.sender or "hooks") if entry.kind is Kind.DEFERRED else None,
        "error": entry.error or None,
    }
