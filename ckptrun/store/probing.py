"""Finds out whether a store honours preconditions, before anything relies on it. Called by `lineage` for writers.

A store that ignores them would let two writers overwrite each other's HEAD without either noticing.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

from ckptrun.errors import CorruptError, PreconditionError, StoreError, StoreRefusedError
from ckptrun.store.packing import put_once

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptrun.store.backend import Backend

FOLDER = ".ckptrun-probe"
"""No lineage's name begins with a dot."""


def probe(backend: Backend) -> None:
    """Try every kind of write the store must honour, on objects of the probe's own.

    Raises:
        StoreRefusedError: it is read-only, or ignores preconditions.
        StoreFullError, StoreUnreachableError: as they say.
    """
    token = secrets.token_hex(8)
    fixed, mutable = f"{FOLDER}/{token}", f"{FOLDER}/{token}-head"
    try:
        put_once(backend, fixed, b"1")
        if not _refused(lambda: backend.put_if_absent(fixed, b"2")):
            raise _ignores(backend, "overwrites an object that must not exist (If-None-Match)")
        first = _replace(backend, mutable, b"1", None)
        _replace(backend, mutable, b"2", first)
        if not _refused(lambda: backend.replace(mutable, b"3", first)):
            raise _ignores(backend, "replaces an object of another version (If-Match)")
        if not _refused(lambda: backend.replace(mutable, b"4", None)):
            raise _ignores(backend, "overwrites an object that must not exist (If-None-Match)")
        if backend.get(fixed) != b"1" or next(backend.read(mutable)).data != b"2":
            raise _ignores(backend, "does not return what was written last")
    except (CorruptError, StopIteration) as error:
        raise _ignores(backend, "does not return what was written") from error
    finally:
        _clean(backend, fixed, mutable)


def _replace(backend: Backend, name: str, data: bytes, expected: str | None) -> str:
    """Replace an object whose name is ours alone: a refusal is our own lost answer if it has this content already."""
    try:
        return backend.replace(name, data, expected)
    except PreconditionError:
        found = next(backend.read(name), None)
        if found is None or found.data != data:
            raise
        return found.version


def _refused(write: Callable[[], object]) -> bool:
    try:
        write()
    except PreconditionError:
        return True
    return False


def _ignores(backend: Backend, what: str) -> StoreRefusedError:
    return StoreRefusedError(
        f"store {backend.url} {what}: two writers could destroy each other's checkpoints",
        hint="use a store with conditional writes (AWS S3, MinIO, SeaweedFS, Ceph from 19.2) or a directory",
    )


def _clean(backend: Backend, fixed: str, mutable: str) -> None:
    with suppress(StoreError):
        backend.delete(fixed)
        backend.discard(mutable)
