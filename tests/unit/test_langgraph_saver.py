"""CkptrunSaver without ckptrun: LangGraph's own tests, and what they do not ask."""

from __future__ import annotations

import asyncio
import operator
import threading
import uuid
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import WRITES_IDX_MAP, BaseCheckpointSaver, empty_checkpoint
from langgraph.checkpoint.base import id as identities_of_langgraph
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import ERROR
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

from ckptrun.job import state
from ckptrun.job.adapters.langgraph import CkptrunSaver
from ckptrun.job.adapters.langgraph._rows import StateFormatError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

pytestmark = pytest.mark.slow

LAST = "_last_v6_timestamp"
LONG = "many words " * 100
STRANGE = [
    "",
    "a",
    "a/",
    "a/b",
    "a/c/",
    "A",
    "ä",
    "%61",
    "=61",
    "a\0",
    "a b",
    "\U0001f600",
    "\udc80",
    LONG,
    LONG + "!",
]


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(identities_of_langgraph, LAST, getattr(identities_of_langgraph, LAST))
    yield
    state.delete_prefix("")


@pytest.fixture
def saver() -> CkptrunSaver:
    return CkptrunSaver()


def at(thread: str, namespace: str = "", identity: str | None = None) -> dict[str, Any]:
    return {"configurable": {"thread_id": thread, "checkpoint_ns": namespace, "checkpoint_id": identity}}


def put(
    saver: CkptrunSaver, config: dict[str, Any], values: dict[str, Any] | None = None, **how: Any
) -> dict[str, Any]:
    """Put a checkpoint in which the channels of `values` are new; `how` may give its identity, metadata, versions."""
    new = {name: how.get("version", 1) for name in values or {}}
    checkpoint = empty_checkpoint() | {
        "id": how.get("identity") or str(uuid6()),
        "channel_values": values or {},
        "channel_versions": {**how.get("versions", {}), **new},
    }
    return saver.put(config, checkpoint, how.get("metadata", {"step": 0}), new)  # type: ignore[arg-type]


def identities(saver: CkptrunSaver, config: dict[str, Any] | None, **how: Any) -> list[str]:
    return [found.config["configurable"]["checkpoint_id"] for found in saver.list(config, **how)]


def test_it_conforms():
    @checkpointer_test(name="CkptrunSaver")
    async def register() -> Any:
        yield CkptrunSaver()

    report = asyncio.run(validate(register)).to_dict()
    assert report["conformance_level"] == "FULL"
    failed = {name: result["failures"] for name, result in report["results"].items() if not result["passed"]}
    assert failed == {}  # one that was not found has not passed


def test_threads_and_namespaces_of_any_name_are_kept_apart(saver: CkptrunSaver):
    places = [(thread, namespace) for thread in STRANGE for namespace in STRANGE]
    for thread, namespace in places:
        config = put(saver, at(thread, namespace), {"who": ascii((thread, namespace)), LONG: "x"})
        saver.put_writes(config, [("who", ascii(namespace))], task_id=namespace or "task")
    for thread, namespace in places:
        (found,) = saver.list(at(thread, namespace))
        assert found.checkpoint["channel_values"] == {"who": ascii((thread, namespace)), LONG: "x"}
        assert found.pending_writes == [(namespace or "task", "who", ascii(namespace))]
        assert Place(found.config) == (thread, namespace)
    assert len(list(saver.list(None))) == len(places)
    assert len(identities(saver, {"configurable": {"thread_id": "a"}})) == len(STRANGE)
    saver.delete_thread("a")
    left = [place for place in places if saver.get_tuple(at(*place))]
    assert left == [place for place in places if place[0] != "a"]
    saver.prune(STRANGE, strategy="delete")
    assert state.keys() == []


def Place(config: Any) -> tuple[str, str]:  # noqa: N802
    return config["configurable"]["thread_id"], config["configurable"]["checkpoint_ns"]


def test_checkpoints_are_listed_in_the_order_of_their_identities_whatever_these_are(saver: CkptrunSaver):
    names = [name for name in STRANGE if name and len(name) < 20 and name != "\udc80"]
    names += [str(uuid6()) for _ in range(70)]
    for name in names:
        put(saver, at("t"), identity=name)
        put(saver, at("t", "inner"), identity=name)
        saver.put_writes(at("t", "", name), [("who", name)], "task")
    wanted = sorted(names, reverse=True)
    assert identities(saver, at("t")) == wanted
    assert [found.pending_writes for found in saver.list(at("t"))] == [
        [("task", "who", name)] for name in wanted
    ]
    assert identities(saver, at("t"), before=at("t", "", wanted[3]), limit=40) == wanted[4:44]
    assert identities(saver, at("t"), limit=0) == []
    thread = {"configurable": {"thread_id": "t"}}
    assert identities(saver, thread, limit=10) == sorted(wanted[:5] * 2, reverse=True)
    assert identities(saver, None, before=at("t", "", wanted[-2])) == [wanted[-1]] * 2
    assert identities(saver, at("t", "", wanted[7])) == [wanted[7]]
    assert identities(saver, at("t", "", wanted[7]), before=at("t", "", wanted[7])) == []


def test_identities_that_are_too_long_for_a_key_are_told_apart(saver: CkptrunSaver):
    for name in (LONG, LONG + "!", LONG[:-1]):
        put(saver, at("t"), identity=name, metadata={"step": len(name)})
    for name in (LONG, LONG + "!", LONG[:-1]):
        found = saver.get_tuple(at("t", "", name))
        assert found is not None
        assert (found.checkpoint["id"], found.metadata["step"]) == (name, len(name))


def test_a_value_is_kept_once_for_all_checkpoints_that_have_it(saver: CkptrunSaver):
    first = put(saver, at("t"), {"large": "x" * 100_000, "small": 1})
    before = sum(len(value) for value in state.get_many(state.keys()).values())
    config = first
    for number in range(20):
        config = put(saver, config, {"small": number}, version=number + 2, versions={"large": 1})
    assert saver.get_tuple(at("t")).checkpoint["channel_values"] == {"large": "x" * 100_000, "small": 19}
    assert sum(len(value) for value in state.get_many(state.keys()).values()) < before + 20_000
    saver.prune(["t"])
    assert saver.get_tuple(config).checkpoint["channel_values"] == {"large": "x" * 100_000, "small": 19}
    assert saver.get_tuple(config).parent_config is None
    assert len(state.keys("langgraph/1/t/b/")) == 2


def test_of_the_writes_of_a_task_the_first_stay_and_errors_are_replaced(saver: CkptrunSaver):
    config = put(saver, at("t"))
    saver.put_writes(config, [("a", 1), ("b", 2), (ERROR, "once")], "task", "path")
    saver.put_writes(config, [("a", 3), ("c", 4), ("d", 5), (ERROR, "twice")], "task", "path")
    saver.put_writes(config, [("a", 6)], "other", "a path before")
    assert saver.get_tuple(config).pending_writes == [
        ("other", "a", 6),
        ("task", ERROR, "twice"),
        ("task", "a", 1),
        ("task", "b", 2),
        ("task", "d", 5),
    ]
    assert WRITES_IDX_MAP[ERROR] < 0


def test_what_cannot_be_serialized_leaves_nothing_behind(saver: CkptrunSaver):
    with pytest.raises(TypeError):
        put(saver, at("t"), {"good": 1, "bad": threading.Lock()})
    config = put(saver, at("u"))
    with pytest.raises(TypeError):
        saver.put_writes(config, [("good", 1), ("bad", threading.Lock())], "task")
    assert saver.get_tuple(at("t")) is None
    assert saver.get_tuple(config).pending_writes == []


def test_what_somebody_else_has_written_there_is_refused_by_name(saver: CkptrunSaver):
    key = put(saver, at("t")) and state.keys("langgraph/1/t/c/")[0]
    for value in (b"", b"\2", b"\1\xff\0\0\0x", state.get(key)[:-1], state.get(key) + b"\0"):
        state.put(key, value)
        with pytest.raises(StateFormatError, match="langgraph/1/"):
            saver.get_tuple(at("t"))


def test_keys_fit_whatever_they_name(saver: CkptrunSaver):
    config = put(saver, at(LONG, LONG), {LONG: 1}, identity=LONG, version=LONG)
    saver.put_writes(config, [(LONG, 1)] * 1000, LONG, LONG)
    assert len(saver.get_tuple(config).pending_writes) == 1000
    assert max(len(key.encode()) for key in state.keys("")) <= 512


def test_a_thread_goes_on_where_the_clock_is_behind(saver: CkptrunSaver):
    ahead = uuid6().int + (3600 * 10**7 >> 12 << 80)  # an hour
    graph = talk(saver)
    graph.invoke({"said": ["first"]}, at("t"))
    put(saver, at("t"), {"said": ["of the future"]}, identity=str(uuid.UUID(int=ahead)), version="9")
    assert graph.get_state(at("t")).values["said"] == ["of the future"]
    graph.invoke({"said": ["now"]}, at("t"))
    assert graph.get_state(at("t")).values["said"][:2] == ["of the future", "now"]


def test_a_branch_of_an_old_checkpoint_is_newer_than_all_where_the_clock_is_behind(saver: CkptrunSaver):
    old = put(saver, at("t"))
    ahead = str(uuid.UUID(int=uuid6().int + (3600 * 10**7 >> 12 << 80)))
    put(saver, old, identity=ahead)
    assert saver.get_tuple(old) is not None
    assert str(uuid6()) > ahead


def joined(said: list[str], writes: Sequence[list[str]]) -> list[str]:
    return [*said, *(word for write in writes for word in write)]


class Reply(TypedDict):
    reply: str


class Talk(TypedDict, total=False):
    said: Annotated[list[str], operator.add]
    reply: str
    delta: Annotated[list[str], DeltaChannel(joined, snapshot_frequency=7)]


def answer(talk: Talk) -> dict[str, Any]:
    return {"said": [f"answer {len(talk['said'])}"], "delta": [f"thought {len(talk['said'])}"]}


def think(talk: Talk) -> dict[str, Any]:
    return {"delta": [f"aside {len(talk['said'])}"]}


def ask(_: Reply) -> dict[str, Any]:
    return {"reply": interrupt("well?")}


def talk(saver: BaseCheckpointSaver[Any]) -> Any:
    """Return a graph with tasks side by side, a subgraph and, after every third answer, a question."""
    asking = StateGraph(Reply)
    asking.add_node("ask", ask)
    asking.add_edge(START, "ask")
    graph = StateGraph(Talk)
    graph.add_node("answer", answer)
    graph.add_node("think", think)
    graph.add_node("asking", asking.compile())
    graph.add_edge(START, "answer")
    graph.add_edge(START, "think")
    graph.add_conditional_edges("answer", lambda talk: "asking" if len(talk["said"]) % 3 == 0 else END)
    return graph.compile(checkpointer=saver)


def converse(saver: BaseCheckpointSaver[Any], turns: int = 12) -> list[Any]:
    """Talk, go back once, and return all that is known of the thread but identities and times."""
    graph = talk(saver)
    for turn in range(turns):
        graph.invoke({"said": [f"turn {turn}"]}, at("t"))
        if graph.get_state(at("t")).next:
            graph.invoke(Command(resume=f"reply {turn}"), at("t"))
    early = list(graph.get_state_history(at("t")))[turns]
    graph.invoke(
        {"said": ["another"]}, graph.update_state(early.config, {"said": ["edited"], "delta": ["edited"]})
    )
    return history(graph)


def history(graph: Any) -> list[Any]:
    states = list(graph.get_state_history(at("t")))
    numbers = {found.config["configurable"]["checkpoint_id"]: number for number, found in enumerate(states)}
    return [
        (
            found.parent_config and numbers.get(found.parent_config["configurable"]["checkpoint_id"]),
            found.values,
            found.next,
            {name: value for name, value in found.metadata.items() if name != "parents"},
            [(task.name, task.result, [asked.value for asked in task.interrupts]) for task in found.tasks],
        )
        for found in states
    ]


def test_a_graph_finds_the_same_history_as_with_langgraphs_own_saver(saver: CkptrunSaver):
    assert converse(saver) == converse(InMemorySaver())


def test_what_delta_channels_are_built_from_is_found_as_langgraph_finds_it(saver: CkptrunSaver):
    converse(saver)
    seeded = 0
    for found in list(saver.list(at("t"))):
        mine = saver.get_delta_channel_history(config=found.config, channels=["delta", "said", "none"])
        plain = BaseCheckpointSaver.get_delta_channel_history(
            saver, config=found.config, channels=["delta", "said", "none"]
        )
        assert mine == plain
        assert mine == asyncio.run(
            saver.aget_delta_channel_history(config=found.config, channels=["delta", "said", "none"])
        )
        seeded += "seed" in mine["delta"]
    assert seeded > 10
    assert saver.get_delta_channel_history(config=at("t"), channels=[]) == {}
    assert saver.get_delta_channel_history(config=at("u"), channels=["delta"]) == {"delta": {"writes": []}}


def test_pruning_keeps_what_the_newest_state_is_made_of(saver: CkptrunSaver):
    graph = talk(saver)
    for turn in range(25):
        graph.invoke({"said": [f"turn {turn}"]}, at("t"))
        before, size = graph.get_state(at("t")), len(list(saver.list(None)))
        saver.prune(["t"])
        assert graph.get_state(at("t")).values == before.values
        assert graph.get_state(at("t")).next == before.next
        assert len(list(saver.list(None))) <= min(size, 30)  # at most what leads back to the last snapshot
        if before.next:
            graph.invoke(Command(resume="yes"), at("t"))
    assert len(graph.get_state(at("t")).values["delta"]) == 50


def test_pruning_forgets_calls_of_subgraphs_whose_beginning_goes(saver: CkptrunSaver):
    first = put(saver, at("t"), {"x": 1})
    second = put(saver, first, {"x": 2}, version=2)
    root = {"parents": {"": first["configurable"]["checkpoint_id"]}}
    newer = {"parents": {"": second["configurable"]["checkpoint_id"]}}
    for namespace, metadata in (
        ("old:1", root),
        ("new:2", newer),
        ("own", root),
        ("early:3", {"parents": {"": "?"}}),
    ):
        put(saver, at("t", namespace), {"y": 1}, metadata=metadata)
    saver.prune(["t"])
    left = [
        found.config["configurable"]["checkpoint_ns"]
        for found in saver.list({"configurable": {"thread_id": "t"}})
    ]
    assert sorted(left) == ["", "early:3", "new:2", "own"]
    assert len(state.keys("langgraph/1/t/b/")) == len(left)


def test_what_only_a_deleted_run_had_is_gone_and_the_rest_stays(saver: CkptrunSaver):
    config = at("t")
    for number, run in enumerate(("a", "b", "a", "c")):
        config = put(
            saver,
            config,
            {"x": number},
            version=number,
            versions={"kept": 1} if number else {},
            metadata={"run_id": run},
        )
        saver.put_writes(config, [("x", number)], "task")
    saver.delete_for_runs(["a", "d"])
    left = list(saver.list(at("t")))
    assert [(found.metadata["run_id"], found.checkpoint["channel_values"]) for found in left] == [
        ("c", {"x": 3}),
        ("b", {"x": 1}),
    ]
    assert [found.parent_config for found in left] == [None, None]
    assert (len(state.keys("langgraph/1/t/b/")), len(state.keys("langgraph/1/t/w/"))) == (2, 2)


def test_pruning_in_a_wrong_way_is_refused(saver: CkptrunSaver):
    put(saver, at("t"))
    with pytest.raises(TypeError, match="thread_ids"):
        saver.prune("t")
    with pytest.raises(ValueError, match="keep_oldest"):
        saver.prune(["t"], strategy="keep_oldest")
    assert saver.get_tuple(at("t")) is not None


def test_versions_of_a_channel_grow_and_differ_from_branch_to_branch(saver: CkptrunSaver):
    versions = [saver.get_next_version(None, None)]
    for _ in range(20):
        versions.append(saver.get_next_version(versions[-1], None))
    assert versions == sorted(versions)
    assert len({saver.get_next_version(versions[9], None) for _ in range(50)}) == 50
    assert saver.get_next_version(3, None).startswith(f"{4:032}")
    assert saver.get_next_version(InMemorySaver().get_next_version(versions[-1], None), None) > versions[-1]


class Patient(JsonPlusSerializer):
    """Does not begin before it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.begin = threading.Event()

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        assert self.begin.wait(30)
        return super().dumps_typed(obj)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        assert self.begin.wait(30)
        return super().loads_typed(data)


async def collected(saver: CkptrunSaver) -> list[Any]:
    return [found async for found in saver.alist(at("t"))]


def test_coroutines_do_not_hold_up_the_event_loop():
    async def use(saver: CkptrunSaver, serde: Patient) -> None:
        async def hindered(call: Any) -> Any:
            serde.begin.clear()
            asyncio.get_running_loop().call_soon(serde.begin.set)  # never, if the loop is held up
            return await call

        config = await hindered(saver.aput(at("t"), empty_checkpoint(), {"run_id": "r"}, {}))
        await hindered(saver.aput_writes(config, [("x", 1)], "task"))
        assert (await hindered(saver.aget_tuple(config))).pending_writes == [("task", "x", 1)]
        assert len(await hindered(collected(saver))) == 1
        await hindered(saver.aget_delta_channel_history(config=config, channels=["x"]))
        await hindered(saver.aprune(["t"]))
        await hindered(saver.acopy_thread("t", "u"))
        await hindered(saver.adelete_for_runs(["r"]))
        await hindered(saver.adelete_thread("u"))

    serde = Patient()
    asyncio.run(use(CkptrunSaver(serde=serde), serde))


def test_threads_write_at_once_and_nothing_is_lost(saver: CkptrunSaver):
    config = put(saver, at("t"))
    threads = [
        threading.Thread(
            target=lambda name=f"task {number}": [
                saver.put_writes(config, [(f"x{turn}", turn)] * (turn + 1), name) for turn in range(20)
            ]
        )
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    found = saver.get_tuple(config).pending_writes
    assert found == [(f"task {number}", f"x{turn}", turn) for number in range(8) for turn in range(20)]
