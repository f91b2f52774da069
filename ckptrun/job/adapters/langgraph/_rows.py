"""LangGraph's checkpoints, channel values and writes as keys and values of `ckptrun.job.state`; knows no LangGraph.

The format is frozen: another one gets another `ROOT`. Below ``langgraph/1/<thread>/`` lie

- ``c/<namespace>/<checkpoint>``: a `Checkpoint`,
- ``b/<namespace>/<channel>/<version>``: the value of a channel, once for each of its versions,
- ``w/<namespace>/<checkpoint>/<task>/<place>/<channel>``: a `Write`.

All parts of a key but the last one of ``c/`` are escaped, so that a prefix names exactly one thread, namespace or
checkpoint; that last one is as LangGraph gave it, so that keys are in the order of the checkpoints. Parts that are too
long are cut or replaced by a hash: whatever is asked back is in the value. A value is a byte 1 and its fields, each
after its length (32 bits, little-endian).
"""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple
from urllib.parse import quote

from ckptrun.job import state
from ckptrun.job._errors import JobError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Collection, Iterable, Iterator, Sequence, Tuple, TypeVar

    Typed = Tuple[str, bytes]
    Item = TypeVar("Item")

ROOT = "langgraph/1/"
FORMAT = 1
LONGEST = 80
"""Bytes of an escaped part: six of them and the rest of a key have less than the 512 that a key may have."""
PAGE = 32
"""How many checkpoints are read at a time."""
_PLAIN = " !$&'()*+,:;<>?@[]^`{|}"
"""Beside letters, digits and ``_.-~``, what stays as it is in an escaped part: not ``/``, ``%``, ``=``."""
_END = "0"
"""The character after ``/``: where the keys below a folder end."""


class StateFormatError(JobError):
    """What was found in the state is not what this version of the adapter writes."""


class Checkpoint(NamedTuple):
    """A checkpoint without the values of its channels; `body` and `metadata` are as the serializer made them."""

    thread: str
    namespace: str
    identity: str
    parent: str
    """Empty: none."""
    body: Typed
    metadata: Typed

    @property
    def key(self) -> str:
        """Where it lies."""
        return checkpoint_key(self.thread, self.namespace, self.identity)

    def packed(self) -> bytes:
        """Return it as a value of the state."""
        return _pack(*self[:4], *self.body, *self.metadata)


class Write(NamedTuple):
    """What one task has written to one channel after a checkpoint."""

    checkpoint: str
    task: str
    path: str
    place: int
    channel: str
    value: Typed

    @property
    def order(self) -> tuple[str, str, int]:
        """LangGraph's order of the writes of one checkpoint."""
        return (self.path, self.task, self.place)

    def key(self, thread: str, namespace: str) -> str:
        """Return where it lies."""
        folder = task_folder(thread, namespace, self.checkpoint, self.task)
        return f"{folder}{self.place}/{escaped(self.channel)}"

    def packed(self) -> bytes:
        """Return it as a value of the state."""
        return _pack(self.checkpoint, self.task, self.path, str(self.place), self.channel, *self.value)


def escaped(part: str) -> str:
    """Return a part of a key: without ``/``, at most `LONGEST` bytes, another one for each text."""
    plain = quote(part, safe=_PLAIN, errors="surrogatepass")
    return plain if len(plain) <= LONGEST else "=" + _hash(part)


def ordered(identity: str) -> str:
    """Return the last part of a checkpoint's key: itself, but cut and with a hash where it is too long."""
    try:
        if len(identity.encode()) <= LONGEST:
            return identity
    except UnicodeEncodeError:
        pass
    head = quote(identity, safe=_PLAIN, errors="surrogatepass")[: LONGEST // 2]
    return head + "=" + _hash(identity)


def thread_folder(thread: str) -> str:
    """Return where everything of a thread lies."""
    return f"{ROOT}{escaped(thread)}/"


def checkpoint_folder(thread: str, namespace: str) -> str:
    """Return where the checkpoints of a namespace lie."""
    return f"{thread_folder(thread)}c/{escaped(namespace)}/"


def checkpoint_key(thread: str, namespace: str, identity: str) -> str:
    """Return where a checkpoint lies."""
    return checkpoint_folder(thread, namespace) + ordered(identity)


def blob_key(thread: str, namespace: str, channel: str, version: object) -> str:
    """Return where the value that a channel has in one version lies; 1 and "1" are two versions."""
    kind = "t" if isinstance(version, str) else "n"
    return f"{thread_folder(thread)}b/{escaped(namespace)}/{escaped(channel)}/{escaped(kind + str(version))}"


def write_folder(thread: str, namespace: str, identity: str) -> str:
    """Return where the writes of a checkpoint lie."""
    return f"{thread_folder(thread)}w/{escaped(namespace)}/{escaped(identity)}/"


def task_folder(thread: str, namespace: str, identity: str, task: str) -> str:
    """Return where the writes of one task after a checkpoint lie."""
    return f"{write_folder(thread, namespace, identity)}{escaped(task)}/"


def packed_blob(value: Typed) -> bytes:
    """Return a channel's value as a value of the state."""
    return _pack(*value)


def blob(data: bytes) -> Typed:
    """Return what `packed_blob` was given. Raises StateFormatError."""
    kind, body = _unpack(data, 2)
    return kind.decode(), body


def checkpoint(data: bytes) -> Checkpoint:
    """Return what `Checkpoint.packed` was called of. Raises StateFormatError."""
    parts = _unpack(data, 8)
    thread, namespace, identity, parent = map(_text, parts[:4])
    body, metadata = (parts[4].decode(), parts[5]), (parts[6].decode(), parts[7])
    return Checkpoint(thread, namespace, identity, parent, body, metadata)


def write(data: bytes) -> Write:
    """Return what `Write.packed` was called of. Raises StateFormatError."""
    parts = _unpack(data, 7)
    identity, task, path, place, channel = map(_text, parts[:5])
    return Write(identity, task, path, int(place), channel, (parts[5].decode(), parts[6]))


def threads() -> Iterator[str]:
    """Yield the folder of each thread."""
    found = state.keys(ROOT, limit=1)
    while found:
        folder = ROOT + found[0][len(ROOT) :].partition("/")[0]
        yield folder + "/"
        found = state.keys(ROOT, after=folder + _END, limit=1)


def checkpoints(keys: Iterable[str]) -> Iterator[Checkpoint]:
    """Yield the checkpoints of these keys in their order; those that have gone meanwhile are left out."""
    for page in pages(keys):
        found = state.get_many(page)
        yield from (checkpoint(found[key]) for key in page if key in found)


def newest_first(folder: str, before: str | None = None) -> Iterator[str]:
    """Yield the keys of a namespace's checkpoints, from the newest, or from the one before the key ``before``."""
    while True:
        found = state.keys(folder, before=before, reverse=True, limit=PAGE)
        yield from found
        if len(found) < PAGE:
            return
        before = found[-1]


def checkpoint_keys(thread: str) -> list[str]:
    """Return the keys of a thread's checkpoints in all its namespaces; `thread` is its folder."""
    return state.keys(thread + "c/")


def identity_in(key: str) -> str:
    """Return what `ordered` gave for the checkpoint that lies here."""
    return key[len(ROOT) :].split("/", 3)[3]


def all_of_thread(thread: str) -> list[Checkpoint]:
    """Return a thread's checkpoints in all its namespaces; `thread` is its folder."""
    return list(checkpoints(checkpoint_keys(thread)))


def ancestors(child: Checkpoint) -> Iterator[Checkpoint]:
    """Yield a checkpoint's parent, that one's parent and so on."""
    folder = checkpoint_folder(child.thread, child.namespace)
    ahead: dict[str, Checkpoint] = {}
    seen = {child.identity}
    parent = child.parent
    while parent and parent not in seen:
        if parent not in ahead:
            key = checkpoint_key(child.thread, child.namespace, parent)
            page = [key, *state.keys(folder, before=key, reverse=True, limit=PAGE - 1)]
            ahead = {found.identity: found for found in checkpoints(page)}
        if parent not in ahead:
            return
        seen.add(parent)
        yield ahead[parent]
        parent = ahead[parent].parent


def write_keys(thread: str, namespace: str, identities: Sequence[str]) -> list[str]:
    """Return the keys of the writes of some checkpoints of a namespace."""
    if not identities:
        return []
    folder = f"{thread_folder(thread)}w/{escaped(namespace)}/"
    wanted = {escaped(identity) + "/" for identity in identities}
    found = state.keys(folder, after=folder + min(wanted), before=folder + max(wanted)[:-1] + _END)
    return [key for key in found if key[len(folder) :].partition("/")[0] + "/" in wanted]


def writes(
    thread: str, namespace: str, identities: Sequence[str], channels: Collection[str] | None = None
) -> dict[str, list[Write]]:
    """Return the writes of some checkpoints of a namespace in LangGraph's order; to all channels or some."""
    keys = write_keys(thread, namespace, identities)
    if channels is not None:
        names = {escaped(channel) for channel in channels}
        keys = [key for key in keys if key.rpartition("/")[2] in names]
    found: dict[str, list[Write]] = {identity: [] for identity in identities}
    for page in pages(keys):
        for data in state.get_many(page).values():
            row = write(data)
            if row.checkpoint in found and (channels is None or row.channel in channels):
                found[row.checkpoint].append(row)
    for rows in found.values():
        rows.sort(key=lambda row: row.order)
    return found


def pages(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Yield them `PAGE` at a time."""
    page: list[Item] = []
    for item in items:
        page.append(item)
        if len(page) == PAGE:
            yield page
            page = []
    if page:
        yield page


def _pack(*fields: str | bytes) -> bytes:
    parts = [field if isinstance(field, bytes) else _bytes(field) for field in fields]
    return bytes([FORMAT]) + b"".join(struct.pack("<I", len(part)) + part for part in parts)


def _unpack(data: bytes, count: int) -> list[bytes]:
    parts: list[bytes] = []
    at = 1
    try:
        while at < len(data):
            (length,) = struct.unpack_from("<I", data, at)
            parts.append(data[at + 4 : at + 4 + length])
            at += 4 + length
    except struct.error:
        at = -1
    if data[:1] != bytes([FORMAT]) or at != len(data) or len(parts) != count:
        raise StateFormatError(
            f"a value below {ROOT} in the job's state is not LangGraph's as this version writes it",
            "let nothing but CkptrunSaver write there",
        )
    return parts


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _hash(text: str) -> str:
    return hashlib.blake2b(_bytes(text), digest_size=16).hexdigest()
