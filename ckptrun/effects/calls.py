"""What a job asks of its effects and what it is told, as data, and what is refused before anything is done."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptrun.errors import UsageError

if TYPE_CHECKING:
    from ckptrun.core.model import Json
    from ckptrun.effects.model import Entry, Kind

KEY_BYTES = 512
JSON_BYTES = 64 * 1024
"""Most bytes of a result, of a payload or of an undo's arguments, as JSON."""


class Do:
    """What a job is told to do about an effect that it begins."""

    RUN = "run"
    """Run the function."""
    RETURN = "return"
    """It was done: here is its result."""
    PROBE = "probe"
    """It was begun and nobody knows whether it happened: find out."""
    WAIT = "wait"
    """Something is being done about it: ask again."""
    UNDO = "undo"
    """For the supervisor: have it undone, the job waits."""


@dataclass(frozen=True, slots=True)
class Begun:
    """The answer to `Book.begin`: one of `Do`, the result to return, and why an undo failed, if it did."""

    do: str
    result: Json = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """A job's wish to begin an effect.

    Args:
        key: its key.
        kind: once or compensable.
        token: of this call, unique; the same when the request is sent again.
        incarnation: of the job.
        follows: the newest checkpoint.
        call: see `Entry.call`.
        seconds: after which an unfinished one counts as unsettled.
        settle: what the caller found out of an unsettled one: "" (nothing yet), ``done``, ``not-done``, ``retry``,
            ``undo`` (undo whatever it did, then run it).
        result: with ``done``: its result.
    """

    key: str
    kind: Kind
    token: str
    incarnation: int
    follows: str = ""
    call: Json = None
    seconds: float = 60.0
    settle: str = ""
    result: Json = None


def scope(lineage: str, life: int) -> str:
    """Return what tells a life of a lineage from all others, in keys that targets are given."""
    return hashlib.sha256(f"{lineage}\0{life}".encode()).hexdigest()[:32]


def message_id(lineage: str, entry: Entry) -> str:
    """Return the idempotency key of a message: the same whenever it is sent, another for every other message."""
    words = "\0".join((scope(lineage, entry.life), "message", entry.key))
    return "ckptrun-" + hashlib.sha256(words.encode()).hexdigest()[:40]


def check_json(what: str, value: Json) -> None:
    """See that ``value`` is not too large for a ledger.

    Raises:
        UsageError: it is.
    """
    size = len(json.dumps(value))
    if size > JSON_BYTES:
        raise UsageError(
            f"{what} has {size} bytes as JSON; {JSON_BYTES} are all that the ledger keeps",
            hint="keep the data elsewhere, and its name in the ledger",
        )


def check_key(key: object) -> None:
    """See that ``key`` can name an effect.

    Raises:
        UsageError: it cannot.
    """
    try:
        if isinstance(key, str) and "\0" not in key and 0 < len(key.encode()) <= KEY_BYTES:
            return
    except UnicodeEncodeError:  # half a surrogate pair, of the name of a file perhaps
        pass
    raise UsageError(f"{key!r:.80} is no key of an effect", hint=f"a key is 1 to {KEY_BYTES} bytes of UTF-8")
