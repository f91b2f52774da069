"""Keeps stored bytes secret and authentic, or, in a plain lineage, at least checked.

A `Seal` turns objects (HEAD, manifests) and chunks into what lies in the store and back. `PlainSeal` adds BLAKE3
checksums, `KeyedSeal` AES-256-GCM with subkeys of the lineage's master key, one per domain. What is sealed is bound to
the lineage, to its kind and to its name: bytes moved elsewhere do not open.

Called within the store. It must not know where anything lies; `keys` gets the master key.
"""

from __future__ import annotations

import enum
import os
from typing import TYPE_CHECKING, Protocol

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ckptrun.errors import CorruptError

if TYPE_CHECKING:
    from collections.abc import Mapping

ID_SIZE = 32
"""Bytes of a chunk's id: BLAKE3 of its content, keyed in an encrypted lineage."""
NONCE_SIZE = 12
TAG_SIZE = 16
_CHECKSUM_SIZE = 32


class Kind(enum.IntEnum):
    """What sealed bytes are; part of what they are bound to."""

    DATA = 1
    TABLE = 2
    MANIFEST = 3
    HEAD = 4


class Seal(Protocol):
    """How a lineage protects its bytes. Thread-safe."""

    overhead: int
    """Bytes that sealing a chunk adds."""

    def chunk_id(self, kind: Kind, raw: bytes | memoryview) -> bytes:
        """Return the id of a chunk's content."""

    def seal_chunk(self, kind: Kind, chunk: bytes, payload: bytes | memoryview) -> bytes | memoryview:
        """Return what is stored for the chunk with that id."""

    def open_chunk(self, kind: Kind, chunk: bytes, stored: bytes | memoryview) -> bytes | memoryview:
        """Undo `seal_chunk`; CorruptError. Only the content's id proves a plain chunk."""

    def seal(self, kind: Kind, name: str, data: bytes) -> bytes:
        """Return what is stored as the object ``name``."""

    def open(self, kind: Kind, name: str, stored: bytes) -> bytes:
        """Undo `seal`; CorruptError."""


class PlainSeal:
    """Checks bytes and hides nothing.

    Args:
        lineage: name and uid of the lineage, which objects are bound to.
    """

    overhead = 0

    def __init__(self, lineage: str) -> None:
        self._lineage = lineage

    def chunk_id(self, kind: Kind, raw: bytes | memoryview) -> bytes:
        """Return BLAKE3 of the content; see `Seal`."""
        return (
            blake3(raw).digest()
            if kind is Kind.DATA
            else blake3(raw, derive_key_context=_TABLE_CONTEXT).digest()
        )

    def seal_chunk(self, kind: Kind, chunk: bytes, payload: bytes | memoryview) -> bytes | memoryview:  # noqa: ARG002
        """Return the payload; see `Seal`."""
        return payload

    def open_chunk(self, kind: Kind, chunk: bytes, stored: bytes | memoryview) -> bytes | memoryview:  # noqa: ARG002
        """Return the payload; see `Seal`."""
        return stored

    def seal(self, kind: Kind, name: str, data: bytes) -> bytes:
        """Append a checksum; see `Seal`."""
        return data + self._checksum(kind, name, memoryview(data))

    def open(self, kind: Kind, name: str, stored: bytes) -> bytes:
        """Check and cut off the checksum; see `Seal`."""
        data, checksum = memoryview(stored)[:-_CHECKSUM_SIZE], stored[-_CHECKSUM_SIZE:]
        if len(checksum) < _CHECKSUM_SIZE or self._checksum(kind, name, data) != checksum:
            raise CorruptError(f"{name} is damaged: its checksum does not match")
        return bytes(data)

    def _checksum(self, kind: Kind, name: str, data: memoryview) -> bytes:
        return blake3(_binding(self._lineage, kind, name.encode())).update(data).digest()


class KeyedSeal:
    """Encrypts and authenticates.

    Args:
        lineage: name and uid of the lineage, which everything is bound to.
        master: the lineage's 32-byte master key.
    """

    overhead = NONCE_SIZE + TAG_SIZE

    def __init__(self, lineage: str, master: bytes) -> None:
        self._lineage = lineage
        self._ids = _subkeys(master, lineage, "chunk-id", (Kind.DATA, Kind.TABLE))
        self._chunks = _subkeys(master, lineage, "chunk", (Kind.DATA, Kind.TABLE))
        objects = _subkeys(master, lineage, "object", (Kind.MANIFEST, Kind.HEAD))
        self._objects = {kind: AESGCM(key) for kind, key in objects.items()}

    def chunk_id(self, kind: Kind, raw: bytes | memoryview) -> bytes:
        """Return keyed BLAKE3 of the content; see `Seal`."""
        return blake3(raw, key=self._ids[kind]).digest()

    def seal_chunk(self, kind: Kind, chunk: bytes, payload: bytes | memoryview) -> bytes:
        """Encrypt with the chunk's own key; see `Seal`."""
        nonce = os.urandom(NONCE_SIZE)
        return nonce + self._cipher(kind, chunk).encrypt(nonce, payload, _binding(self._lineage, kind, chunk))

    def open_chunk(self, kind: Kind, chunk: bytes, stored: bytes | memoryview) -> bytes:
        """Decrypt; see `Seal`."""
        binding = _binding(self._lineage, kind, chunk)
        try:
            return self._cipher(kind, chunk).decrypt(bytes(stored[:NONCE_SIZE]), stored[NONCE_SIZE:], binding)
        except (InvalidTag, ValueError) as error:
            raise CorruptError("a chunk does not authenticate") from error

    def seal(self, kind: Kind, name: str, data: bytes) -> bytes:
        """Encrypt with the kind's key; see `Seal`."""
        nonce = os.urandom(NONCE_SIZE)
        return nonce + self._objects[kind].encrypt(nonce, data, _binding(self._lineage, kind, name.encode()))

    def open(self, kind: Kind, name: str, stored: bytes) -> bytes:
        """Decrypt; see `Seal`."""
        binding = _binding(self._lineage, kind, name.encode())
        try:
            return self._objects[kind].decrypt(stored[:NONCE_SIZE], stored[NONCE_SIZE:], binding)
        except (InvalidTag, ValueError) as error:
            raise CorruptError(f"{name} is damaged: it does not authenticate") from error

    def _cipher(self, kind: Kind, chunk: bytes) -> AESGCM:
        return AESGCM(blake3(chunk, key=self._chunks[kind]).digest())


_TABLE_CONTEXT = "ckptrun 1 cell table page"


def derive(secret: bytes, salt: bytes, purpose: str) -> bytes:
    """Return a 32-byte key for one purpose: HKDF-SHA256 of a secret that is already strong."""
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=f"ckptrun 1 {purpose}".encode()).derive(secret)


def _subkeys(master: bytes, lineage: str, domain: str, kinds: tuple[Kind, ...]) -> Mapping[Kind, bytes]:
    return {kind: derive(master, lineage.encode(), f"{domain} {kind.name.lower()}") for kind in kinds}


def _binding(lineage: str, kind: Kind, name: bytes) -> bytes:
    return b"ckptrun\x001\x00" + lineage.encode() + b"\x00" + bytes([kind]) + name
