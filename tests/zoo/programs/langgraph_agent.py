"""LangGraph: a graph with deterministic nodes that goes round, its states kept by a checkpointer in memory."""

from __future__ import annotations

from typing import TypedDict

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from pace import report, sha, steps


class Thought(TypedDict):
    """What the nodes hand on."""

    number: int
    thoughts: list[str]


def think(state: Thought) -> dict[str, object]:
    return {"thoughts": [*state["thoughts"][-5:], sha(state["number"], state["thoughts"])]}


def act(state: Thought) -> dict[str, object]:
    return {"number": int(state["thoughts"][-1][:8], 16) % 1000}


def main() -> None:
    graph = StateGraph(Thought)
    graph.add_node("think", think)
    graph.add_node("act", act)
    graph.add_edge(START, "think")
    graph.add_edge("think", "act")
    graph.add_conditional_edges("act", lambda state: "think" if state["number"] % 3 else END)
    agent = graph.compile(checkpointer=InMemorySaver())
    state: Thought = {"number": 1, "thoughts": []}
    for step in steps(100):
        settings = {"configurable": {"thread_id": str(step % 3)}, "recursion_limit": 200}
        state = agent.invoke({"number": state["number"] + step, "thoughts": state["thoughts"]}, settings)
    kept = agent.get_state({"configurable": {"thread_id": "1"}}).values
    report(state, kept)


if __name__ == "__main__":
    main()
