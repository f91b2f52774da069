"""A job of root's whose parts are processes of other users: whom they may be, and what they may touch."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from parts import LIBC, ended, forked, main, public, until_go

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

UID, GID, GROUP = 1234, 2345, 3456


def identity(task: str = "self") -> list[str]:
    status = Path(f"/proc/{task}/status").read_text()
    fields = re.findall(r"^(Uid|Gid|Groups|Cap(?:Inh|Prm|Eff|Bnd|Amb)):\s*(.*?)\s*$", status, re.MULTILINE)
    return [" ".join(field) for field in fields]


def denied(action: Callable[[], object]) -> bool:
    try:
        action()
    except PermissionError:
        return True
    return False


def part_child() -> Iterator[object]:
    """A child gives its rights up for good, with a file open that it may no more open by itself."""
    Path("secret").write_text("of root")
    Path("secret").chmod(0o600)
    Path("report").touch()
    Path("report").chmod(0o666)

    def work() -> None:
        with open("secret") as secret, open("report", "a") as report:  # noqa: PTH123
            os.setgroups([GROUP])
            os.setresgid(GID, GID, GID)
            os.setresuid(UID, UID, UID)
            LIBC.prctl(1, 9)  # the change of user has reset it
            before = identity()
            ready.close()
            until_go()
            told = secret.read(), denied(lambda: open("secret")), denied(lambda: os.setuid(0))  # noqa: PTH123, SIM115
            report.write(f"{told} {before == identity()} {identity()[:3]}")

    reader, writer = os.pipe()
    ready = os.fdopen(writer, "w")
    pid = forked(work)
    ready.close()
    assert os.read(reader, 1) == b""
    yield
    code = ended(pid)
    yield code, Path("report").read_text()


def part_effective() -> Iterator[object]:
    """A child is another user for the moment, and root again later."""

    def work() -> None:
        os.setresgid(GID, GID, 0)
        os.setresuid(UID, UID, 0)
        ready.close()
        until_go()
        kept = identity()[:2]
        os.setresuid(0, 0, 0)
        Path("again").write_text(f"{kept} {identity()[0]}")

    reader, writer = os.pipe()
    ready = os.fdopen(writer, "w")
    pid = forked(work)
    ready.close()
    assert os.read(reader, 1) == b""
    yield
    code = ended(pid)
    yield code, Path("again").read_text()


if __name__ == "__main__":
    main(public(globals()))
