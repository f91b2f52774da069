"""A ledger in Redis or Valkey. It is as durable as the server is told to be: ``appendonly yes, appendfsync always``."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import redis

from ckptrun.effects.ledger import PATIENCE_SECONDS, refusal, without_password
from ckptrun.effects.model import Claim, Entry, Head
from ckptrun.errors import FencedError, LedgerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_CLAIM = """
local epoch = tonumber(ARGV[1])
local known = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0')
if epoch > 0 and epoch < known then return {-1, known} end
redis.call('HSETNX', KEYS[1], 'closed', '1')
redis.call('HSET', KEYS[1], 'epoch', string.format('%.0f', math.max(epoch, known)))
redis.call('RPUSH', KEYS[5], (redis.call('HGET', KEYS[1], 'seq') or '0') .. ' ' .. ARGV[2])
return {redis.call('HINCRBY', KEYS[1], 'term', 1), 0}
"""
_WRITE = """
if redis.call('HGET', KEYS[1], 'term') ~= ARGV[1] then return 0 end
if tonumber(redis.call('HGET', KEYS[1], 'seq') or '0') < tonumber(ARGV[5]) then return 0 end
redis.call('HSET', KEYS[1], 'seq', ARGV[2], 'life', ARGV[3], 'closed', ARGV[4])
for at = 6, #ARGV, 4 do
  local name, seq, loose, entry = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  redis.call('HSET', KEYS[2], name, entry)
  redis.call('ZADD', KEYS[3], seq, name)
  if loose == '1' then redis.call('ZADD', KEYS[4], seq, name) else redis.call('ZREM', KEYS[4], name) end
end
return 1
"""
_BATCH = 500
"""Entries read with one command."""
_WANTED = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}


class RedisLedger:
    """See `Ledger`.

    Args:
        url: as redis-py takes it.
        lineage: whose entries.
    """

    def __init__(self, url: str, lineage: str) -> None:
        self._url = url
        self._client = redis.Redis.from_url(
            url,
            socket_timeout=PATIENCE_SECONDS,
            socket_connect_timeout=PATIENCE_SECONDS,
            decode_responses=True,
            client_name="ckptrun",
        )
        base = f"ckptrun:{{{lineage}}}:effects"  # braces: a cluster keeps them together
        self._keys = [f"{base}:head", f"{base}:entries", f"{base}:order", f"{base}:loose", f"{base}:claims"]
        self._claiming = self._client.register_script(_CLAIM)
        self._writing = self._client.register_script(_WRITE)

    def warnings(self) -> list[str]:
        """See `Ledger.warnings`."""
        with self._translated():
            try:
                found: dict[str, str] = {}
                for name in _WANTED:
                    found.update(self._client.config_get(name))  # type: ignore[arg-type]
            except redis.ResponseError:
                return [f"the ledger's server {without_password(self._url)} does not tell how durable it is"]
        wrong = {name: value for name, value in found.items() if value != _WANTED[name]}
        if wrong.get("maxmemory-policy") and self._memory_limit() == 0:
            del wrong["maxmemory-policy"]
        if not wrong:
            return []
        now = ", ".join(f"{name} {value}" for name, value in wrong.items())
        wanted = ", ".join(f"{name} {_WANTED[name]}" for name in wrong)
        sentence = (
            f"the ledger's server {without_password(self._url)} may forget what it acknowledged ({now}): "
            f"effects may then be repeated; set {wanted}"
        )
        return [sentence]

    def head(self) -> Head:
        """See `Ledger.head`."""
        with self._translated():
            found: Any = self._client.hgetall(self._keys[0])
        if not found:
            return Head()
        numbers = [int(found.get(name, "0")) for name in ("epoch", "term", "seq", "life")]
        epoch, term, seq, life = numbers
        return Head(epoch, term, seq, life, found.get("closed", "1") == "1")

    def claim(self, epoch: int, name: str) -> Head:
        """See `Ledger.claim`."""
        with self._translated():
            term, known = self._claiming(keys=self._keys, args=[epoch, name])
        if term < 0:
            raise FencedError(
                f"the ledger {without_password(self._url)} was claimed by epoch {known}, this run is of epoch {epoch}"
            )
        head = self.head()
        if head.term != term:
            raise FencedError(f"the ledger {without_password(self._url)} was claimed by another run")
        return head

    def claims(self) -> list[Claim]:
        """See `Ledger.claims`."""
        with self._translated():
            found: Any = self._client.lrange(self._keys[4], 0, -1)
        return [Claim(name, int(seq)) for seq, _, name in (text.partition(" ") for text in found)]

    def get(self, life: int, key: str) -> Entry | None:
        """See `Ledger.get`."""
        found = self._read([_name(life, key)])
        return found[0] if found else None

    def since(self, seq: int) -> list[Entry]:
        """See `Ledger.since`."""
        with self._translated():
            names: Any = self._client.zrange(self._keys[2], f"({seq}", "+inf", byscore=True)
        return self._read(names)

    def loose(self) -> list[Entry]:
        """See `Ledger.loose`."""
        with self._translated():
            names: Any = self._client.zrange(self._keys[3], 0, -1)
        return self._read(names)

    def write(self, head: Head, entries: Sequence[Entry], known: int = 0) -> None:
        """See `Ledger.write`."""
        args: list[object] = [head.term, head.seq, head.life, int(head.closed), known]
        for one in entries:
            args += [_name(one.life, one.key), one.seq, int(one.loose), json.dumps(one.to_json())]
        with self._translated():
            done = self._writing(keys=self._keys, args=args)  # type: ignore[arg-type]
        if done != 1:
            raise refusal(without_password(self._url), self.head(), head)

    def close(self) -> None:
        """See `Ledger.close`."""
        with contextlib.suppress(redis.RedisError):
            self._client.close()

    def _memory_limit(self) -> int:
        with self._translated():
            found: Any = self._client.config_get("maxmemory")
        return int(found.get("maxmemory", 0))

    def _read(self, names: Sequence[str]) -> list[Entry]:
        found: list[Entry] = []
        for at in range(0, len(names), _BATCH):
            with self._translated():
                texts: Any = self._client.hmget(self._keys[1], list(names[at : at + _BATCH]))
            found += [Entry.from_json(json.loads(text)) for text in texts if text is not None]
        return found

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, OSError) as error:
            raise LedgerUnavailableError(
                f"the effect ledger {without_password(self._url)} cannot be used: {' '.join(str(error).split())}",
                hint="see that the server can be reached from here with this URL",
            ) from error


def _name(life: int, key: str) -> str:
    return f"{life}:{key}"
