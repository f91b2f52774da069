"""Undoes at a rollback what the job has done to names since the checkpoint: new files, new folders, renames.

Called by `rollback` before the records are brought back. Works on what the kernel told while the job ran
(`ckptrun.journal.trail`); touches nothing that still is not the very file the job made or renamed.
"""

# Names are strings with surrogates here, next to descriptors and raw calls; Path would add nothing.
# ruff: noqa: PTH104

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ckptrun.journal.candidates import under
from ckptrun.journal.fanotify import ATTRIB, CREATE, DELETE, MODIFY, ONDIR, OVERFLOW, RENAME
from ckptrun.journal.filling import room_for
from ckptrun.journal.record import printable
from ckptrun.journal.writing import removed_folder

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence

    from ckptrun.journal.fanotify import Event, Handle, Place
    from ckptrun.journal.places import Places


class Remover(Protocol):
    """What a rollback lends."""

    def move_aside(self, path: str) -> None:
        """Keep a file aside and remove it. Raises OSError, StoreFullError."""

    def step(self, name: str) -> None:
        """Be told of a change before it is made."""


@dataclass(slots=True)
class _File:
    """What has happened to one file since the checkpoint.

    Args:
        created: the job made it.
        folder: it is a folder.
        modified: the job changed its content.
        first: the name it had at the checkpoint, if it is another now or it has none.
        guessed: that name is of the rename right before the event that its link count changed.
        places: the names it has been seen to have, and to have kept; true for those that the job gave it.
    """

    created: bool = False
    folder: bool = False
    modified: bool = False
    first: Place | None = None
    guessed: bool = False
    places: dict[Place, bool] = field(default_factory=dict)


class _Histories:
    """The history of each file, in the order of their first events."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.files: dict[Handle, _File] = {}
        self.lost = False
        self._at: dict[Place, Handle] = {}
        self._counted: set[Handle] = set()
        replaced: Place | None = None
        for event in events:
            if event.mask & OVERFLOW:
                self.lost = True
            elif (
                event.place is None
            ):  # a link count: after a rename of the file it has replaced; before other events
                if event.mask & ATTRIB:
                    self._counted.add(event.file)
                    if replaced is not None:
                        self._replaced(event.file, replaced)
                replaced = None
            elif event.place.name != b".":
                self._named(event, event.place)
                replaced = event.place if event.mask & RENAME else None

    def _replaced(self, victim: Handle, place: Place) -> None:
        file = self.files.setdefault(victim, _File())
        if not file.created and file.first is None:
            file.first, file.guessed = place, True

    def _named(self, event: Event, place: Place) -> None:
        file = self.files.setdefault(event.file, _File())
        file.folder |= bool(event.mask & ONDIR)
        file.modified |= bool(event.mask & MODIFY)
        if file.guessed and event.mask & (
            CREATE | DELETE
        ):  # its links were counted for this, not for the rename
            file.first = None
        file.guessed = False
        if event.mask & RENAME:
            self._renamed(file, event, place)
        if event.mask & CREATE:
            file.created |= file.first is None and not file.places and event.file not in self._counted
            file.places[place] = True
        elif event.mask & DELETE:
            file.places.pop(place, None)
            if not file.created and file.first is None:
                file.first = place
            return
        file.places.setdefault(place, False)
        self._at[place] = event.file

    def _renamed(self, file: _File, event: Event, place: Place) -> None:
        assert event.old is not None
        if not file.created and file.first is None:
            file.first = event.old
        file.places[place] = file.places.pop(event.old, False)
        victim = self._at.get(place)
        if victim is not None and victim != event.file:
            self.files[victim].places.pop(place, None)


@dataclass(slots=True)
class Undoing:
    """One undoing.

    Args:
        places: where files are now.
        recorded: the paths that the checkpoint has: they are brought back from it.
        ignore: paths that are left alone with all below: ckptrun's own, and trees that are rolled back as a whole.
        remover: keeps files aside.
        problems: gets a sentence for everything that cannot be undone.
        undone: gets the paths that were changed.
    """

    places: Places
    recorded: Container[str]
    ignore: Sequence[str]
    remover: Remover
    problems: list[str]
    undone: list[str]

    def undo(self, events: Iterable[Event]) -> None:
        """Undo what can be undone; a full disk is an exception, what the system refuses a problem."""
        histories = _Histories(events)
        if histories.lost:
            self.problems.append(
                "the kernel has lost some changes to files: what the job has made since may still be there"
            )
        files = histories.files
        self._remove_new(
            {handle: file for handle, file in files.items() if file.created or file.first is None}
        )
        for handle, file in reversed(files.items()):
            if file.first is not None:
                self._back(handle, file, file.first, files)
        self._remove_new(
            {handle: file for handle, file in files.items() if not file.created}
        )  # further links
        for handle, file in files.items():  # only now are folders where they were
            if not file.created:
                self._report(handle, file)
        for handle, file in reversed(files.items()):
            if file.folder:
                self._remove_folder(handle, file)

    def _remove_new(self, files: Mapping[Handle, _File]) -> None:
        new = [path for handle, file in files.items() if not file.folder for path in self._new(handle, file)]
        for path in new:
            self._aside(path)

    def _remove_folder(self, handle: Handle, file: _File) -> None:
        for path in self._new(handle, file):
            self.remover.step("remove")
            try:
                with room_for(path):
                    if removed_folder(path):
                        self.undone.append(path)
            except OSError as error:
                self.problems.append(f"{printable(path)} cannot be removed: {error.strerror}")

    def _new(self, handle: Handle, file: _File) -> list[str]:
        """Return the paths that the job has given a file and the checkpoint does not have."""
        return [path for path in self._now(handle, file, made=True) if path not in self.recorded]

    def _now(self, handle: Handle, file: _File, *, made: bool = False) -> list[str]:
        """Return the paths under which a file still stands; on request only those that the job gave it."""
        places = [place for place, by_job in file.places.items() if by_job or not made]
        paths = self.places.paths(places).values()
        return [path for path in paths if not under(path, self.ignore) and self.places.holds(path, handle)]

    def _back(self, handle: Handle, file: _File, first: Place, files: dict[Handle, _File]) -> None:
        """Give a file the name back that it had, if it has lost it."""
        was = self.places.paths([first]).get(first)
        if was is None or under(was, self.ignore):
            return
        if self.places.holds(was, handle):
            file.places[first] = False
            return
        now = self._now(handle, file)
        if not now:
            return
        if os.path.lexists(was):
            ours = any(
                other.created and not other.folder and self.places.holds(was, key)
                for key, other in files.items()
            )
            if not ours and was in self.recorded:  # its content comes from there
                for path in now:
                    if path not in self.recorded:
                        self._aside(path)
                return
            if not ours:
                self.problems.append(
                    f"{printable(now[0])} was {printable(was)} at the checkpoint; it cannot be renamed back: another "
                    "file has that name"
                )
                return
            self._aside(was)
        try:
            self.remover.step("rename")
            with room_for(was):
                os.rename(now[0], was)
            self.undone.append(was)
            file.places[first] = False
        except OSError as error:
            self.problems.append(
                f"{printable(now[0])} cannot be renamed to {printable(was)}: {error.strerror}"
            )

    def _aside(self, path: str) -> None:
        try:
            with room_for(path):
                self.remover.move_aside(path)
        except OSError as error:
            self.problems.append(f"{printable(path)} cannot be moved aside: {error.strerror}")

    def _report(self, handle: Handle, file: _File) -> None:
        """Name a file that the job has changed or removed, and that the checkpoint does not have."""
        now = self._now(handle, file)
        if now:
            lost, what = now if file.modified else [], "changed"
        else:
            was = self.places.paths([file.first] if file.first else []).values()
            lost, what = [path for path in was if not under(path, self.ignore)], "removed"
        self.problems += [
            f"{printable(path)} was {what} by the job after the checkpoint and had not been written by it before, so "
            "that it is not in the checkpoint; --preserve keeps such files"
            for path in lost
            if path not in self.recorded
        ]
