"""The objects that say how a lineage is protected: ``FORMAT`` and ``keys/<slot>``. Called by `lineage`.

``FORMAT`` comes first and decides once for all whether the lineage is encrypted; the slot ``keys/0`` with the wrapped
master key follows. Both are put-if-absent: of two processes that begin a lineage, one wins and the other reads.
"""

from __future__ import annotations

import json
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from ckptrun.core.model import CELL_SIZE
from ckptrun.errors import (
    ConfigurationError,
    CorruptError,
    PreconditionError,
    StoreRefusedError,
    WrongKeyError,
)
from ckptrun.store.backend import MissingError
from ckptrun.store.crypto import NONCE_SIZE, KeyedSeal, PlainSeal, derive

if TYPE_CHECKING:
    from ckptrun.store.api import KeySource
    from ckptrun.store.backend import Backend
    from ckptrun.store.crypto import Seal

VERSION = 1
KEY_SIZE = 32
SCRYPT_N, SCRYPT_R, SCRYPT_P = 1 << 16, 8, 2
"""OWASP's password storage recommendation that takes 64 MiB; what a slot asks for is bounded, it comes from outside."""
_SCRYPT_MOST = 1 << 20
_ENCRYPTIONS = ("aes-256-gcm", "none")
_GIVE_KEY = "give its key with --key-file or CKPTRUN_PASSPHRASE"


@dataclass(frozen=True, slots=True)
class Format:
    """What ``FORMAT`` says.

    Args:
        uid: random name of this lineage, made with it: another lineage of the same name has another one.
        encrypted: whether everything but FORMAT and the key slots is.
    """

    uid: str
    encrypted: bool


def read_format(backend: Backend, lineage: str) -> Format | None:
    """Return what a lineage's FORMAT says; None if there is none.

    Raises:
        StoreRefusedError: it was made by a newer ckptrun.
        CorruptError: it does not parse.
    """
    name = f"{lineage}/FORMAT"
    try:
        text = backend.get(name)
    except MissingError:
        return None
    value = _parse(text, backend.where(name))
    version = value.get("version")
    if isinstance(version, int) and version > VERSION:
        raise StoreRefusedError(
            f"{backend.where(name)} is of version {version}, this ckptrun knows {VERSION}",
            hint="upgrade ckptrun",
        )
    uid, encryption = value.get("uid"), value.get("encryption")
    known = (version, value.get("cell_size")) == (VERSION, CELL_SIZE) and encryption in _ENCRYPTIONS
    if value.pop("check", "") != _check(value) or not known or not isinstance(uid, str):
        raise CorruptError(f"{backend.where(name)} does not say what a lineage's FORMAT must")
    return Format(uid, encryption != "none")


def make_format(backend: Backend, lineage: str, *, encrypted: bool) -> Format:
    """Write FORMAT if it is not there yet; return what it says then."""
    value = {
        "format": "ckptrun",
        "version": VERSION,
        "uid": secrets.token_hex(16),
        "cell_size": CELL_SIZE,
        "hash": "blake3",
        "compression": "zstd",
        "encryption": "aes-256-gcm" if encrypted else "none",
    }
    with suppress(PreconditionError):  # someone else was first, or our own answer was lost
        backend.put_if_absent(f"{lineage}/FORMAT", _text(value))
    found = read_format(backend, lineage)
    if found is None:
        raise StoreRefusedError(f"{backend.where(lineage)}/FORMAT was written and cannot be read")
    return found


def open_seal(
    backend: Backend, lineage: str, found: Format, source: KeySource | None, *, create: bool
) -> Seal:
    """Return how a lineage protects its bytes.

    Args:
        backend: of the store.
        lineage: its name.
        found: its FORMAT.
        source: the key the user gave.
        create: make the master key if there is none: the lineage has no HEAD yet.

    Raises:
        WrongKeyError: no key was given, or one that opens no slot.
        ConfigurationError: a key was given for a plain lineage, or one that is too weak.
        CorruptError: the key slots are gone.
    """
    identity = f"{lineage}/{found.uid}"
    if not found.encrypted:
        if source is not None:
            raise ConfigurationError(
                f"lineage {lineage!r} in {backend.url} is not encrypted, and a key was given",
                hint="leave the key away, or choose another --name for an encrypted lineage",
            )
        return PlainSeal(identity)
    if source is None:
        raise WrongKeyError(f"lineage {lineage!r} in {backend.url} is encrypted", hint=_GIVE_KEY)
    secret = _secret(source)
    if create:
        wrapped = _wrap(os.urandom(KEY_SIZE), source, secret, identity)
        with suppress(PreconditionError):  # there is one: it decides
            backend.put_if_absent(f"{lineage}/keys/0", _text(wrapped))
    return KeyedSeal(identity, _unwrap(backend, lineage, source, secret, identity))


def _secret(source: KeySource) -> bytes:
    if bool(source.passphrase) == (source.key_file is not None):
        raise ConfigurationError("give either a passphrase or a key file, and neither empty")
    if source.key_file is None:
        return source.passphrase.encode("utf-8", "surrogateescape")
    try:
        secret = source.key_file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read key file {source.key_file}: {error.strerror}") from error
    if len(secret) < KEY_SIZE:
        raise ConfigurationError(
            f"key file {source.key_file} has {len(secret)} bytes, fewer than {KEY_SIZE}",
            hint=f"make one with: head -c {KEY_SIZE} /dev/urandom > FILE; for a pod: "
            "kubectl create secret generic ckptrun-key --from-file=key=FILE",
        )
    return secret


def _wrap(master: bytes, source: KeySource, secret: bytes, identity: str) -> dict[str, Any]:
    salt, nonce = os.urandom(16), os.urandom(NONCE_SIZE)
    slot: dict[str, Any] = {
        "version": VERSION,
        "kind": _kind(source),
        "salt": salt.hex(),
        "nonce": nonce.hex(),
    }
    if slot["kind"] == "scrypt":
        slot |= {"n": SCRYPT_N, "r": SCRYPT_R, "p": SCRYPT_P}
    slot["wrapped"] = AESGCM(_wrapping_key(slot, secret)).encrypt(nonce, master, identity.encode()).hex()
    return slot


def _unwrap(backend: Backend, lineage: str, source: KeySource, secret: bytes, identity: str) -> bytes:
    slots = {f"{lineage}/keys/0", *(name for name, _ in backend.names(f"{lineage}/keys"))}
    found, bad = 0, ""
    for name in sorted(slots):
        try:
            slot = _read_slot(backend, name)
            if slot["kind"] != _kind(source):
                found += 1
                continue
            key = AESGCM(_wrapping_key(slot, secret))
            found += 1
            return key.decrypt(
                bytes.fromhex(slot["nonce"]), bytes.fromhex(slot["wrapped"]), identity.encode()
            )
        except InvalidTag:
            continue
        except (MissingError, CorruptError, KeyError, TypeError, ValueError) as error:
            bad = f"{backend.where(name)}: {error}"
    if not found:
        raise CorruptError(f"no key slot of lineage {lineage!r} in {backend.url} can be read ({bad})")
    given = "passphrase" if source.key_file is None else f"key file {source.key_file}"
    raise WrongKeyError(f"the {given} does not open lineage {lineage!r} in {backend.url}", hint=_GIVE_KEY)


def _check(value: dict[str, Any]) -> str:
    return blake3(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _text(value: dict[str, Any]) -> bytes:
    return json.dumps(value | {"check": _check(value)}, indent=1).encode() + b"\n"


def _read_slot(backend: Backend, name: str) -> dict[str, Any]:
    slot = _parse(backend.get(name), backend.where(name))
    if slot.pop("check", "") != _check(slot):  # tells a damaged slot from a wrong key
        raise CorruptError("its checksum does not match")
    return slot


def _kind(source: KeySource) -> str:
    return "scrypt" if source.key_file is None else "file"


def _wrapping_key(slot: dict[str, Any], secret: bytes) -> bytes:
    salt = bytes.fromhex(slot["salt"])
    if slot["kind"] == "file":
        return derive(secret, salt, "key file")
    n, r, p = slot["n"], slot["r"], slot["p"]
    if not (1 < n <= _SCRYPT_MOST and 0 < r <= 16 and 0 < p <= 16):
        raise ValueError("it asks for too much work")
    return Scrypt(salt=salt, length=KEY_SIZE, n=n, r=r, p=p).derive(secret)


def _parse(text: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise CorruptError(f"{where} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CorruptError(f"{where} is not a JSON object")
    return value
