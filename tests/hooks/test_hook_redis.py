"""The ready-made hook `redis` as a program, against a real server: what a restore finds there."""

from __future__ import annotations

import itertools
import json
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import redis
from support import hook_programs
from support.forked_hooks import call, start
from support.hook_programs import context
from support.processes import PATIENCE, POLL_SECONDS
from support.redis import RedisServer

import ckptrun.hooking

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.hook_programs import Answer

pytestmark = pytest.mark.slow

SCHEMAS = Path(ckptrun.hooking.__file__).parent / "schema"


@dataclass
class World:
    """A database, the job's connection, and the hook as ckptrun would call it."""

    url: str
    options: dict[str, Any] = field(default_factory=dict)
    epoch: int = 1
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        declared = {"streams": ["events"], "lists": ["results"], "keys": ["job:*"]}
        self.options = {"url": self.url, **declared, **self.options}
        self.job = redis.Redis.from_url(self.url, socket_timeout=PATIENCE)

    def call(self, phase: str, checkpoint: str, **fields: Any) -> Answer:
        about = {"id": checkpoint, "trigger": "interval", "created": 1.5}
        given = {"options": self.options, "epoch": self.epoch, **fields}
        return call("redis", phase, checkpoint=about, **given)

    def begin(self, checkpoint: str) -> dict[str, Any]:
        """Until the thaw the hook keeps writers out."""
        answer = self.call("pre-checkpoint", checkpoint)
        assert answer.result.get("done") == ["noted"], answer.result
        return answer.data

    def end(self, checkpoint: str, data: dict[str, Any], *, ok: bool = True) -> dict[str, Any]:
        outcome = {"ok": ok, "error": None if ok else "it failed"}
        return self.call("post-checkpoint", checkpoint, data=data, outcome=outcome).result

    def checkpoint(self) -> tuple[str, dict[str, Any]]:
        """Take a whole one; return its id and what the hook has noted."""
        name = f"c-{next(self.numbers)}"
        data = self.begin(name)
        ended = self.end(name, data)
        assert ended == {"done": ["released"], "data": {"held": True}}
        self.commit(name)
        return name, data | ended["data"]

    def commit(self, name: str, *kept: str) -> None:
        """Say that this and those can still be restored; nothing is said where none is named."""
        given = {"kept": [name, *kept]} if kept else {}
        assert self.call("post-commit", name, **given).result == {"done": ["trimmed"]}

    def restore(self, checkpoint: tuple[str, dict[str, Any]], **fields: Any) -> dict[str, Any]:
        """Have it done, and return the counts by name."""
        answer = self.call("pre-restore", checkpoint[0], data=checkpoint[1], **fields)
        assert answer.result.get("done") == ["undone"], answer.result
        return dict(answer.event("redis-undone")["counts"])

    def refusal(self, checkpoint: tuple[str, dict[str, Any] | None], **fields: Any) -> str:
        result = self.call("pre-restore", checkpoint[0], data=checkpoint[1], **fields).result
        assert result.get("outcome") == "failed", result
        return str(result["reason"])

    def refused_checkpoint(self) -> str:
        result = self.call("pre-checkpoint", "c-x").result
        assert result.get("outcome") == "failed", result
        self.job.set("nobody is kept out", 1)
        return str(result["reason"])

    def everything(self) -> dict[bytes, Any]:
        """Return all that is not the hook's own, with positions and expiry."""
        found: dict[bytes, Any] = {}
        for name in self.job.keys():  # noqa: SIM118 - a command of Redis
            if name.startswith(b"ckptrun:") or name.endswith(b".rewound"):
                continue
            info = self.job.xinfo_stream(name) if self.job.type(name) == b"stream" else None
            about = {k: info[k] for k in ("last-generated-id", "entries-added")} if info else 0
            found[name] = (
                self.job.dump(name) if not info else self.job.xrange(name),
                about,
                self.job.pexpiretime(name),
            )
        return found


@pytest.fixture
def world(redis_server: RedisServer) -> Iterator[World]:
    world = World(redis_server.database())
    for n in range(3):
        world.job.xadd("events", {"n": n}, id=f"{n + 1}-0")
        world.job.rpush("results", f"r{n}")
    world.job.set("job:counter", 7)
    world.job.set("job:token", b"\x00\xff", px=10_000_000)
    world.job.hset("job:state", mapping={"a": 1, "b": "\r\n"})
    world.job.zadd("job:scores", {"x": 0.1})
    world.job.set("others", "theirs")
    yield world
    world.job.execute_command("CLIENT UNPAUSE")
    world.job.close()


def work(world: World) -> None:
    """Do everything that can be done to what is declared."""
    job = world.job
    for n in range(3, 6):
        job.xadd("events", {"n": n}, id=f"{n + 1}-0")
        job.rpush("results", f"r{n}")
    job.xdel("events", "5-0")
    job.incr("job:counter")
    job.persist("job:token")
    job.delete("job:state")
    job.zadd("job:scores", {"y": 1})
    job.set("job:new", 1)


def test_what_came_after_the_checkpoint_is_gone_and_can_be_written_again(world: World):
    checkpoint = world.checkpoint()
    before = world.everything()
    work(world)
    after = world.everything()
    assert after != before
    counts = world.restore(checkpoint)
    assert counts == {
        "events": {"undone": 2},
        "results": {"undone": 3},
        "keys": {"restored": 4, "removed": 1},
    }
    assert world.everything() == before
    work(world)
    assert world.everything() == after


def test_a_second_restore_finds_nothing_to_do_and_an_older_one_goes_further_back(world: World):
    first = world.checkpoint()
    at_first = world.everything()
    work(world)
    second = world.checkpoint()
    at_second = world.everything()
    for _ in range(2):
        world.job.xadd("events", {"later": 1})
        world.job.delete("job:counter", "job:new")
        world.restore(second)
        assert world.everything() == at_second
        assert world.restore(second) == {}
    world.restore(first)
    assert world.everything() == at_first
    assert "does not know checkpoint c-2" in world.refusal(second)


def test_what_was_not_there_at_the_checkpoint_is_removed(world: World):
    world.job.delete("events", "results", "job:counter")
    checkpoint = world.checkpoint()
    before = world.everything()
    work(world)
    world.restore(checkpoint)
    assert world.everything() == before
    assert not world.job.exists("events", "results", "job:counter")


def test_many_entries_go_back_in_one_piece(world: World):
    checkpoint = world.checkpoint()
    before = world.everything()
    together = world.job.pipeline()
    for n in range(2500):
        together.xadd("events", {"n": n})
        together.rpush("results", n)
    together.execute()
    assert world.restore(checkpoint, dry_run=True) == {
        "events": {"undone": 2500},
        "results": {"undone": 2500},
    }
    assert world.job.xlen("events") == 2503
    world.restore(checkpoint)
    assert world.everything() == before


def test_a_dry_run_of_any_other_phase_writes_nothing_and_keeps_nobody_out(world: World):
    keys = sorted(world.job.keys())
    for phase in ("pre-checkpoint", "post-checkpoint", "post-commit", "on-exit"):
        done = {"outcome": {"ok": True, "error": None}, "exit": {"by": "job", "code": 0, "final": True}}
        assert world.call(phase, "c-1", dry_run=True, **done).result.get("outcome", "ok") == "ok"
    assert sorted(world.job.keys()) == keys
    reason = world.call("pre-checkpoint", "c-1", dry_run=True).result["reason"]
    assert reason.startswith("would note positions and 4 keys of ")
    impatient = redis.Redis.from_url(world.url, socket_timeout=20)  # a third less than nobody may write for
    impatient.set("others", "mine")
    impatient.close()


def test_moved_entries_are_kept_beside(world: World):
    world.options.update(mode="move", keys=["*"])
    checkpoint = world.checkpoint()
    before = world.everything()
    for times in (1, 2):  # a second restore leaves alone what the first has moved
        work(world)
        world.restore(checkpoint)
        assert world.everything() == before
        assert world.job.lrange("results.rewound", 0, -1) == [b"r3", b"r4", b"r5"] * times
        moved = [entry for _, entry in world.job.xrange("events.rewound")]
        assert [(one[b"ckptrun-id"], one[b"n"]) for one in moved] == [(b"4-0", b"3"), (b"6-0", b"5")] * times


def test_writers_wait_from_before_the_freeze_until_after_the_thaw(world: World):
    data = world.begin("c-1")
    late = redis.Redis.from_url(world.url, socket_timeout=0.3, retry=None)
    with pytest.raises(redis.TimeoutError):
        late.rpush("results", "late")
    late.close()
    assert world.job.llen("results") == 3, "readers do not wait"
    world.end("c-1", data)
    world.job.rpush("results", "after")
    assert world.restore(("c-1", data))["results"]["undone"] >= 1
    assert world.job.llen("results") == 3


def test_a_write_before_the_end_is_noticed_and_remembered(world: World):
    data = world.begin("c-1")
    world.job.execute_command("CLIENT UNPAUSE")
    world.job.incr("job:counter")
    result = world.end("c-1", data)
    assert result["outcome"] == "failed"
    assert "raise option hold" in result["reason"]
    answer = world.call("pre-restore", "c-1", data={**data, **result["data"]})
    assert answer.event("redis-undone")["exact"] is False


def test_without_holding_nobody_waits_and_nothing_is_said_to_be_exact(world: World):
    world.options["hold"] = 0
    data = world.begin("c-1")
    world.job.rpush("results", "in between")
    assert world.end("c-1", data) == {"done": ["released"], "data": {"held": False}}


def test_a_failed_checkpoint_lets_writers_in_and_is_forgotten(world: World):
    data = world.begin("c-1")
    assert world.end("c-1", data, ok=False) == {"done": ["released"]}
    world.job.rpush("results", "free")
    assert "does not know checkpoint c-1" in world.refusal(("c-1", data))
    assert world.job.keys("ckptrun:*:c:*") == []


def test_a_restore_lets_writers_in_that_a_dead_run_has_kept_out(world: World):
    checkpoint = world.checkpoint()
    before = world.everything()
    work(world)
    world.begin("c-2")  # and never its end
    world.restore(checkpoint)
    assert world.everything() == before


def test_a_key_that_would_have_expired_by_now_does_not_come_back(world: World):
    world.job.set("job:short", 1, px=150)
    checkpoint = world.checkpoint()
    deadline = time.monotonic() + PATIENCE
    while world.job.exists("job:short"):
        assert time.monotonic() < deadline
        time.sleep(POLL_SECONDS)
    world.job.set("job:short", "again")
    world.restore(checkpoint)
    assert not world.job.exists("job:short")


def test_entries_that_were_trimmed_meanwhile_are_said_to_be_lost(world: World):
    checkpoint = world.checkpoint()
    world.job.xadd("events", {"n": 3})
    world.job.xtrim("events", maxlen=1, approximate=False)
    world.job.lpop("results")
    answer = world.call("pre-restore", checkpoint[0], data=checkpoint[1])
    assert answer.event("redis-undone")["exact"] is False
    assert answer.result["reason"] == "events: 3 lost and 1 undone; results: 1 lost"


def test_what_can_still_be_restored_is_kept_and_a_complete_run_leaves_nothing(world: World):
    checkpoints = [world.checkpoint() for _ in range(3)]
    assert len(world.job.keys("ckptrun:*:c:?-?")) == 3
    world.end("c-9", world.begin("c-9"))  # may be taken before the hooks of the commit run
    world.commit("c-3", "c-2")
    assert sorted(world.job.keys("ckptrun:*:c:?-?")) == [
        f"ckptrun:{{train}}:c:c-{n}".encode() for n in (2, 3, 9)
    ]
    assert "the store had let go of it" in world.refusal(checkpoints[0])
    ended = {"by": "job", "code": 1, "final": False}
    assert world.call("on-exit", "c-3", exit=ended).result == {"done": ["kept"]}
    world.restore(checkpoints[1])
    assert world.call("on-exit", "c-3", exit={**ended, "code": 0, "final": True}).result == {
        "done": ["forgotten"]
    }
    assert world.job.keys("ckptrun:*") == []


@pytest.mark.parametrize("part", ["", ":values", ":expires"])
def test_a_copy_that_was_evicted_is_missed_before_anything_is_changed(world: World, part: str):
    checkpoint = world.checkpoint()
    work(world)
    after = world.everything()
    assert world.job.delete("ckptrun:{train}:c:c-1" + part) == 1
    assert "does not know checkpoint c-1" in world.refusal(checkpoint)
    assert world.everything() == after


def test_a_run_that_was_taken_over_undoes_nothing(world: World):
    checkpoint = world.checkpoint()
    world.epoch = 2
    world.checkpoint()
    world.epoch = 0  # of a run that cannot reach its store
    world.checkpoint()
    world.epoch = 1
    world.job.rpush("results", "by the newer run")
    assert "taken over" in world.refusal(checkpoint)
    assert "taken over" in world.refused_checkpoint()
    assert world.job.llen("results") == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"streams": [], "lists": [], "keys": []}, "nothing is declared"),
        ({"streams": ["results"]}, "results is a list, not a stream"),
        ({"lists": ["others"]}, "others is a string, not a list"),
        ({"limit": 0.0001}, "raise option limit"),
        ({"mode": "mark"}, "one of delete, move"),
        ({"url": "secret@nowhere"}, "option url"),
        ({"url": "redis://:secret/more@nowhere"}, "write a / in a password as %2F"),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_checkpoint(
    world: World, options: dict[str, Any], words: str
):
    world.options.update(options)
    reason = world.refused_checkpoint()
    assert words in reason
    assert "secret" not in reason


def test_a_stream_that_became_something_else_stops_a_restore_before_it_changes_anything(world: World):
    checkpoint = world.checkpoint()
    work(world)
    world.job.delete("events")
    world.job.set("events", 1)
    after = world.everything()
    assert "events is a string, not a stream" in world.refusal(checkpoint)
    assert world.everything() == after


def test_a_user_who_may_not_keep_writers_out_is_told_so(world: World):
    world.job.execute_command("ACL SETUSER clerk on >word ~* +@all -client|pause -client|unpause")
    world.options["url"] = world.url.replace("//", "//clerk:word@")
    assert "CLIENT PAUSE" in world.refused_checkpoint()
    world.options["hold"] = 0
    world.begin("c-1")
    world.job.execute_command("ACL DELUSER clerk")


def test_a_hook_that_is_killed_has_done_all_or_nothing_and_the_next_does_it(world: World):
    checkpoint = world.checkpoint()
    before = world.everything()
    work(world)
    # the script waits on the server for the end of a pause that nobody here ends
    world.job.execute_command("CLIENT PAUSE", 600_000, "WRITE")
    about = {"id": checkpoint[0], "trigger": "interval", "created": 1.5}
    options = {**world.options, "hold": 0}
    hook = start(
        "redis", context("pre-restore", options=options, epoch=1, checkpoint=about, data=checkpoint[1])
    )
    deadline = time.monotonic() + PATIENCE
    while not any(client["cmd"] == "eval" and "b" in client["flags"] for client in world.job.client_list()):
        assert time.monotonic() < deadline
        time.sleep(POLL_SECONDS)
    hook.kill()
    assert hook.wait().code == -signal.SIGKILL
    world.job.execute_command("CLIENT UNPAUSE")
    world.restore(checkpoint)
    assert world.everything() == before


def test_a_server_that_is_down_is_said_in_every_phase_and_one_without_its_data_is_not_believed(
    tmp_path: Path,
):
    with RedisServer(tmp_path / "server", appendonly="no") as server:
        world = World(server.url)
        checkpoint = world.checkpoint()
        server.stop()
        for phase in ("pre-checkpoint", "post-checkpoint", "post-commit", "pre-restore", "on-exit"):
            ended = {"by": "job", "code": 0, "final": True}
            result = world.call(phase, checkpoint[0], data=checkpoint[1], exit=ended).result
            wanted = "failed" if phase in {"post-commit", "on-exit"} else "retry"
            assert result["outcome"] == wanted, (phase, result)
            assert "refused" in result["reason"], result
        server.start()
        assert "has lost its data" in world.refusal(checkpoint)
        world.job.close()


def test_a_server_that_is_full_changes_nothing(tmp_path: Path):
    with RedisServer(tmp_path / "server", maxmemory="20mb") as server:
        world = World(server.url)
        world.job.set("job:large", "x" * 1000)
        world.job.set("job:other", 1)
        checkpoint = world.checkpoint()
        world.job.delete("job:large", "job:other")
        world.job.set("job:new", 1)
        after = world.everything()
        world.job.config_set("maxmemory", "1mb")
        assert "used memory > 'maxmemory'" in world.refusal(checkpoint)
        assert world.everything() == after
        world.job.config_set("maxmemory", "20mb")
        assert world.restore(checkpoint)["keys"] == {"restored": 2, "removed": 1}
        world.job.close()


def test_a_missing_package_is_said_with_what_to_install(world: World, tmp_path: Path):
    (tmp_path / "redis.py").write_text("raise ModuleNotFoundError('no redis', name='redis')")
    answer = hook_programs.call("redis", "pre-restore", {"PYTHONPATH": str(tmp_path)}, options=world.options)
    assert answer.result["outcome"] == "failed"
    assert "pip install 'ckptrun[redis]'" in answer.result["reason"]


def test_the_options_are_as_the_schema_says(world: World):
    described = json.loads((hook_programs.HOOKS / "redis" / "hook.json").read_text())
    jsonschema.validate(described, json.loads((SCHEMAS / "hook.json").read_text()))
    jsonschema.validate(world.options, described["options"])
