"""What `orders.py` asks of the world: an ordinary client of an HTTP service, with keys.

`unbook` and `send_mail` are called by ckptrun, later, in a process of their own; a small module starts fast there.
"""

from __future__ import annotations

import os
from typing import TypedDict

from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from ckptrun.job.adapters.requests import HEADER, Session


class Order(TypedDict):
    """What somebody has ordered."""

    number: int
    items: int
    kilometres: int
    cents: int


URL = os.environ["ORDERS_URL"]
http = (
    Session()
)  # every request that changes something carries an Idempotency-Key: to ask once more is harmless
http.mount("http://", HTTPAdapter(max_retries=Retry(5, backoff_factor=0.1, allowed_methods=None)))


def charge(order: Order) -> int:
    """Charge an order; return the number of the receipt."""
    answer = http.post(f"{URL}/charges", json={"order": order["number"], "cents": order["cents"]})
    answer.raise_for_status()
    return int(answer.json()["receipt"])


def least_busy_courier() -> str:
    """Return the courier who has the fewest bookings."""
    answer = http.get(f"{URL}/couriers/least-busy")
    answer.raise_for_status()
    return str(answer.json()["courier"])


def book(order: int, courier: str) -> None:
    """Book a courier for an order; to book the same once more changes nothing."""
    http.put(f"{URL}/bookings/{order}/{courier}").raise_for_status()


def unbook(order: int, courier: str, key: str) -> None:
    """Take a booking back, if there is one."""
    http.delete(f"{URL}/bookings/{order}/{courier}", headers={HEADER: key}).raise_for_status()


def send_mail(payload: dict[str, str], key: str) -> None:
    """Send a mail; the key tells the service one that it has sent already."""
    http.post(f"{URL}/mails", json=payload, headers={HEADER: key}).raise_for_status()
