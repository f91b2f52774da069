"""What a ledger must be able to do, and how one is opened by its URL. It keeps entries; what they mean is `book`'s."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

from ckptrun.errors import FencedError, LedgerLostError, MissingFeatureError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptrun.effects.model import Claim, Entry, Head

PATIENCE_SECONDS = 5.0
"""A server that does not answer for so long is out of reach."""


class Ledger(Protocol):
    """The entries of one lineage. Any thread, one at a time.

    Every method raises LedgerUnavailableError if the ledger is out of reach: another try may help, and nothing
    needs to be opened again for it. A write that raised it may have been made nevertheless.
    """

    def warnings(self) -> list[str]:
        """Return what about its configuration endangers what it has acknowledged, a sentence each."""

    def head(self) -> Head:
        """Return the head; that of a lineage without entries if there is none."""

    def claim(self, epoch: int, name: str) -> Head:
        """Become the one that may write, and return the head, under a new term.

        Args:
            epoch: of the lineage's writer; 0 if it is not known, the store being out of reach.
            name: of this claim; no other has it.

        Raises:
            FencedError: a later epoch has claimed it.
        """

    def claims(self) -> list[Claim]:
        """Return all claims so far, the oldest first."""

    def get(self, life: int, key: str) -> Entry | None:
        """Return one entry."""

    def since(self, seq: int) -> list[Entry]:
        """Return the entries with a higher seq, ascending."""

    def loose(self) -> list[Entry]:
        """Return the entries about which something is still to be done, ascending by seq."""

    def write(self, head: Head, entries: Sequence[Entry], known: int = 0) -> None:
        """Store the head and the entries in one transaction, durably; all or nothing.

        Args:
            head: the new one.
            entries: new ones, or new states of some.
            known: the newest seq that the ledger has acknowledged.

        Raises:
            FencedError: the ledger was claimed by another since `head` was.
            LedgerLostError: it does not have what it has acknowledged.
        """

    def close(self) -> None:
        """Let go of it."""


def refusal(name: str, stored: Head, head: Head) -> FencedError | LedgerLostError:
    """Return why a ledger did not take a write.

    Args:
        name: of the ledger, for people.
        stored: the head that it has.
        head: the one that was to be written.
    """
    if stored.term > head.term:
        return FencedError(f"the ledger {name} was claimed by another run of this lineage")
    return LedgerLostError(
        f"the ledger {name} has lost what it had acknowledged to this run: it was put back, emptied or replaced",
        hint="put the newest one back; or stop this run and run the same command again, which says what is missing",
    )


def check_url(url: str) -> str:
    """Return ``url`` if it names a ledger.

    Raises:
        UsageError: it does not.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise UsageError(f"ledger {without_password(url)!r} is no URL: {error}") from error
    if parts.scheme == "sqlite" and not parts.netloc and unquote(parts.path).startswith("/"):
        return url
    if parts.scheme in {"postgresql", "postgres", "redis", "rediss"} or (
        parts.scheme == "unix" and parts.path.startswith("/")
    ):
        return url
    raise UsageError(
        f"ledger {without_password(url)!r} is of no known kind",
        hint="write sqlite:///path (three slashes), postgresql://user@host/database or redis://host:port/0",
    )


def without_password(url: str) -> str:
    """Return the URL as it may be shown."""
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", url)


def open_ledger(url: str, lineage: str) -> Ledger:
    """Return the ledger at ``url`` for ``lineage``; nothing is connected to yet.

    Raises:
        UsageError: the URL names none.
        MissingFeatureError: the package for this kind is not installed.
    """
    scheme = urlsplit(check_url(url)).scheme
    try:
        if scheme == "sqlite":
            from ckptrun.effects.sqlite import SqliteLedger  # noqa: PLC0415 - only what is used is imported

            return SqliteLedger(unquote(urlsplit(url).path), lineage)
        if scheme in {"postgresql", "postgres"}:
            from ckptrun.effects.postgresql import PostgresLedger  # noqa: PLC0415 - likewise, and it is optional

            return PostgresLedger(url, lineage)
        from ckptrun.effects.redis_server import RedisLedger  # noqa: PLC0415 - likewise

        return RedisLedger(url, lineage)
    except ImportError as error:
        extra = "postgres" if scheme.startswith("postgres") else "redis"
        raise MissingFeatureError(
            f"the ledger {without_password(url)} needs a Python package that is not installed: {error.name}",
            hint=f"pip install 'ckptrun[{extra}]'",
        ) from error
