"""The object HEAD: read with its version, replaced on condition; and the local memory of the newest one seen.

Called by `lineage` and `writer`. It must not know what a change of HEAD means.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptrun.errors import CorruptError
from ckptrun.store import head as heads
from ckptrun.store.crypto import Kind

if TYPE_CHECKING:
    from pathlib import Path

    from ckptrun.store.api import Head
    from ckptrun.store.backend import Backend
    from ckptrun.store.crypto import Seal

log = logging.getLogger("ckptrun.store")


@dataclass(frozen=True, slots=True)
class Found:
    """A HEAD, and the version that replacing it must name."""

    head: Head
    version: str


class HeadFile:
    """HEAD of one lineage.

    Args:
        backend: of the store.
        lineage: its name.
        seal: how it protects its bytes.
    """

    def __init__(self, backend: Backend, lineage: str, seal: Seal) -> None:
        self._backend = backend
        self._seal = seal
        self.name = f"{lineage}/HEAD"

    @property
    def where(self) -> str:
        """The address, for messages."""
        return self._backend.where(self.name)

    def version(self) -> str | None:
        """Return the newest version; None if there is no HEAD."""
        return next((found.version for found in self._backend.read(self.name)), None)

    def read(self) -> Found | None:
        """Return the newest valid HEAD; None if there is none.

        A directory keeps some earlier generations: if the newest is damaged, the newest sound one counts, and
        ``warnings`` says so.

        Raises:
            CorruptError: there are some and none is valid.
        """
        damaged: list[str] = []
        for found in self._backend.read(self.name):
            try:
                head = heads.decode(self._seal.open(Kind.HEAD, self.name, found.data))
            except CorruptError as error:
                damaged.append(error.message)
                continue
            if damaged:
                text = f"the newest {len(damaged)} of {self.where} cannot be read; using the one before"
                head = replace(head, epoch=head.epoch + len(damaged), warnings=(text,))
                log.warning("%s (%s)", text, damaged[0])
            return Found(head, found.version)
        if damaged:
            raise CorruptError(
                f"{self.where} cannot be read: {damaged[0]}",
                hint="restore it from a backup of the store, or start anew under another --name",
            )
        return None

    def write(self, head: Head, expected: str | None) -> str:
        """Replace HEAD if its version is ``expected``; return the new one. PreconditionError, StoreError."""
        return self._backend.replace(
            self.name, self._seal.seal(Kind.HEAD, self.name, heads.encode(head)), expected
        )


class Seen:
    """Remembers the newest HEAD this machine has seen, by lineage.

    Args:
        path: the file; None remembers nothing.
        uid: of the lineage; another lineage of the same name begins anew.
    """

    def __init__(self, path: Path | None, uid: str) -> None:
        self._path = path
        self._uid = uid
        self._lock = threading.Lock()
        self._value = self._load()

    @property
    def newest(self) -> tuple[int, int]:
        """Epoch and seq of the newest HEAD seen."""
        return self._value

    def check(self, head: Head | None, where: str, floor: tuple[int, int]) -> None:
        """Refuse a HEAD older than one seen before, and remember this one.

        Args:
            head: as read; None if there was none.
            where: its address, for the message.
            floor: what `newest` was before the reading began: this process may have written a newer one since.

        Raises:
            CorruptError: it is older, or gone. One fallen back to, which says so itself, is let through.
        """
        if head is not None and head.warnings:
            return
        now = (0, 0) if head is None else (head.epoch, head.seq)
        if now < floor:  # a later epoch may have begun below the highest seq: after a damaged HEAD
            what = "is gone" if head is None else f"is older (epoch {now[0]}, checkpoint {now[1]})"
            raise CorruptError(
                f"{where} {what} than the one this machine has seen (epoch {floor[0]}, "
                f"checkpoint {floor[1]}): someone put an old copy in its place, or restored a backup",
                hint=f"if that was on purpose, remove {self._path}",
            )
        with self._lock:
            if now > self._value:
                self._value = now
                self._save()

    def _load(self) -> tuple[int, int]:
        if self._path is None:
            return (0, 0)
        with suppress(OSError, ValueError, KeyError, TypeError):
            value = json.loads(self._path.read_text(encoding="ascii"))
            if value["uid"] == self._uid:
                return (int(value["epoch"]), int(value["seq"]))
        return (0, 0)

    def _save(self) -> None:
        if self._path is None:
            return
        text = json.dumps({"uid": self._uid, "epoch": self._value[0], "seq": self._value[1]})
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}.tmp")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w", encoding="ascii") as file:
                file.write(text)
            temporary.replace(self._path)
        except OSError as error:
            log.warning("the newest HEAD seen cannot be remembered in %s: %s", self._path, error.strerror)
