"""What ``python examples/orders_world.py`` shows: a shop killed at random, and a world that does not notice.

    .venv/bin/python examples/orders_world.py [--seed N] [--kills N] [--orders N]

`orders.py` runs undisturbed first, then under ckptrun, killed again and again, each time with a PostgreSQL server and
`orders_services.py` of its own, on loopback. At the end the two worlds are compared; exits with 0 only if they are
equal. It needs PostgreSQL's programs (Debian: postgresql) and ckptrun's extras ``examples`` and ``postgres``.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import psycopg
import requests
from demo import end_children, interrupted
from demo_stage import NAME, PATIENCE_SECONDS, DemoError, Run, Workshop, console, when
from rich.markup import escape

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
INTERVAL_SECONDS = 1
SLOWNESS_SECONDS = 0.05
"""Of every request, so that most kills find the job waiting for the world."""
REQUESTS = 3
"""That an order makes the job wait for."""
HOOK = "postgres?dsn=$DATABASE_URL&tables=orders,totals&application_name=orders"
TABLES = """
CREATE TABLE orders (number int PRIMARY KEY, cents int, receipt int, courier text);
CREATE TABLE totals (id int PRIMARY KEY, orders int, cents int);
INSERT INTO totals VALUES (1, 0, 0);
"""


class PostgreSQL:
    """A server on loopback, with all its data in a folder."""

    def __init__(self, folder: Path) -> None:
        found = [shutil.which("initdb") or "", *map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
        initdb = next((Path(path).resolve() for path in found if path), None)
        if initdb is None:
            raise DemoError("there is no PostgreSQL server: apt-get install postgresql")
        self._numbers = itertools.count(1)
        self._url = f"postgresql://shop@127.0.0.1:{(port := free_port())}"
        # it refuses to run as root
        who = {} if os.geteuid() else {"user": owner().pw_uid, "group": owner().pw_gid, "extra_groups": []}
        folder.mkdir()
        if who:
            os.chown(folder, owner().pw_uid, owner().pw_gid)
        data = ["-D", str(folder / "data")]
        words = [
            str(initdb),
            *data,
            "-U",
            "shop",
            "--auth=trust",
            "--no-sync",
            "--no-locale",
            "--encoding=UTF8",
        ]
        made = subprocess.run(words, cwd="/", capture_output=True, text=True, check=False, **who)
        if made.returncode != 0:
            raise DemoError(f"initdb: {made.stderr.strip()}")
        words = [str(initdb.with_name("postgres")), *data, "-p", str(port), "-k", str(folder)]
        words += ["-c", "listen_addresses=127.0.0.1"]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(words, cwd="/", stdout=log, stderr=log, **who)
        wait("PostgreSQL server", server, lambda: psycopg.connect(f"{self._url}/postgres").close())

    def database(self) -> str:
        """Make a database with the tables of the orders, and return its URL."""
        name = f"shop_{next(self._numbers)}"
        with psycopg.connect(f"{self._url}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
        with psycopg.connect(f"{self._url}/{name}") as connection:
            connection.execute(TABLES)
        return f"{self._url}/{name}"


class World:
    """Services with their books, and a database: what is outside of the job, and no restore brings back."""

    def __init__(self, postgresql: PostgreSQL) -> None:
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        self.dsn = postgresql.database()
        process = subprocess.Popen([sys.executable, str(HERE / "orders_services.py"), str(port)])
        wait("service", process, lambda: self.be_slow(0))

    @property
    def environment(self) -> dict[str, str]:
        """What `orders.py` needs to know."""
        return {"ORDERS_URL": self._url, "DATABASE_URL": self.dsn}

    def be_slow(self, seconds: float) -> None:
        """Have each request take so long."""
        requests.put(f"{self._url}/slowness/{seconds}", timeout=PATIENCE_SECONDS).raise_for_status()

    def let_take(self, orders: int) -> None:
        """Have the shop wait once it has charged one order more than these."""
        requests.put(f"{self._url}/limit/{orders}", timeout=PATIENCE_SECONDS).raise_for_status()

    def charged(self) -> int:
        """Return how many orders have been charged."""
        return len(self.books()["charges"])

    def books(self) -> dict[str, Any]:
        """Return the books of the services."""
        return dict(requests.get(f"{self._url}/books", timeout=PATIENCE_SECONDS).json())

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return what the database answers."""
        with psycopg.connect(self.dsn) as connection:
            return connection.execute(query).fetchall()  # type: ignore[arg-type]

    def outcome(self) -> dict[str, Any]:
        """Return all that can be seen, but for which courier it is: that depends on who was busy when."""
        books = self.books()
        booked = sorted((int(order), names) for order, names in books["bookings"].items())
        couriers = self.rows("SELECT number, courier FROM orders ORDER BY number")
        return {
            "the charges, each once": books["charges"],
            "the mails, each once, in order": books["mails"],
            "the orders' rows": self.rows("SELECT number, cents, receipt FROM orders ORDER BY number"),
            "the totals": self.rows("SELECT orders, cents FROM totals"),
            "one courier for each order, the one in its row": booked == [(n, [name]) for n, name in couriers],
        }


class Shop(Workshop):
    """The orders under ckptrun, in a folder."""

    def __init__(self, folder: Path, orders: int, world: World) -> None:
        super().__init__(folder, orders)
        self.environment |= world.environment

    def taking(self) -> list[str]:
        """Return the job's command."""
        return [sys.executable, str(HERE / "orders.py"), str(self.steps)]

    def protected(self) -> list[str]:
        """Return the one command of this story: the orders, under ckptrun."""
        options = [
            "--name",
            NAME,
            "--store",
            self.store,
            "--interval",
            f"{INTERVAL_SECONDS}s",
            "--hook",
            HOOK,
        ]
        return self.ckptrun(*options, "--", *self.taking())


class Story:
    """What happens, in order."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self._folder = folder
        self._options = options
        self._random = random.Random(options.seed)  # noqa: S311 -- moments of misfortune, not secrets
        self._began = time.monotonic()

    def tell(self) -> int:
        """Tell it; return the exit code."""
        seed, orders = self._options.seed, self._options.orders
        console.print(
            f"\nA shop takes {orders} orders: each is charged and given a courier over HTTP, written to PostgreSQL,\n"
            "confirmed by mail, and learned from. A restore brings the shop's memory back, and not the world:\n"
            f"this is about the world (seed {seed}: repeat these kills with --seed {seed})."
        )
        postgresql = PostgreSQL(self._folder / "postgresql")
        self._chapter("1. The reference: left alone")
        reference = World(postgresql)
        output = self._alone(Shop(self._folder / "alone", orders, reference))
        self._chapter(f"2. The same under ckptrun, killed {self._options.kills} times")
        console.print(f"     [bold]$ ckptrun … --hook '{escape(HOOK)}' -- python orders.py {orders}[/bold]")
        world = World(postgresql)
        world.be_slow(SLOWNESS_SECONDS)
        shop = Shop(self._folder / "killed", orders, world)
        run, printed = Run(shop), []
        moment, kills = 0.0, self._options.kills
        shares = [orders * number // (kills + 1) for number in range(kills + 1)]
        for number, (first, last) in enumerate(itertools.pairwise(shares), 1):
            world.let_take(
                first
            )  # however long a checkpoint or a restore takes, there are orders left to be killed in
            run.event("checkpoint-committed", moment)
            victim = psutil.Process(shop.ask("status")["job_pid"] if number % 2 else run.process.pid)
            world.let_take(last)
            self._wait_for_progress(run, world, self._random.randint(first, last))
            run, moment = self._kill(shop, run, victim, printed, world)
        world.let_take(orders)
        world.be_slow(0)
        if (code := run.wait()) != 0:
            raise DemoError(f"ckptrun ended with exit code {code}")
        printed += run.output
        return self._compare(reference, world, output, printed)

    def _alone(self, shop: Shop) -> list[str]:
        words = shop.taking()
        answer = subprocess.run(
            words, env=shop.environment, cwd=shop.reference, stdout=subprocess.PIPE, text=True, check=False
        )
        if answer.returncode != 0:
            raise DemoError(f"the orders by themselves ended with exit code {answer.returncode}")
        lines = answer.stdout.splitlines()
        console.print("\n".join(f"     [dim]job │ {escape(line)}[/dim]" for line in lines[-2:]))
        self._say("this is how the world must look in the end.")
        return lines

    def _wait_for_progress(self, run: Run, world: World, orders: int) -> None:
        """Wait until so many orders are charged, and a random time more, so that the blow can fall anywhere in one."""
        run.until(f"{orders}. order", lambda: world.charged() >= orders)
        time.sleep(self._random.uniform(0, REQUESTS * SLOWNESS_SECONDS))

    def _kill(
        self, shop: Shop, run: Run, victim: psutil.Process, printed: list[str], world: World
    ) -> tuple[Run, float]:
        """Kill the job, or ckptrun with it; return the run that goes on, and when the job ran again."""
        children = psutil.Process(run.process.pid).children(recursive=True)
        moment = time.time()
        victim.kill()
        name = "the job"
        if victim.pid == run.process.pid:
            name = "ckptrun, and the job with it"
            run.wait()
            psutil.wait_procs(children, timeout=PATIENCE_SECONDS)
            printed += run.output
            run = Run(shop)
        charges, rows = world.charged(), world.rows("SELECT orders FROM totals")[0][0]
        self._say(f"[bold red]SIGKILL[/bold red] to {name}: {charges} orders charged, {rows} written.")
        event = run.event("job-restored", moment)
        rows = world.rows("SELECT orders FROM totals")[0][0]
        self._say(f"[green]running again[/green] {when(event) - moment:.1f} s later, {rows} orders written.")
        return run, when(event)

    def _compare(self, reference: World, world: World, output: list[str], printed: list[str]) -> int:
        self._chapter("3. The two worlds")
        expected, found = reference.outcome(), world.outcome()
        same = {what: found[what] == expected[what] for what in expected}
        same["the model, bit for bit"] = bool(printed) and printed[-1] == output[-1]
        same["what was printed"] = list(dict.fromkeys(printed)) == output
        asked, once = len(world.books()["asked"]), len(reference.books()["asked"])
        console.print(
            f"the services were asked {asked} times; {once} times in the undisturbed run. Compared with that:"
        )
        for what, equal in same.items():
            console.print(f"  {'[green]equal[/green]    ' if equal else '[red]DIFFERENT[/red]'}  {what}")
        console.print(f"\n{time.monotonic() - self._began:.0f} s in all, seed {self._options.seed}.")
        return 0 if all(same.values()) else 1

    def _chapter(self, title: str) -> None:
        console.print(f"\n[bold]{title}[/bold]")

    def _say(self, text: str) -> None:
        console.print(f"[dim]{time.monotonic() - self._began:4.0f}[/dim] {text}")


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def owner() -> pwd.struct_passwd:
    """Return whom root's PostgreSQL runs as."""
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres")
    return pwd.getpwnam("nobody")


def wait(what: str, process: subprocess.Popen[bytes], works: Callable[[], object]) -> None:
    """Wait until something that was started works."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            works()
        except (psycopg.OperationalError, requests.ConnectionError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise DemoError(f"the {what} does not start: {error}") from error
            time.sleep(0.05)
        else:
            return


def main() -> int:
    """Tell the story in a folder that is gone afterwards, whatever happens."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10_000), help="of the random moments")
    parser.add_argument("--kills", type=int, default=6, help="(6)")
    parser.add_argument("--orders", type=int, default=60, help="to be taken (60)")
    options = parser.parse_args()
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, interrupted)
    folder = Path(tempfile.mkdtemp(prefix="ckptrun-orders-"))
    folder.chmod(0o755)  # root's PostgreSQL is somebody else
    try:
        return Story(folder, options).tell()
    except DemoError as error:
        console.print(f"[bold red]it failed:[/bold red] {escape(str(error))}")
        return 1
    except KeyboardInterrupt:
        console.print("interrupted")
        return 130
    finally:
        end_children()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
