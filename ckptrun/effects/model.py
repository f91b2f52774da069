"""The words of the effect ledger as data: entries, the head, the mark of a checkpoint. Nothing here decides."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptrun.core.model import Json


class Kind(enum.StrEnum):
    """What was promised of an effect."""

    ONCE = "once"
    COMPENSABLE = "compensable"
    DEFERRED = "deferred"


class State(enum.StrEnum):
    """How an effect stands; the arrows are in docs/design/effects.md."""

    STARTED = "started"
    DONE = "done"
    FAILED = "failed"
    UNDOING = "undoing"
    UNDONE = "undone"
    UNDO_FAILED = "undo-failed"
    QUEUED = "queued"
    SENDING = "sending"
    SENT = "sent"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Entry:
    """One effect.

    Args:
        life: which life of the lineage it belongs to, see `Head`.
        key: unique in the life.
        kind: what was promised.
        seq: the order of things; a claim by a replay renews it.
        state: how it stands.
        token: of the call that began it, so that a request sent twice is taken once.
        incarnation: of the job that began it.
        epoch: of the lineage's writer then.
        follows: the newest checkpoint then; empty if there was none.
        call: undo or sender with its arguments, and what a worker needs to run it; see `ckptrun.effects.worker`.
        result: what the function returned.
        rewound: seq of the rewind that went back to before it; 0: none did, or a replay has claimed it since.
        error: why its undo or its sending failed last.
        began: seconds since the epoch.
        past: (seq, rewound) of the times it was gone back to before, and claimed or done again: a checkpoint with a
            mark from ``seq`` up to ``rewound``, that excluded, counts on it as well.
    """

    life: int
    key: str
    kind: Kind
    seq: int
    state: State
    token: str = ""
    incarnation: int = 0
    epoch: int = 0
    follows: str = ""
    call: Json = None
    result: Json = None
    rewound: int = 0
    error: str = ""
    began: float = 0.0
    past: tuple[tuple[int, int], ...] = ()

    @property
    def pending(self) -> bool:
        """Whether the job's memory does not know of it: it is undone unless a replay claims it."""
        return self.rewound > 0 and self.kind is Kind.COMPENSABLE and self.state in STANDING

    @property
    def loose(self) -> bool:
        """Whether something may still have to be done about it."""
        return self.rewound > 0 or self.state in _LOOSE

    @property
    def sender(self) -> str:
        """The function that sends it; "" of what is for the hooks of post-commit."""
        return str(self.call.get("function") or "") if isinstance(self.call, dict) else ""

    @property
    def payload(self) -> Json:
        """What is to be sent."""
        args = self.call.get("args") if isinstance(self.call, dict) else None
        return args[0] if isinstance(args, list) and args else None

    def closed(self, seq: int) -> tuple[tuple[int, int], ...]:
        """Return its past, were it done or claimed anew now; ``seq`` is that of a rewind that happens now, or 0."""
        rewound = self.rewound or seq
        return (*self.past, (self.seq, rewound)) if rewound else self.past

    def to_json(self) -> dict[str, Any]:
        """Return it for a ledger."""
        return {name: getattr(self, name) for name in _FIELDS}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Entry:
        """Read what `to_json` wrote."""
        known = {name: value[name] for name in _FIELDS if name in value}
        known["past"] = tuple((int(seq), int(rewound)) for seq, rewound in value.get("past", ()))
        return cls(**{**known, "kind": Kind(value["kind"]), "state": State(value["state"])})


STANDING = frozenset({State.DONE, State.STARTED, State.UNDOING, State.UNDO_FAILED})
"""States in which an effect, or a part of it, may be in the world."""
_LOOSE = frozenset({State.UNDOING, State.UNDO_FAILED, State.QUEUED, State.SENDING})
_FIELDS = tuple(Entry.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Head:
    """The head row of one lineage.

    Args:
        epoch: the highest writer epoch of the lineage that claimed the ledger.
        term: grows with every claim; whoever writes under an older one is fenced.
        seq: the newest given.
        life: seq at which this life of the lineage began. A run that starts anew after one that finished begins a
            life of its own, in which every key is new.
        closed: the life has ended: its job exited with 0, and all was settled, or tried.
    """

    epoch: int = 0
    term: int = 0
    seq: int = 0
    life: int = 0
    closed: bool = True


@dataclass(frozen=True, slots=True)
class Claim:
    """One run's taking of the ledger: its name, which no other has, and the ledger's newest seq then."""

    name: str
    seq: int


@dataclass(frozen=True, slots=True)
class Mark:
    """What a checkpoint covers: the entries of its life with a seq of at most ``seq``.

    Args:
        seq: the ledger's newest seq when the dump began.
        life: the job's life.
        spanned: keys of effects that had begun and not ended when the dump began: their section outlived its time.
        owed: the ledger had not been told of the job's fresh start yet: a restore tells it.
        ledger: name of the first claim of the ledger; "" of a checkpoint that does not say.
        claim: name of the one under which the dump began; likewise.
    """

    seq: int = 0
    life: int = 0
    spanned: tuple[str, ...] = field(default=())
    owed: bool = False
    ledger: str = ""
    claim: str = ""

    def to_json(self) -> dict[str, Json]:
        """Return it for a checkpoint's facts."""
        return {
            "seq": self.seq,
            "life": self.life,
            "spanned": list(self.spanned),
            "owed": self.owed,
            "ledger": self.ledger,
            "claim": self.claim,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> Mark:
        """Read what `to_json` wrote; of a checkpoint that knows of no effects, the mark of none."""
        if not value:
            return cls()
        return cls(
            int(value["seq"]),
            int(value["life"]),
            tuple(value.get("spanned", ())),
            bool(value.get("owed", False)),
            str(value.get("ledger", "")),
            str(value.get("claim", "")),
        )
