"""The world of `orders.py`: charges, couriers and mails, as an HTTP service that honours ``Idempotency-Key``.

    python examples/orders_services.py PORT

It keeps books of everything (GET /books) and is as slow as it is told to be (PUT /slowness/SECONDS), half of that
before it does what is asked and half after: so a client can be killed on either side of it. While more orders have
been charged than PUT /limit/ORDERS says, nobody learns which courier is least busy: so no client ends before its time.
"""

from __future__ import annotations

import asyncio
import math
import sys
from typing import Annotated, Any

import uvicorn
from fastapi import Body, FastAPI, Header, Request

COURIERS = ("ann", "bob", "cem", "dot")
Key = Annotated[str, Header(alias="Idempotency-Key")]


class Services:
    """What was asked, and what came of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.charges: list[dict[str, int]] = []
        self.mails: list[str] = []
        self.bookings: dict[int, list[str]] = {}
        self.slowness = 0.0
        self.limit = math.inf
        self._told = asyncio.Condition()
        self._answers: dict[str, dict[str, int]] = {}

    async def charge(
        self, key: Key, order: Annotated[int, Body()], cents: Annotated[int, Body()]
    ) -> dict[str, int]:
        """Charge; the same key is charged once, and answered alike."""
        if key not in self._answers:
            self._answers[key] = {"receipt": len(self.charges) + 1}
            self.charges.append({"order": order, "cents": cents, **self._answers[key]})
        return self._answers[key]

    async def mail(self, key: Key, text: Annotated[str, Body(embed=True)]) -> None:
        """Send a mail; the same key is sent once."""
        if key not in self._answers:
            self._answers[key] = {}
            self.mails.append(text)

    async def least_busy(self) -> dict[str, str]:
        """Return who has the fewest bookings, once so many orders may be taken."""
        async with self._told:
            await self._told.wait_for(lambda: len(self.charges) <= self.limit)
        booked = [name for names in self.bookings.values() for name in names]
        return {"courier": min(COURIERS, key=booked.count)}

    async def book(self, order: int, courier: str) -> None:
        """Book a courier for an order; the same again changes nothing."""
        names = self.bookings.setdefault(order, [])
        if courier not in names:
            names.append(courier)

    async def unbook(self, order: int, courier: str) -> None:
        """Take a booking back, if there is one."""
        names = self.bookings.get(order, [])
        if courier in names:
            names.remove(courier)

    async def be_slow(self, seconds: float) -> None:
        """Take so long for each request from now on."""
        self.slowness = seconds

    async def be_patient(self, orders: int) -> None:
        """Let no more orders than this be taken until told otherwise."""
        async with self._told:
            self.limit = orders
            self._told.notify_all()

    async def books(self) -> dict[str, Any]:
        """Return everything."""
        return {name: getattr(self, name) for name in ("asked", "charges", "mails", "bookings")}

    async def slowly(self, request: Request, answer: Any) -> Any:
        """Write a request down, and answer it slowly."""
        about_us = request.url.path.startswith(("/books", "/slowness", "/limit"))
        pause = 0.0 if about_us else self.slowness / 2
        if not about_us:
            self.asked.append(f"{request.method} {request.url.path}")
        await asyncio.sleep(pause)
        response = await answer(request)
        await asyncio.sleep(pause)
        return response

    def app(self) -> FastAPI:
        """Return them as a web application."""
        app = FastAPI()
        app.middleware("http")(self.slowly)
        app.post("/charges")(self.charge)
        app.post("/mails")(self.mail)
        app.get("/couriers/least-busy")(self.least_busy)
        app.put("/bookings/{order}/{courier}")(self.book)
        app.delete("/bookings/{order}/{courier}")(self.unbook)
        app.put("/slowness/{seconds}")(self.be_slow)
        app.put("/limit/{orders}")(self.be_patient)
        app.get("/books")(self.books)
        return app


if __name__ == "__main__":
    uvicorn.run(Services().app(), port=int(sys.argv[1]), log_level="error", lifespan="off")
