"""A charging service (FastAPI) that honours ``Idempotency-Key``: the same key is charged once and answered alike."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Annotated

import uvicorn
from fastapi import FastAPI, Header
from support.processes import PATIENCE


class Charging:
    """The service, in a thread of this process.

    `requests` are the keys of all requests, `charges` the amounts charged, by key.
    """

    def __init__(self) -> None:
        self.requests: list[str | None] = []
        self.charges: dict[str, int] = {}
        self._numbers = itertools.count(1)
        self._answers: dict[str, dict[str, int]] = {}
        app = FastAPI()
        app.post("/charge")(self._charge)
        self._server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + PATIENCE
        while not self._server.started:
            assert time.monotonic() < deadline
            assert self._thread.is_alive()
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/charge"

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(PATIENCE)

    async def _charge(
        self, amount: int, idempotency_key: Annotated[str | None, Header()] = None
    ) -> dict[str, int]:
        self.requests.append(idempotency_key)
        key = idempotency_key or f"none-{len(self.requests)}"
        if key not in self._answers:
            self.charges[key] = amount
            self._answers[key] = {"charge": next(self._numbers)}
        return self._answers[key]
