"""Take orders: each charges a customer, books a courier, writes PostgreSQL, sends a mail and teaches a model.

    ckptrun --hook 'postgres?dsn=$DATABASE_URL&tables=orders,totals&application_name=orders' -- python orders.py 200

It needs DATABASE_URL and ORDERS_URL (`orders_services.py`); `python examples/orders_world.py` brings all of it along.

However often this program, or ckptrun, is killed: every customer is charged once, every order has one row and one
courier, every mail is sent once, and the model is that of an undisturbed run. What does it is marked (1) to (5).
It also runs without ckptrun: then these calls do what they say, and no more.
"""

from __future__ import annotations

import hashlib
import os
import sys
from typing import TYPE_CHECKING

import numpy as np
import orders_outside as outside
import psycopg

from ckptrun import job
from ckptrun.job import effects

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orders_outside import Order

PRINT_EVERY = 10


def read_orders(count: int) -> Iterator[Order]:
    """Yield orders. Where this generator stands is in the job's memory, and goes back with it: nothing to declare."""
    chance = np.random.default_rng(1)
    for number in range(1, count + 1):
        items, kilometres = int(chance.integers(1, 10)), int(chance.integers(1, 50))
        yield {
            "number": number,
            "items": items,
            "kilometres": kilometres,
            "cents": 250 + 399 * items + 20 * kilometres + int(chance.integers(0, 100)),
        }


def charge(order: Order) -> int:
    """Charge an order and return the number of the receipt.

    (1) A charge cannot be taken back: `once`. After a restore the job comes here again, and gets the receipt of the
    first time. If the machine died in the middle, nobody knows whether the customer was charged; the service honours
    the Idempotency-Key that `outside.http` sends, so that asking once more is harmless: ``retry``.
    """
    return effects.once(f"charge-{order['number']}", lambda: outside.charge(order), unsettled="retry")


def book_courier(order: Order) -> str:
    """Book whoever has least to do, and return who that is.

    (2) A booking can be taken back: `compensable`. Who has least to do depends on the world, which does not go back:
    after a restore it may be somebody else. Then the first booking is one that nobody wants; ckptrun calls `unbook`.
    """
    courier = outside.least_busy_courier()
    booking = [order["number"], courier]
    effects.compensable(
        f"courier-{order['number']}-{courier}", lambda: outside.book(*booking), outside.unbook, args=booking
    )
    return courier


class Table:
    """The rows of the orders.

    (3) Rows are written as ever. The hook ``postgres`` takes back what came after the checkpoint, before the job is
    restored to it, and the job writes it again: even an ``UPDATE … + 1`` counts once.
    """

    def __init__(self) -> None:
        self.connect()
        job.on_restore(self.connect)  # connections to the outside do not survive a restore

    def connect(self) -> None:
        """Open the connection, by the name that tells the hook whose changes these are."""
        self.connection = psycopg.connect(os.environ["DATABASE_URL"], application_name="orders")

    def write(self, order: Order, receipt: int, courier: str) -> None:
        """Write an order's row. No checkpoint falls between its COMMIT and the job's knowing of it."""
        with job.critical(), self.connection.transaction():
            self.connection.execute(
                "INSERT INTO orders (number, cents, receipt, courier) VALUES (%s, %s, %s, %s)",
                [order["number"], order["cents"], receipt, courier],
            )
            self.connection.execute(
                "UPDATE totals SET orders = orders + 1, cents = cents + %s", [order["cents"]]
            )


class Model:
    """Predicts what an order costs, by stochastic gradient descent. (4) All of it is memory: nothing to declare."""

    def __init__(self) -> None:
        self.weights = np.zeros(3)

    def learn(self, order: Order) -> float:
        """Take one step and return how far off the prediction was, in cents."""
        features = np.array([1.0, order["items"] / 10, order["kilometres"] / 50])
        error = float(features @ self.weights) - order["cents"]
        self.weights -= 0.1 * error * features
        return abs(error)

    def digest(self) -> str:
        """Return a SHA-256 over the weights, hexadecimal."""
        return hashlib.sha256(self.weights.tobytes()).hexdigest()


def main() -> None:
    """Take as many orders as the command line says."""
    table, model = Table(), Model()
    for order in read_orders(int(sys.argv[1])):
        receipt = charge(order)
        courier = book_courier(order)
        table.write(order, receipt, courier)
        # (5) a mail cannot be taken back, and can wait: sent once a checkpoint has all that led to it
        mail = f"order {order['number']}, receipt {receipt}"
        effects.deferred(f"mail-{order['number']}", {"text": mail}, outside.send_mail)
        off = model.learn(order)
        if order["number"] % PRINT_EVERY == 0:
            print(f"{mail}: {order['cents']} cents, predicted {off:.0f} cents off", flush=True)
    print(f"model sha256 {model.digest()}", flush=True)


if __name__ == "__main__":
    main()
