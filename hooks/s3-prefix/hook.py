"""The hook `s3-prefix`: brings objects under a prefix back in step with a checkpoint. See README.md beside this file.

The position is a listing taken before the freeze, and what a second one, after it, has that is new. What has changed
since is also told by the server's times, against the freeze on the server's clock: an interval, as a Date header has
whole seconds. Nothing is deleted before a copy of it has been made and looked at.
"""

from __future__ import annotations

import base64
import concurrent.futures
import hashlib
import json
import sys
from dataclasses import dataclass, field
from typing import Any

import zstandard
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError
from bucket import GONE, MISSING, THREADS, Clock, Object, Prefix, State, StepError, Version, code

INLINE_BYTES = 40 << 10
"""A compressed listing up to this is kept with the checkpoint itself, as text a quarter longer; of 64 KiB there."""
SINCE_BYTES = 8 << 10
"""Likewise for what has changed until just after the freeze."""
LISTING_BYTES = 1 << 30
NAMED = 20
"""How many objects of a kind are named in the run's diary."""


def note(context: dict[str, Any], prefix: Prefix) -> dict[str, Any]:
    """pre-checkpoint: keep a listing with the checkpoint, or where it is if it is large."""
    objects = prefix.objects()
    packed = pack({key: one.state for key, one in objects.items()})
    clock = [prefix.clock.low, prefix.clock.high]
    data: dict[str, Any] = {"prefix": prefix.url(), "objects": len(objects), "clock": clock}
    if len(packed) <= INLINE_BYTES:
        data["listing"] = base64.b85encode(packed).decode()
    else:
        name = f"{prefix.state}{context['lineage']}/{context['checkpoint']['id']}.zst"
        data |= {"listing_at": name, "sha256": hashlib.sha256(packed).hexdigest()}
        if not context["dry_run"]:
            prefix.put(name, packed)
    return {"done": ["position"], "data": data, "reason": f"{len(objects)} objects under {prefix.url()}"}


def look_again(context: dict[str, Any], prefix: Prefix) -> dict[str, Any]:
    """post-checkpoint: keep what has come since; what comes later yet is after the checkpoint, whatever clocks say."""
    data = context["data"]
    if not data or not (context["outcome"] or {}).get("ok"):
        return {}
    if "listing" not in data:  # listing as much as that twice is too dear; clocks must do
        return {}
    before = unpack(base64.b85decode(data["listing"]))
    now = {key: one.state for key, one in prefix.objects().items()}
    since = {key: state for key, state in now.items() if before.get(key) != state}
    packed = pack(since | {key: GONE for key in before if key not in now})
    return {"data": {"since": base64.b85encode(packed).decode()}} if len(packed) <= SINCE_BYTES else {}


def forget(context: dict[str, Any], prefix: Prefix) -> dict[str, Any]:
    """post-commit: delete the listings of checkpoints that can never be restored any more."""
    where, kept = (context["data"] or {}).get("listing_at"), context.get("kept")
    if where is None or kept is None or context["dry_run"]:
        return {}
    count = prefix.trim(where, {f"{one}.zst" for one in kept})
    return {"reason": f"{count} old listings deleted"} if count else {}


@dataclass
class Plan:
    """What brings the prefix in step.

    Args:
        late: objects that were written after the checkpoint.
        missing: keys of the checkpoint that are gone.
        doubtful: keys of objects as new as the checkpoint; they stay.
    """

    late: list[Object] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    doubtful: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Position:
    """What is known of the prefix at a checkpoint.

    Args:
        before: states by key, some time before the freeze.
        since: likewise what was otherwise just after the freeze; None if nobody has looked.
        clock: the server's, against that of the machine of the checkpoint.
        freeze: seconds since the epoch, on that machine.
    """

    before: dict[str, State]
    since: dict[str, State] | None
    clock: Clock
    freeze: float

    @property
    def known(self) -> dict[str, State]:
        """States by key, as near to the freeze as is known."""
        return self.before | (self.since or {})

    def is_late(self, modified: float) -> bool:
        """Tell whether a time of the server's is surely after the freeze."""
        return self.clock.is_late(modified, self.freeze)

    def compare(self, now: dict[str, Object]) -> Plan:
        """Tell what has happened after the checkpoint."""
        plan, since = Plan(), self.since or {}
        for key, one in now.items():
            if key not in since and self.before.get(key) == one.state:
                continue
            unseen = self.since is not None and since.get(key) != one.state
            if unseen or self.is_late(one.modified):
                plan.late.append(one)
            elif not self.clock.is_early(one.modified, self.freeze):
                plan.doubtful.append(key)
        plan.missing += [key for key, state in self.known.items() if key not in now and state != GONE]
        return plan

    def had(self, late: Object) -> bool:
        """Tell whether the checkpoint had an object of that name, too."""
        is_since = self.since is not None and self.since.get(late.key) == late.state
        return (self.before if is_since else self.known).get(late.key, GONE) != GONE

    def then(self, key: str, older: list[Version]) -> Version | None:
        """Return which of an object's older versions was the newest at the checkpoint; None if none is to be had."""
        by_time = next((one for one in older if not self.is_late(one.modified)), None)
        if self.since is None:
            return by_time
        return next((one for one in older if one.state == self.known.get(key)), by_time)


@dataclass
class Account:
    """What was done, by key, and what could not be."""

    aside: list[str] = field(default_factory=list)
    returned: list[str] = field(default_factory=list)
    overwritten: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    in_doubt: list[str] = field(default_factory=list)


def position(context: dict[str, Any], prefix: Prefix) -> Position:
    """Return what this hook has noted for the checkpoint."""
    data, checkpoint = context["data"], context["checkpoint"]
    if not data:
        raise StepError(
            f"checkpoint {checkpoint['id']} was taken without this hook, so what {prefix.url()} held is not known; "
            f"restore a later one, or run without the hook"
        )
    if data["prefix"] != prefix.url():
        raise StepError(
            f"checkpoint {checkpoint['id']} was taken with url={data['prefix']}, not {prefix.url()}"
        )
    since = unpack(base64.b85decode(data["since"])) if "since" in data else None
    return Position(
        unpack(_listing(data, prefix)), since, Clock(*data["clock"]), float(checkpoint["created"])
    )


def bring_back(context: dict[str, Any], prefix: Prefix) -> dict[str, Any]:
    """pre-restore: bring older versions back, move aside what is newer than the checkpoint, name the rest."""
    checkpoint, at = context["checkpoint"]["id"], position(context, prefix)
    plan, dry_run = at.compare(prefix.objects()), context["dry_run"]
    account = Account(in_doubt=plan.doubtful)
    has_versions = prefix.is_versioned()

    def reverse(key: str) -> bool:
        """Bring one object back, and write down what became of it; False if it is of others' making meanwhile."""
        then = at.then(key, prefix.older(key)) if has_versions else None
        if then is not None and not then.deleted:
            if not dry_run:
                prefix.copy(key, key, then.state[1], then.id)
            account.returned.append(key)
        elif key not in late:
            account.missing.extend([key] if then is None else [])
        elif then is None and at.had(late[key]):
            account.overwritten.append(key)
        else:
            account.aside.append(key)
            return dry_run or prefix.move_aside(late[key], checkpoint)
        return True

    late = {one.key: one for one in plan.late}
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        if not all(pool.map(reverse, [*late, *plan.missing])):
            raise StepError(
                f"{prefix.url()} is being written by others at this moment; see that nobody else does"
            )
    return _told(account, prefix, checkpoint, "would be moved" if dry_run else "moved")


def _listing(data: dict[str, Any], prefix: Prefix) -> bytes:
    if "listing" in data:
        return base64.b85decode(data["listing"])
    where = data["listing_at"]
    try:
        packed = prefix.get(where)
    except ClientError as error:
        if code(error) not in MISSING:
            raise
        raise StepError(
            f"the listing {prefix.url(where)} of this checkpoint is gone, so what is new cannot be told; see who "
            f"deletes there, and run without the hook to go on from this one"
        ) from error
    if hashlib.sha256(packed).hexdigest() != data["sha256"]:
        raise StepError(
            f"the listing {prefix.url(where)} is not the one of this checkpoint; somebody has changed it"
        )
    return packed


def _told(account: Account, prefix: Prefix, checkpoint: str, verb: str) -> dict[str, Any]:
    to = prefix.url(f"{prefix.aside}{checkpoint}/")
    event: dict[str, Any] = {"event": "s3-prefix", "prefix": prefix.url(), "to": to}
    words = [f"{len(account.aside)} objects {verb} to {to}"]
    for kind, keys in vars(account).items():
        event[kind] = {"count": len(keys), "keys": sorted(keys)[:NAMED]}
        if keys and kind != "aside":
            words.append(f"{len(keys)} {kind.replace('_', ' ')}")
    return {"done": ["aside"], "reason": ", ".join(words), "events": [event]}


def pack(states: dict[str, State]) -> bytes:
    """Make a listing small: ``[key, etag, size]`` each."""
    rows = [(key, *states[key]) for key in sorted(states)]
    return zstandard.ZstdCompressor(level=9).compress(json.dumps(rows, separators=(",", ":")).encode())


def unpack(packed: bytes) -> dict[str, State]:
    """Undo `pack`."""
    text = zstandard.ZstdDecompressor().decompress(packed, max_output_size=LISTING_BYTES)
    return {key: (etag, size) for key, etag, size in json.loads(text)}


PHASES = {
    "pre-checkpoint": note,
    "post-checkpoint": look_again,
    "post-commit": forget,
    "pre-restore": bring_back,
}


def main() -> int:
    """Do what the phase asks for; return the exit code."""
    context = json.load(sys.stdin)
    where = context["options"]["url"]
    try:
        result = PHASES[context["phase"]](context, Prefix(context["options"]))
    except StepError as error:
        print(error, file=sys.stderr)
    except (NoCredentialsError, PartialCredentialsError):
        print(
            f"no credentials for {where}; pass access_key=$NAME&secret_key=$NAME (those of ckptrun's store are "
            f"withheld from hooks)",
            file=sys.stderr,
        )
    except (ClientError, BotoCoreError) as error:
        print(f"{where}: {error}", file=sys.stderr)
    else:
        print(json.dumps(result))
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
