"""Agents made with LangGraph, their threads kept by ckptrun: each command is one story."""

from __future__ import annotations

import asyncio
import hashlib
import json
import multiprocessing
import operator
import sys
import threading
import time
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt

from ckptrun import job
from ckptrun.job import effects
from ckptrun.job.adapters.langgraph import CkptrunSaver

HOLD, GO = Path("hold"), Path("go")
TURNS = 24
PACE = 0.01
"""Seconds that a node takes."""
THREAD = {"configurable": {"thread_id": "a/thread"}}


def say(*words: object) -> None:
    print(*words, flush=True)


def until_released() -> None:
    while HOLD.exists():
        time.sleep(0.01)


def digest(*words: object) -> str:
    time.sleep(PACE)
    return hashlib.sha256(repr(words).encode()).hexdigest()[:8]


class Mind(TypedDict, total=False):
    turn: int
    notes: Annotated[list[str], operator.add]
    found: str
    answer: str


class Shelf(TypedDict):
    found: str


class Search(TypedDict):
    subject: str


def plan(mind: Mind) -> dict[str, Any]:
    return {"found": digest(mind["turn"], mind.get("answer"), mind["notes"][-3:])}


def fan_out(mind: Mind) -> list[Send]:
    return [Send("search", {"subject": f"{mind['found']}-{number}"}) for number in range(6)]


def search(wanted: Search) -> dict[str, Any]:
    return {"notes": [digest(wanted["subject"])]}


def ask(mind: Mind) -> dict[str, Any]:
    return {"answer": interrupt(f"go on after turn {mind['turn']}?")}


def more(_: Shelf) -> dict[str, Any]:
    return {"found": digest("looked up")}


def agent(saver: CkptrunSaver) -> Any:
    """Return a graph with a subgraph, tasks side by side and a question."""
    library = StateGraph(Shelf)
    library.add_node("more", more)
    library.add_edge(START, "more")
    graph = StateGraph(Mind)
    graph.add_node("plan", plan)
    graph.add_node("search", search)
    graph.add_node("library", library.compile())
    graph.add_node("ask", ask)
    graph.add_edge(START, "plan")
    graph.add_conditional_edges("plan", fan_out, ["search"])
    graph.add_edge("search", "library")
    graph.add_edge("library", "ask")
    graph.add_edge("ask", END)
    return graph.compile(checkpointer=saver)


def story(graph: Any, thread: dict[str, Any]) -> list[str]:
    """Return a thread's whole history, oldest first, without what is the time's: identities are numbers here."""
    states = list(graph.get_state_history(thread))[::-1]
    numbers = {state.config["configurable"]["checkpoint_id"]: number for number, state in enumerate(states)}
    lines = []
    for number, state in enumerate(states):
        parent = state.parent_config and numbers[state.parent_config["configurable"]["checkpoint_id"]]
        tasks = [(task.name, task.result, [asked.value for asked in task.interrupts]) for task in state.tasks]
        values = {
            **state.values,
            "notes": [len(state.values.get("notes", ())), *state.values.get("notes", ())[-4:]],
        }
        lines.append(
            json.dumps(
                [number, parent, state.metadata["source"], state.metadata["step"], values, state.next, tasks]
            )
        )
    return lines


def thinking() -> None:
    """Take part in as many runs as are told."""
    for _ in range(int(sys.argv[2])):
        think()


def think() -> None:
    """Go on with a thread from the question that the last run ended with; leave one to the next run, and tell all."""
    graph = agent(CkptrunSaver())
    before = graph.get_state(THREAD)
    first = before.values["turn"] + 1 if before.values else 0
    for turn in range(first, first + TURNS):
        if turn:
            call(graph, Command(resume=digest("yes", turn)), turn)
        if turn == first + TURNS // 2:
            reconsider(graph)
        if turn == first + TURNS - 1:
            until_released()
        call(graph, {"turn": turn, "notes": []}, turn)
    say("first turn", first, "waiting for", list(before.next))
    for line in story(graph, THREAD):
        say(line)


def call(graph: Any, words: Any, turn: int) -> None:
    """Have the graph run up to its next question or end; every other turn as a coroutine."""
    if turn % 2:
        asyncio.run(graph.ainvoke(words, THREAD))
    else:
        graph.invoke(words, THREAD)


def reconsider(graph: Any) -> None:
    """Go back a few turns in the thread, note something there, and go on from that."""
    asked = [state for state in graph.get_state_history(THREAD, limit=40) if state.next == ("ask",)]
    branch = graph.update_state(asked[3].config, {"notes": ["on second thoughts"]}, as_node="library")
    graph.invoke(None, branch)
    graph.invoke(Command(resume="no"), THREAD)


def conforming() -> None:
    """Run LangGraph's own tests of checkpointers."""
    from langgraph.checkpoint.conformance import checkpointer_test, validate  # noqa: PLC0415 - only here

    @checkpointer_test(name="CkptrunSaver")
    async def saver() -> Any:
        yield CkptrunSaver()

    report = asyncio.run(validate(saver))
    say(json.dumps(report.to_dict()))


def many() -> None:
    """Have threads and processes use the saver at once; without ckptrun, processes would have nothing in common."""
    process = multiprocessing.get_context("spawn").Process if job.under_ckptrun() else threading.Thread
    workers = [threading.Thread(target=several, args=(name,)) for name in "ab"]
    workers += [process(target=several, args=(name,)) for name in "cd"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    until_released()
    graph = agent(CkptrunSaver())
    for name in "abcd":
        say(name, len(graph.checkpointer.get_tuple(thread(name)).checkpoint["channel_values"]["notes"]))
        for line in story(graph, thread(name)):
            say(name, line)


def thread(name: str) -> dict[str, Any]:
    return {"configurable": {"thread_id": name}}


def several(name: str) -> None:
    graph = agent(CkptrunSaver())
    for turn in range(3):
        graph.invoke({"turn": turn, "notes": []}, thread(name))
        graph.invoke(Command(resume=name), thread(name))
        if turn == 1:
            say("ready", name)
            while job.under_ckptrun() and not GO.exists():
                time.sleep(0.01)


def durable() -> None:
    """Have each step committed before the next one begins."""

    def careful(mind: Mind) -> dict[str, Any]:
        with job.critical():
            return {"found": digest("careful", mind["turn"])}

    graph = StateGraph(Mind)
    graph.add_node("careful", careful)
    graph.add_node("after", more)
    graph.add_edge(START, "careful")
    graph.add_edge("careful", "after")
    steps = graph.compile(checkpointer=CkptrunSaver(durable=True))
    steps.invoke({"turn": 1}, THREAD, durability="sync")
    asyncio.run(steps.ainvoke({"turn": 2}, THREAD))
    say("kept", len(list(steps.get_state_history(THREAD))))
    until_released()
    try:
        with job.critical():
            steps.invoke({"turn": 3}, THREAD)
    except job.UsageError as error:
        say("critical", error)
    try:
        effects.once("think", lambda: steps.invoke({"turn": 4}, THREAD))
    except job.UsageError as error:
        say("effect", error)
    say("restores", job.restores(), "kept", len(list(steps.get_state_history(THREAD))))


STORIES = {story.__name__: story for story in (thinking, conforming, many, durable)}

if __name__ == "__main__":
    STORIES[sys.argv[1]]()
