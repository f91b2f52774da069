"""The state's calls as requests to ckptrun: one for what is small, parts for what does not fit into a datagram."""

from __future__ import annotations

import binascii
import os
import threading

from ckptrun.job import _channel, _errors
from ckptrun.job._errors import JobError, UnavailableError
from ckptrun.job._state_batch import NAMES, PART

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterator, Sequence

    from ckptrun.job._state_batch import Bytes

TRIES = 100
"""How often a value is read anew that is replaced meanwhile, or sent anew that ckptrun has lost."""


class StateUnavailableError(UnavailableError):
    """ckptrun cannot write or read the state now (its disk is full, say); nothing of the call was done."""


class _UploadLostError(JobError):
    """ckptrun knows nothing of the parts: it has restored the job since, or dropped them for others."""


_errors.KINDS.update({"state": StateUnavailableError, "state-upload": _UploadLostError})


def put(parts: list[Bytes]) -> None:
    """Have a batch applied: all of it, or nothing."""
    total = sum(len(part) for part in parts)
    if total <= PART:
        _channel.request("state", op="put", data=_text(b"".join(parts)))
        return
    with _lock:  # of all that a process sends one after the other, ckptrun keeps the parts of one batch only
        for _ in range(TRIES):
            try:
                _upload(parts, total)
            except _UploadLostError:
                continue
            return
    raise StateUnavailableError("ckptrun loses what is put before all of it is there", "put smaller values")


def get(keys: Sequence[str]) -> dict[str, bytes]:
    """Return those that are there."""
    found: dict[str, bytes] = {}
    for names in _crowds(keys):
        waiting = names
        while waiting:
            reply = _channel.request("state", op="get", keys=waiting)
            values = reply["values"]
            for key, value in zip(waiting, values):
                if value is not None:
                    data = _whole(key, reply["generation"], value)
                    if data is not None:
                        found[key] = data
            waiting = waiting[len(values) :]
    return found


def keys(
    prefix: str, after: str | None, before: str | None, limit: int | None, *, reverse: bool
) -> list[str]:
    """Return keys in order."""
    found: list[str] = []
    while limit is None or len(found) < limit:
        reply = _channel.request(
            "state",
            op="keys",
            prefix=prefix,
            after=after,
            before=before,
            reverse=reverse,
            limit=None if limit is None else limit - len(found),
        )
        found += reply["keys"]
        if not reply["more"]:
            break
        if reverse:
            before = found[-1]
        else:
            after = found[-1]
    return found


def delete_prefix(prefix: str) -> int:
    """Delete what begins so; return how many."""
    return int(_channel.request("state", op="delete-prefix", prefix=prefix)["count"])


def _upload(parts: list[Bytes], total: int) -> None:
    name = os.urandom(8).hex()
    at = 0
    for piece in _pieces(parts):
        _channel.request("state", op="part", upload=name, at=at, total=total, data=_text(piece))
        at += len(piece)
    _channel.request("state", op="put", upload=name, total=total)


def _pieces(parts: list[Bytes]) -> Iterator[bytes]:
    """Yield all bytes in order, in pieces of `PART`."""
    piece = bytearray()
    for part in parts:
        view, at = memoryview(part), 0
        while at < len(view):
            more = view[at : at + PART - len(piece)]
            piece += more
            at += len(more)
            if len(piece) == PART:
                yield bytes(piece)
                piece.clear()
    if piece:
        yield bytes(piece)


def _crowds(keys: Sequence[str]) -> Iterator[list[str]]:
    """Yield keys, as many at a time as go with one request."""
    import json

    crowd: list[str] = []
    size = 0
    for key in keys:
        crowd.append(key)
        size += len(json.dumps(key)) + 1
        if size > NAMES:
            yield crowd
            crowd, size = [], 0
    if crowd:
        yield crowd


def _whole(key: str, generation: str, value: Any) -> bytes | None:
    """Return a value of which a reply has told; None if it has been deleted since."""
    for _ in range(TRIES):
        version, size, data = value
        if data is not None:
            return _data(data)
        found = _read(key, generation, version, size)
        if found is not None:
            return found
        reply = _channel.request("state", op="get", keys=[key])
        generation, (value,) = reply["generation"], reply["values"]
        if value is None:
            return None
    raise StateUnavailableError(f"{key!r} is replaced again and again while it is read")


def _read(key: str, generation: str, version: int, size: int) -> bytes | None:
    """Return a large value, read in parts; None if it has been replaced meanwhile."""
    found = bytearray()
    while len(found) < size:
        reply = _channel.request(
            "state", op="read", key=key, generation=generation, version=version, at=len(found)
        )
        if reply.get("data") is None:
            return None
        found += _data(reply["data"])
    return bytes(found)


def _text(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def _data(text: str) -> bytes:
    return binascii.a2b_base64(text)


_lock = threading.Lock()


def _forked() -> None:
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forked)
