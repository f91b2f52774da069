"""What the redis hook has the server do, each in one piece; see the ``.lua`` files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis

from ckptrun.hooking.program import Context, HookFailedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

OLDEST = 7
"""Major version of Redis that this is written for, and later ones; Valkey says 7 as well."""
MODES = ("delete", "move")
MIB = 1 << 20
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 20.0

_FOLDER = Path(__file__).parent
_SURVEY = (_FOLDER / "survey.lua").read_text("utf-8")
_FINGERPRINT = _SURVEY + "\nreturn survey(q.declared).fingerprint"
_LOOK = _SURVEY + "\nlocal all = survey(q.declared)\nreturn {all.keys, all.bytes}"
# a script with this first line is refused as a whole when memory is short, not in the middle of its writes
_CAPTURE = "#!lua\n" + _SURVEY + (_FOLDER / "capture.lua").read_text("utf-8")
_REWIND = "#!lua\n" + _SURVEY + (_FOLDER / "rewind.lua").read_text("utf-8")


@dataclass(frozen=True, slots=True)
class Settings:
    """The hook's options; hook.json says what they mean."""

    url: str
    declared: dict[str, list[str]]
    mode: str
    limit: float
    hold: float

    @classmethod
    def of(cls, context: Context) -> Settings:
        """Read the options.

        Raises:
            HookFailedError: one is missing or wrong.
        """
        words = {"streams": "streams", "lists": "lists", "patterns": "keys"}
        declared = {name: context.listed(option) for name, option in words.items()}
        if not any(declared.values()):
            raise HookFailedError(
                "nothing is declared; write streams=events, lists=results or keys=job:*, as the job uses them"
            )
        mode = context.options.get("mode", "delete")
        if mode not in MODES:
            raise HookFailedError(f"option mode is {mode!r}; it is one of {', '.join(MODES)}")
        if not context.options.get("url"):
            raise HookFailedError("option url is missing; write url=$REDIS_URL")
        return cls(
            url=context.options["url"],
            declared=declared,
            mode=mode,
            limit=context.number("limit", 16),
            hold=context.number("hold", 30),
        )


class Server:
    """A connection to the server, for one phase.

    Raises:
        HookFailedError: the server is too old, is a cluster, or the URL is none.
    """

    def __init__(self, context: Context, settings: Settings) -> None:
        self._prefix = f"ckptrun:{{{context.lineage}}}"
        self._context = context
        self._settings = settings
        try:
            self._client = redis.Redis.from_url(
                settings.url, socket_connect_timeout=CONNECT_SECONDS, socket_timeout=ANSWER_SECONDS
            )
        except ValueError:  # its words may repeat a piece of the password
            raise HookFailedError(
                "option url is no URL that Redis understands: write redis://USER:PASSWORD@HOST:PORT/0 (or rediss://,"
                " unix://), and write a / in a password as %2F, likewise all but letters and digits"
            ) from None
        info: Mapping[str, Any] = self._client.info("server")
        if int(str(info["redis_version"]).split(".")[0]) < OLDEST:
            raise HookFailedError(
                f"the server is Redis {info['redis_version']}; {OLDEST}.0 or newer is needed"
            )
        if info.get("redis_mode") == "cluster":
            raise HookFailedError("the server is part of a cluster, where nothing can be done in one piece")

    def capture(self) -> tuple[str, int, int]:
        """Note what is declared, and keep writers out from then on; return fingerprint, keys and bytes."""
        hold = int(self._settings.hold * 1000)
        together = self._client.pipeline(transaction=True)
        together.eval(_CAPTURE, 0, self._request())
        if hold:
            together.execute_command("CLIENT PAUSE", hold, "WRITE")
        answers = together.execute(raise_on_error=False)
        if isinstance(answers[0], redis.RedisError):
            if hold:
                self.release()
            raise self._said(answers[0])
        if hold and isinstance(answers[1], redis.RedisError):
            raise HookFailedError(
                f"writers cannot be kept out ({answers[1]}): let this user run CLIENT PAUSE and CLIENT UNPAUSE,"
                " or write hold=0, and what is written while a checkpoint begins may be lost by a restore"
            )
        fingerprint, keys, size = answers[0]
        return fingerprint.decode(), keys, size

    def fingerprint(self) -> str:
        """Return what is declared now, as a fingerprint; also while writers are kept out."""
        answer: Any = self._client.eval_ro(_FINGERPRINT, 0, self._request())
        return str(answer.decode())

    def look(self) -> tuple[int, int]:
        """Return the number of keys that would be noted, and their bytes."""
        try:
            keys, size = self._client.eval_ro(_LOOK, 0, self._request())  # type: ignore[misc]
        except redis.ResponseError as error:
            raise self._said(error) from None
        return keys, size

    def release(self) -> None:
        """Let writers in."""
        self._client.execute_command("CLIENT UNPAUSE")

    def rewind(self) -> dict[str, dict[str, int]]:
        """Bring everything back to the checkpoint; return counts by name."""
        try:
            answer: Any = self._client.eval(_REWIND, 0, self._request())
        except redis.ResponseError as error:
            raise self._said(error) from None
        counts: dict[str, dict[str, int]] = json.loads(answer)
        return counts

    def noted(self) -> list[str]:
        """Return the checkpoints that something is noted for, oldest first."""
        names: Any = self._client.zrange(f"{self._prefix}:checkpoints", 0, -1)
        return [name.decode() for name in names]

    def forget(self, checkpoints: Iterable[str]) -> None:
        """Remove what was noted for these."""
        for name in checkpoints:
            here = f"{self._prefix}:c:{name}"
            self._client.unlink(here, f"{here}:values", f"{here}:expires")
            self._client.zrem(f"{self._prefix}:checkpoints", name)

    def forget_all(self) -> None:
        """Remove everything of the lineage's."""
        self.forget(self.noted())
        self._client.unlink(f"{self._prefix}:head")

    def _request(self) -> str:
        return json.dumps(
            {
                "prefix": self._prefix,
                "checkpoint": self._context.checkpoint,
                "epoch": self._context.epoch,
                "declared": self._settings.declared,
                "limit": int(self._settings.limit * MIB),
                "mode": self._settings.mode,
                "dry": self._context.dry_run,
            }
        )

    def _said(self, error: redis.RedisError) -> HookFailedError:
        """Return a script's refusal in words."""
        text = str(error)
        lineage, checkpoint = self._context.lineage, self._context.checkpoint
        if "LIMIT" in text:
            return HookFailedError(
                f"the keys that {', '.join(self._settings.declared['patterns'])} match take more than"
                f" {self._settings.limit:g} MiB, which each checkpoint would keep once more in the server's memory:"
                " raise option limit, or declare fewer"
            )
        if "FENCED" in text:
            return HookFailedError(
                f"a newer run of lineage {lineage!r} writes to this server (this one has epoch {self._context.epoch}):"
                " this run was taken over. If it is another lineage of the same name, from another store, that is"
                f" gone: DEL '{self._prefix}:head'"
            )
        if "UNKNOWN" in text:
            return HookFailedError(
                f"this server does not know checkpoint {checkpoint} of lineage {lineage!r} any more: an earlier"
                " restore went back to before it, the store had let go of it, the server has lost its data, or it is"
                " another one. Restore a checkpoint that it knows"
                f" (ZRANGE '{self._prefix}:checkpoints' 0 -1), or resume once with policy=ignore: all stays as it is"
            )
        if "KIND" in text:
            return HookFailedError(text[text.index("KIND") + 5 :].partition(" script:")[0])
        return HookFailedError(f"Redis: {text.splitlines()[0]}")
