"""Answers the job's requests about its state. What it says is checked here: it may be anything."""

from __future__ import annotations

import binascii
import json
from typing import TYPE_CHECKING, Any

from ckptrun.appstate.batch import Batch, Uploads, Whole
from ckptrun.appstate.record import operations
from ckptrun.errors import UsageError
from ckptrun.job._state_batch import DELETE_PREFIX, KEY_BYTES, NAMES, OPERATION, PART, full_words

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptrun.appstate.index import Entry
    from ckptrun.appstate.log import Log

AROUND = 40
"""Bytes that stand around a value in a reply."""


class Desk:
    """Answers requests, one at a time.

    Args:
        log: the state.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._uploads = Uploads(log.folder, log.room)

    def forget(self) -> None:
        """Drop what has come in parts: its sender lives no more."""
        with self._log.lock:
            self._uploads.clear()

    def answer(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the reply to a request.

        Raises:
            UsageError: it makes no sense, or the state is full.
            UnknownUploadError: its parts are not known.
            OSError: the log cannot be written or read; nothing was done.
        """
        answers = {
            "put": self._put,
            "part": self._part,
            "delete-prefix": self._delete_prefix,
            "get": self._get,
            "read": self._read,
            "keys": self._keys,
        }
        answer = answers.get(str(fields.get("op")))
        if answer is None:
            raise UsageError(f"the state knows no {fields.get('op')!r:.80}")
        with self._log.lock:
            return answer(fields)

    def _put(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        identity = _text(fields, "id")
        if identity in self._log.index.requests:
            return {}  # it is sent again: its reply was lost, or the job restored since
        if "upload" in fields:
            name = _text(fields, "upload")
            self._apply(identity, self._uploads.whole(name, _number(fields, "total")))
            self._uploads.forget(name)
        else:
            self._apply(identity, Whole(_data(fields)))
        return {}

    def _apply(self, identity: str, batch: Batch) -> None:
        try:
            changes = list(operations(batch.read, 0, batch.size))
        except ValueError as error:
            raise UsageError(f"what is to be put does not parse: {error}") from None
        self._log.append(identity, batch, changes)

    def _part(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        total, at, data = _number(fields, "total"), _number(fields, "at"), _data(fields)
        if (
            total > self._log.room + self._log.room // 4
        ):  # what stands around keys and values is not counted yet
            error, hint = full_words(self._log.room)
            raise UsageError(error, hint=hint)
        if at + len(data) > total:
            raise UsageError("a part lies outside of what is put")
        self._uploads.part(_text(fields, "upload"), at, total, data)
        return {}

    def _delete_prefix(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        identity, prefix = _text(fields, "id"), _text(fields, "prefix")
        known = self._log.index.requests.get(identity)
        if known is not None:
            return {"count": known}
        count = len(self._log.index.beginning(prefix))
        name = prefix.encode()
        if count and len(name) <= KEY_BYTES:
            batch = Whole(OPERATION.pack(DELETE_PREFIX, len(name), 0) + name)
            self._log.append(identity, batch, list(operations(batch.read, 0, batch.size)), count)
        return {"count": count}

    def _get(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        keys = fields.get("keys")
        if not isinstance(keys, list):
            raise UsageError("get takes a list of keys")
        values: list[list[Any] | None] = []
        left = PART
        for key in keys:
            entry = self._log.index.entries.get(key) if isinstance(key, str) else None
            if entry is None:
                values.append(None)
                left -= len("null,")
            elif entry.size > PART:
                values.append([entry.at, entry.size, None])
                left -= AROUND
            elif entry.size <= left:
                values.append([entry.at, entry.size, self._bytes(entry, 0, entry.size)])
                left -= entry.size + AROUND
            else:
                break
            if left <= 0:
                break
        return {"generation": self._log.generation, "values": values}

    def _read(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        entry = self._log.index.entries.get(_text(fields, "key"))
        at = _number(fields, "at")
        same = self._log.generation == fields.get("generation")
        if entry is None or not same or entry.at != fields.get("version") or at > entry.size:
            return {"data": None}
        return {"data": self._bytes(entry, at, min(PART, entry.size - at))}

    def _keys(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        limit = fields.get("limit")
        after, before = fields.get("after"), fields.get("before")
        found: list[str] = []
        size, more = 0, False
        for key in self._log.index.between(
            _text(fields, "prefix"),
            after if isinstance(after, str) else None,
            before if isinstance(before, str) else None,
            reverse=bool(fields.get("reverse")),
        ):
            if isinstance(limit, int) and len(found) >= limit:
                break
            if size > NAMES:
                more = True
                break
            found.append(key)
            size += len(json.dumps(key)) + 1
        return {"keys": found, "more": more}

    def _bytes(self, entry: Entry, at: int, size: int) -> str:
        return binascii.b2a_base64(self._log.read(entry, at, size), newline=False).decode("ascii")


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            pass
        else:
            return value
    raise UsageError(f"{name} is no text: {value!r:.80}")


def _number(fields: Mapping[str, Any], name: str) -> int:
    value = fields.get(name)
    if isinstance(value, int) and value >= 0:
        return value
    raise UsageError(f"{name} is no number of bytes: {value!r:.80}")


def _data(fields: Mapping[str, Any]) -> bytes:
    try:
        return binascii.a2b_base64(_text(fields, "data"), strict_mode=True)
    except binascii.Error as error:
        raise UsageError(f"the data do not parse: {error}") from None
