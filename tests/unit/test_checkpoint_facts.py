"""Facts of checkpoints that older versions took load: what they did not note yet is empty."""

from __future__ import annotations

from dataclasses import replace

from ckptrun.capsule.capsule import Tree
from ckptrun.capsule.wiring import Position
from ckptrun.supervisor.compat import Compat
from ckptrun.supervisor.facts import Facts

POSITION = {"names": {}, "mask": 0, "written": {}, "consumed": 0, "digest": "", "files": {}}
BASE = {
    "version": 1,
    "streams": POSITION,
    "last_pid": 1000,
    "helper": "abc",
    "journal": [],
    "monotonic": 1,
    "boottime": 1,
    "privilege": "root",
    "uid": 0,
}


def test_facts_without_hooks_load() -> None:
    facts = Facts.from_json(BASE)
    assert (facts.hooks, facts.trigger, facts.channel, facts.affinity) == ({}, "", {}, {})


def test_the_data_of_hooks_comes_back() -> None:
    data = {"postgres": {"position": 42}, "webhook": {}}
    facts = replace(Facts.from_json(BASE), hooks=data, trigger="request")
    assert Facts.from_json(facts.to_json()) == facts
    assert isinstance(facts.position, Position)
    assert isinstance(facts.compat, Compat)


def test_the_root_of_an_older_checkpoint_has_the_pid_that_all_had() -> None:
    assert Facts.from_json(BASE).tree == Tree(1000, 1001)


def test_a_root_with_another_pid_comes_back() -> None:
    facts = replace(Facts.from_json(BASE), tree=Tree(4711, 4713))
    assert Facts.from_json(facts.to_json()) == facts
