"""What a checkpoint says about one file: `FileRecord`, and its form in the manifest's facts.

Used by the rest of the package; the supervisor only carries records between ``Capture``, the facts and
``rollback``. A name is bytes to the kernel: paths here are ``os.fsdecode``d (surrogateescape), and go into
JSON as plain text where they are UTF-8, else as ``{"b64": …}``.
"""

from __future__ import annotations

import base64
import enum
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from ckptrun.errors import CorruptError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptrun.core.model import Json

RECORDS_VERSION = 1
"""Version of the JSON form; a reader refuses any other."""


class Kind(enum.StrEnum):
    """What stands at a path.

    ``ABSENT``: nothing did (a preserved path not made yet). ``SKIPPED``: a rollback of the subtree does not
    reach into it: ckptrun's own, another tree, a device, or not readable.
    """

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    FIFO = "fifo"
    SOCKET = "socket"
    ABSENT = "absent"
    SKIPPED = "skipped"


class How(enum.StrEnum):
    """How the content got into the checkpoint."""

    APPEND = "append"
    """The prefix before the freeze, the tail inside it."""
    COPY = "copy"
    """Copied inside the freeze."""
    REFLINK = "reflink"
    """Cloned inside the freeze, read after it."""
    UNCHANGED = "unchanged"
    """Not touched inside the freeze: as at the previous checkpoint, or as read just before."""
    NONE = "none"
    """It has no content, or (`FileRecord.exact` is false) none was captured."""


@dataclass(frozen=True, slots=True)
class Part:
    """A run of a file's data: the key of its content (``f-`` and the BLAKE3 of the bytes), its bytes."""

    key: str
    size: int


@dataclass(frozen=True, slots=True)
class Identity:
    """What proves a file unchanged without reading it: boot, device, inode and change time."""

    boot: str
    dev: int
    inode: int
    ctime_ns: int


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file as of the freeze.

    Args:
        path: absolute, as the job saw it.
        kind: what it was.
        mode: permission bits (``st_mode & 0o7777``).
        uid: owner, as the supervisor's user namespace counts it.
        gid: group, likewise.
        mtime_ns: modification time, nanoseconds since the epoch.
        size: length in bytes; 0 unless a regular file.
        parts: the data, in order: everything but the holes.
        holes: ``(offset, length)`` in bytes of the runs that were holes, ascending.
        xattrs: extended attributes.
        target: where a symlink points.
        link: path of the record this one is a further hard link of; content and attributes are there.
        tree: the root of the subtree it was captured with; empty for a file found by being open or mapped.
        append: whoever had it open for writing could only append.
        mount: a filesystem was mounted there; only told of what was captured with a tree.
        private: it lies in a tree of the capsule's own: populated into the next capsule, never looked for on
            the host.
        how: how the content was captured.
        exact: false: the content was not captured (limit, or not readable); a rollback leaves the file alone
            and says so.
        identity: present where times prove the file unchanged.
        opened: device and inode of a file that was open for writing or mapped shared; None for others. Programs compare
            them to tell whether their file has been replaced: see `ckptrun.journal.identities`.
    """

    path: str
    kind: Kind
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    parts: tuple[Part, ...] = ()
    holes: tuple[tuple[int, int], ...] = ()
    xattrs: tuple[tuple[str, bytes], ...] = ()
    target: str = ""
    link: str = ""
    tree: str = ""
    append: bool = False
    mount: bool = False
    private: bool = False
    how: How = How.NONE
    exact: bool = True
    identity: Identity | None = None
    opened: tuple[int, int] | None = None

    def to_json(self) -> dict[str, Json]:
        """Return the record for the manifest's facts; fields that say nothing are left out."""
        out: dict[str, Json] = {
            "path": name_to_json(self.path),
            "kind": self.kind.value,
            "mode": self.mode,
            "uid": self.uid,
            "gid": self.gid,
            "mtime_ns": self.mtime_ns,
        }
        if self.kind is Kind.FILE:
            out["size"] = self.size
            out["how"] = self.how.value
        if self.parts:
            out["parts"] = [[part.key, part.size] for part in self.parts]
        if self.holes:
            out["holes"] = [[offset, length] for offset, length in self.holes]
        if self.xattrs:
            out["xattrs"] = [
                [name_to_json(name), base64.b64encode(value).decode()] for name, value in self.xattrs
            ]
        for name in ("target", "link", "tree"):
            if getattr(self, name):
                out[name] = name_to_json(getattr(self, name))
        out |= {name: True for name in ("append", "mount", "private") if getattr(self, name)}
        if not self.exact:
            out["exact"] = False
        if self.identity is not None:
            known = self.identity
            out["identity"] = [known.boot, known.dev, known.inode, known.ctime_ns]
        if self.opened is not None:
            out["opened"] = list(self.opened)
        return out

    @classmethod
    def from_json(cls, value: Json) -> FileRecord:
        """Read what `to_json` wrote.

        Raises:
            CorruptError: it is not a record.
        """
        try:
            return cls._parse(cast("dict[str, Json]", value))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            message = f"a file record of the checkpoint does not parse: {error!r}"
            raise CorruptError(message) from error

    @classmethod
    def _parse(cls, value: dict[str, Json]) -> FileRecord:
        identity = cast("tuple[str, int, int, int] | None", value.get("identity"))
        opened = cast("list[int] | None", value.get("opened"))
        parts = cast("list[tuple[str, int]]", value.get("parts", []))
        holes = cast("list[tuple[int, int]]", value.get("holes", []))
        xattrs = cast("list[tuple[Json, str]]", value.get("xattrs", []))
        return cls(
            path=name_from_json(value["path"]),
            kind=Kind(cast("str", value["kind"])),
            mode=_integer(value["mode"]),
            uid=_integer(value["uid"]),
            gid=_integer(value["gid"]),
            mtime_ns=_integer(value["mtime_ns"]),
            size=_integer(value.get("size", 0)),
            parts=tuple(Part(key, _integer(size)) for key, size in parts),
            holes=tuple((_integer(offset), _integer(length)) for offset, length in holes),
            xattrs=tuple(
                (name_from_json(name), base64.b64decode(data, validate=True)) for name, data in xattrs
            ),
            target=name_from_json(value.get("target", "")),
            link=name_from_json(value.get("link", "")),
            tree=name_from_json(value.get("tree", "")),
            append=bool(value.get("append", False)),
            mount=bool(value.get("mount", False)),
            private=bool(value.get("private", False)),
            how=How(cast("str", value.get("how", "none"))),
            exact=bool(value.get("exact", True)),
            identity=None if identity is None else Identity(*identity),
            opened=None if opened is None else (_integer(opened[0]), _integer(opened[1])),
        )


def records_to_json(records: Iterable[FileRecord], bytes_inside: int = 0) -> Json:
    """Return all records of a checkpoint as the one value that its facts carry.

    Args:
        records: its records.
        bytes_inside: bytes copied while the job was stopped.
    """
    return {
        "version": RECORDS_VERSION,
        "bytes_inside": bytes_inside,
        "records": [record.to_json() for record in records],
    }


def records_from_json(value: Json) -> tuple[FileRecord, ...]:
    """Read what `records_to_json` wrote.

    Raises:
        CorruptError: it does not parse, or is of a version this program does not know.
    """
    if not isinstance(value, dict) or value.get("version") != RECORDS_VERSION:
        message = f"the file records of the checkpoint are not of version {RECORDS_VERSION}"
        raise CorruptError(message, hint="use the version of ckptrun that took the checkpoint")
    records = value.get("records")
    if not isinstance(records, list):
        message = "the checkpoint has no list of file records"
        raise CorruptError(message)
    return tuple(FileRecord.from_json(record) for record in records)


def name_to_json(name: str) -> Json:
    """Return a file name (``os.fsdecode``d) as JSON text, or as ``{"b64": …}`` if it is not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return {"b64": base64.b64encode(os.fsencode(name)).decode()}
    return name


def name_from_json(value: Json) -> str:
    """Read what `name_to_json` wrote.

    Raises:
        TypeError, ValueError, KeyError: it is neither form.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return os.fsdecode(base64.b64decode(cast("str", value["b64"]), validate=True))
    message = f"not a name: {value!r}"
    raise TypeError(message)


def printable(name: str) -> str:
    r"""Return a name for messages and lists: bytes that are not UTF-8 as ``\xNN``."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _integer(value: Json) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        message = f"not an integer: {value!r}"
        raise TypeError(message)
    return value
