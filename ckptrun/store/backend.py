"""What every place that can hold objects must offer; `localfs` and `s3` implement it. Called within the store only.

Object names are relative, with ``/`` between parts. Every method raises of the `StoreError` family, and its message
names the object or the store. It must not know what the objects mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ckptrun.errors import CorruptError

if TYPE_CHECKING:
    from collections.abc import Iterator


class MissingError(CorruptError):
    """An object that something refers to is not there."""


@dataclass(frozen=True, slots=True)
class Versioned:
    """Bytes of a mutable object, and the token that a conditional replacement names."""

    data: bytes
    version: str


class Backend(Protocol):
    """A place for objects. Thread-safe."""

    @property
    def url(self) -> str:
        """The store as the user named it, for messages."""

    def where(self, name: str) -> str:
        """Return the full address of an object, for messages."""

    def prepare(self) -> None:
        """Make the store's own root where that is customary (a directory); StoreError."""

    def put_if_absent(self, name: str, *pieces: bytes | memoryview) -> None:
        """Create a durable object of all pieces, or nothing; PreconditionError if the name is taken."""

    def get(self, name: str) -> bytes:
        """Return a whole object; MissingError."""

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Return bytes of an object, fewer where it ends early; MissingError."""

    def delete(self, name: str) -> None:
        """Remove an object; no error if it is not there."""

    def names(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield names and sizes in bytes of the objects directly in folder ``prefix``; never proof of absence."""

    def folders(self) -> Iterator[str]:
        """Yield the folders directly in the store's root."""

    def read(self, name: str) -> Iterator[Versioned]:
        """Yield a mutable object's versions, the newest first; older ones where the store keeps them, none if absent.

        All carry the version of the newest: a replacement of what is damaged goes on from there.
        """

    def replace(self, name: str, data: bytes, expected: str | None) -> str:
        """Write a mutable object if its version is ``expected`` (None: it does not exist); return the new version.

        Raises:
            PreconditionError: it is another version now.
        """

    def discard(self, name: str) -> None:
        """Remove a mutable object with all its versions."""

    def sweep(self, folder: str) -> None:
        """Remove what interrupted writes left behind under a lineage's folder; best effort."""
