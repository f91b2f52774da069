"""An HTTP server in the job and a client that keeps its connection, on loopback."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import uvicorn
from pace import report, steps

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

numbers: list[int] = []


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Add what is posted to what was posted before."""
    assert scope["type"] == "http"
    numbers.append(int((await receive())["body"]))
    body = json.dumps({"count": len(numbers), "sum": sum(numbers)}).encode()
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
    )
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="warning"))
    threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True).start()
    while not server.started:
        time.sleep(0.01)
    answers = []
    with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=30) as client:
        answers.extend(client.post("/", content=str(step * step % 97)).json() for step in steps(100))
    server.should_exit = True
    report(answers)


if __name__ == "__main__":
    main()
