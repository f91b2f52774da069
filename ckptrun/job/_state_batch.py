"""What the state holds, how much, and a change of it as bytes: said by the SDK, kept so in the supervisor's log.

A batch is a sequence of operations: kind u8, bytes of the key u16, bytes of the value u32, little-endian, then key and
value. See docs/design/state.md.
"""

from __future__ import annotations

import struct

from ckptrun.job._errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable, Mapping, Union

    Bytes = Union[bytes, bytearray, memoryview]

KEY_BYTES = 512
VALUE_BYTES = 64 << 20
STATE_BYTES = 1 << 30
"""All entries together, each with `ENTRY_BYTES` for itself."""
ENTRY_BYTES = 256
"""What an entry counts besides its key and value: about what remembering it costs."""
PART = 90 * 1024
"""Bytes of the state that go with one datagram."""
NAMES = 64 * 1024
"""Bytes of keys, as JSON, that go with one."""

PUT, DELETE, DELETE_PREFIX = 1, 2, 3
OPERATION = struct.Struct("<BHI")


def checked_key(key: Any) -> bytes:
    """Return a key as bytes.

    Raises:
        UsageError: it is none.
    """
    data = checked_text(key, "key")
    if 0 < len(data) <= KEY_BYTES:
        return data
    raise UsageError(f"{key!r:.80} is no key of the state", f"a key has 1 to {KEY_BYTES} bytes of UTF-8")


def checked_text(text: Any, what: str) -> bytes:
    """Return a key, or a part of one, as bytes. Raises UsageError."""
    try:
        if isinstance(text, str):
            return text.encode()
    except UnicodeEncodeError:  # as the name of a file may be
        pass
    raise UsageError(f"{text!r:.80} is no {what} of the state", "it is text that can be written as UTF-8")


def checked_value(key: Any, value: Any) -> Bytes:
    """Return a value. Raises UsageError."""
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise UsageError(
            f"the value of {key!r:.80} is {type(value).__name__}, not bytes", "encode it first, as JSON say"
        )
    data: Bytes = value.tobytes() if isinstance(value, memoryview) else value
    if len(data) > VALUE_BYTES:
        raise UsageError(
            f"the value of {key!r:.80} has {len(data)} bytes; a value has at most {VALUE_BYTES}",
            "keep large data in files, and their names here",
        )
    return data


def full(room: int = STATE_BYTES) -> UsageError:
    """Return the error of a put that finds no room."""
    return UsageError(*full_words(room))


def full_words(room: int = STATE_BYTES) -> tuple[str, str]:
    """Return what is wrong with a put that finds no room, and the next step."""
    return (
        f"the state is full: it would hold more than {room} bytes",
        "delete what is not needed any more, or keep large data in files",
    )


def cost(key: Bytes, size: int) -> int:
    """Return the bytes that an entry counts: `size` is its value's."""
    return len(key) + size + ENTRY_BYTES


def batch(values: Mapping[str, Any], delete: Iterable[str]) -> list[Bytes]:
    """Return a batch in parts: deletions, then puts. Raises UsageError."""
    parts: list[Bytes] = []
    if isinstance(delete, (str, bytes)):
        raise UsageError("delete is one text, not a collection of keys", "pass [key]")
    for key in delete:
        name = checked_key(key)
        parts += [OPERATION.pack(DELETE, len(name), 0), name]
    total = 0
    for key, value in values.items():
        name, data = checked_key(key), checked_value(key, value)
        total += cost(name, len(data))
        if total > STATE_BYTES:
            raise full()
        parts += [OPERATION.pack(PUT, len(name), len(data)), name, data]
    return parts
