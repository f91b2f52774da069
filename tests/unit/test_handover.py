"""What a supervisor leaves to the next one: when it fits what the shim has, and when there is nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckptrun.capsule.container import EVENTS, UNWRITTEN
from ckptrun.capsule.hello import Hello
from ckptrun.supervisor.handover import Handover, read

if TYPE_CHECKING:
    from pathlib import Path

LEFT = Handover(1001, 7, ("stderr", "stdout"))
KEPT = ("stdout", "stderr", EVENTS, UNWRITTEN)


def hello(root: int | None, ended: int | None, kept: tuple[str, ...] = KEPT) -> Hello:
    return Hello("1", ("job",), {}, "/", (0, 1, 2), dict.fromkeys(kept, -1), root, ended)


@pytest.mark.parametrize(
    ("said", "fits"),
    [
        (hello(1001, None), True),
        (hello(None, 0), True),
        (hello(None, 256), True),
        (hello(1002, None), False),  # another job of the same container
        (hello(None, None), False),  # the container was started again
        (hello(1001, None, ("stdout", EVENTS, UNWRITTEN)), False),
        (hello(1001, None, ("stdout", "stderr")), False),  # its files were not watched
        (hello(1001, None, (*KEPT, "ended")), True),
    ],
)
def test_it_fits_the_job_it_was_left_for_and_no_other(said: Hello, fits: bool):
    assert LEFT.fits(said) is fits


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"root_pid": "x", "supervisor": 1, "outputs": []}'])
def test_what_cannot_be_read_is_nothing(tmp_path: Path, text: str):
    path = tmp_path / "handover.json"
    assert read(path) is None
    path.write_text(text)
    assert read(path) is None
