"""`httpx` with an ``Idempotency-Key`` on every request that changes something: ``with_keys(httpx.Client())``."""

from __future__ import annotations

import httpx

from ckptrun.job import effects

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    Client = TypeVar("Client", httpx.Client, httpx.AsyncClient)

HEADER = "Idempotency-Key"
CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})


def with_keys(client: Client) -> Client:
    """Have the requests of a client, plain or async, carry a key, and return it; one that has a key keeps it."""
    hooks = client.event_hooks
    if isinstance(client, httpx.AsyncClient):
        hooks["request"].append(_add_async)
    else:
        hooks["request"].append(_add)
    client.event_hooks = hooks
    return client


def _add(request: httpx.Request) -> None:
    if request.method in CHANGING and HEADER not in request.headers:
        request.headers[HEADER] = effects.key(request.method, request.url)


async def _add_async(request: httpx.Request) -> None:
    import asyncio
    import contextvars

    # the first key asks ckptrun for its scope: not in the event loop's thread
    context = contextvars.copy_context()
    await asyncio.get_running_loop().run_in_executor(None, context.run, _add, request)
