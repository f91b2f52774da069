"""A rollback killed, or out of disk space, at any of its changes: nothing is destroyed, the next one completes it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from faultkit import (
    FULL,
    KILLED,
    MISSED,
    WRONG,
    contents,
    expect_all_listed,
    expect_nothing_destroyed,
    struck,
)
from journalkit import Checkpoint, mounted, picture
from watched import Story

from ckptrun.errors import StoreFullError
from ckptrun.journal import rollback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ckptrun.journal import RollbackReport
    from ckptrun.journal.fanotify import Event

BEFORE = (
    "import os, shutil",
    "os.makedirs('a/b'); open('a/b/f', 'w').write('f'); open('a/g', 'w').write('g')",
    "open('log', 'a').write('line 1'); open('x', 'w').write('x'); open('y', 'w').write('y')",
    "os.symlink('x', 's'); open('two', 'w').write('names'); os.chmod('two', 0o640)",
    "open('becomes', 'w').write('a folder'); shared = open('shared', 'w'); os.link('shared', 'other')",
    "open('tree/sub/one', 'w').write('one'); os.link('tree/sub/one', 'tree/link'); os.mkfifo('tree/fifo')",
    "open('tree/file', 'w').write('file'); os.setxattr('tree/file', 'user.k', b'v')",
)
AFTER = (
    "open('log', 'a').write(', line 2'); os.unlink('x'); os.rename('y', 'z'); open('y', 'w').write('another y')",
    "os.rename('a', 'moved'); os.rename('moved/b', 'up'); open('up/f', 'a').write('+'); open('up/new', 'w').write('n')",
    "os.unlink('s'); os.symlink('y', 's'); open('two', 'w').write('changed')",
    "os.makedirs('made/deep'); open('made/deep/file', 'w').write('deep'); os.rename('old', 'made/old')",
    "open('old', 'w').write('not the old one'); os.rename('kept', 'made/kept')",
    "os.unlink('becomes'); os.mkdir('becomes'); open('becomes/inner', 'w').write('inner')",
    "shared.write('changed'); shared.flush()",
    "os.unlink('tree/link'); os.mkdir('tree/link'); open('tree/link/in', 'w').write('in')",
    "os.unlink('tree/fifo'); open('tree/fifo', 'w').write('no fifo'); os.rename('tree/sub', 'tree/gone')",
    "open('tree/file', 'w').write('changed'); open('tree/more', 'w').write('more')",
)


@dataclass
class Machine:
    """A disk with what a dead job has left, as often as it is wanted, and the checkpoint to go back to."""

    image: Path
    place: Path
    checkpoint: Checkpoint
    since: list[Event]
    wanted: dict[str, object]
    elsewhere: Path | None
    copies: int = 0

    @property
    def work(self) -> Path:
        return self.place / "work"

    @property
    def aside(self) -> Path:
        return self.elsewhere or self.place / "aside"

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        self.copies += (
            1  # a file of its own each time: others may have copies of the mount that keep the last one
        )
        copy = self.image.with_suffix(f".{self.copies}")
        shutil.copyfile(self.image, copy)
        if self.elsewhere:
            shutil.rmtree(self.elsewhere, ignore_errors=True)
        with mounted(self.place, "-o", "loop", str(copy)):
            yield
        copy.unlink()

    def rollback(self, step: Callable[[str], None] = lambda _name: None) -> RollbackReport:
        records, contents = self.checkpoint.records, self.checkpoint.contents
        return rollback(records, contents.__getitem__, aside=self.aside, since=self.since, step=step)

    def expect_exact(self) -> None:
        """The same rollback, undisturbed, has the exact result."""
        report = self.rollback()
        assert not report.problems
        assert picture(self.work) == self.wanted
        expect_all_listed(self.aside)


SAME, ELSEWHERE = "aside on the same disk", "aside elsewhere"


@pytest.fixture
def machine(request: pytest.FixtureRequest, image: Path, tmp_path: Path) -> Machine:
    place = tmp_path / "disk"
    with mounted(place, "-o", "loop", str(image)):
        work = place / "work"
        (work / "tree/sub").mkdir(parents=True)
        (work / "kept").mkdir()
        (work / "kept/inner").write_text("from before the run, too")
        (work / "old").write_text("from before the run")
        story = Story(work, tmp_path / "trail", tmp_path / "unused", preserve=(f"{work}/tree",))
        try:
            story.do(*BEFORE)
            story.take()
            wanted = picture(work)
            story.do(*AFTER)
        finally:
            story.job.kill()
        since = story.keeper.journal.since("1")
        subprocess.run(["sync", "-f", place], check=True)  # others may have copies of the mount that keep it
    elsewhere = tmp_path / "aside" if request.param == ELSEWHERE else None
    return Machine(image, place, story.checkpoints["1"], since, wanted, elsewhere)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("machine", "kind"), [(SAME, "kill"), (SAME, "full"), (ELSEWHERE, "kill")], indirect=["machine"]
)
def test_a_rollback_struck_at_any_change_destroys_nothing_and_is_completed_by_the_next(
    machine: Machine, kind: str
):
    ends: list[int] = []
    while MISSED not in ends:
        with machine.again():
            before = contents(machine.work)
            where = (machine.work, machine.aside)
            code, said = struck(machine.rollback, len(ends), kind, where)
            assert code != WRONG, f"change {len(ends)}: {said}"
            ends.append(code)
            expect_nothing_destroyed(before, machine.work, machine.aside)
            if code == FULL:
                assert "No space left on device" in said
                assert str(machine.place.parent) in said
                assert "run the same command again" in said
            machine.expect_exact()
    assert ends.count(KILLED if kind == "kill" else FULL) > 60


@pytest.mark.slow
@pytest.mark.parametrize("machine", [SAME], indirect=True)
def test_a_disk_that_is_really_full_from_any_step_on_destroys_nothing_and_a_retry_works(machine: Machine):
    refused = at = 0
    while True:
        left = at

        def fill(_name: str) -> None:
            nonlocal left
            left -= 1
            if left == -1:
                exhaust(machine.place)

        with machine.again():
            before = contents(machine.work)
            try:
                report = machine.rollback(fill)
            except StoreFullError:
                refused += 1
            else:
                assert not report.problems
            expect_nothing_destroyed(before, machine.work, machine.aside)
            shutil.rmtree(machine.place / "filler", ignore_errors=True)
            machine.expect_exact()
        if left >= 0:
            break
        at += 1
    assert refused > 20


def exhaust(place: Path) -> None:
    """Leave neither a block nor an inode."""
    filler = place / "filler"
    filler.mkdir()
    with contextlib.suppress(OSError), (filler / "bytes").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))
    number = 0
    with contextlib.suppress(OSError):
        while True:
            (filler / str(number)).touch()
            number += 1
