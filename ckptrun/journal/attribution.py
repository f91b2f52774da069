"""What the job has written, also what it has closed again: told by fanotify, read by the capsule's init.

`Journal` asks before and inside each freeze. Only what the job itself did counts, through whatever name; what anybody
else does in the same folders is not seen here. Without the privilege for it, nothing is attributed, and it is
said.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptrun.journal import fanotify
from ckptrun.journal.fanotify import (
    ATTRIB,
    CLOSE_WRITE,
    CREATE,
    DELETE,
    MODIFY,
    ONDIR,
    OVERFLOW,
    RENAME,
    Place,
)
from ckptrun.journal.places import Places
from ckptrun.journal.record import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ckptrun.journal.fanotify import Event, Handle
    from ckptrun.journal.trail import Trail


@dataclass(slots=True)
class Look:
    """What has happened since the look before, by path.

    Args:
        touched: files written, made, or renamed to this path.
        removed: files that are no longer there, under this name.
        everything: other paths may have changed too: a folder was renamed, or changes were lost.
    """

    touched: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    everything: bool = False


class Attribution:
    """The files that the job has written so far, over all its incarnations.

    Args:
        trail: where init writes down what the job does.
        ignore: mount points, in the job's eyes, that do not count: the capsule's own.
    """

    def __init__(self, trail: Trail, ignore: Sequence[str]) -> None:
        self._problem = ""
        self._trail = trail
        self._ignore = tuple(ignore)
        self._sync: Callable[[], None] = lambda: None
        self._places: Places | None = None
        self._written: dict[Place, Handle] = {}
        self._paths: dict[Place, str] = {}
        self._gone: dict[Place, str] = {}

    def watch(
        self, root: str, attach: Callable[[int, int], None], sync: Callable[[], None], where: str
    ) -> str:
        """Begin to watch a new capsule, before anything of the job runs in it.

        Args:
            root: its root directory, as this process reaches it.
            attach: gives init the group and the log to write to; raises OSError.
            sync: has init write everything down that has happened so far; raises OSError.
            where: the job's working directory.

        Returns:
            What the user must know; empty if the job's files are watched.
        """
        self.close()
        self._problem = ""  # of a capsule that was ending: no checkpoint of its job came of that look
        try:
            group = fanotify.group()
        except OSError as error:
            return f"changes to files cannot be watched here ({error.strerror})"
        try:
            log = self._trail.begin()
            try:
                places = Places(root, self._ignore)
                unwatched = _mark(group, root, places)
                attach(group, log)
            finally:
                os.close(log)
        except OSError as error:
            return f"changes to files cannot be watched: {error.strerror}"
        finally:
            os.close(group)
        self._places, self._sync = places, sync
        reason = unwatched.get(places.mount_of(where))
        return f"changes to files in {where} cannot be watched ({reason})" if reason else ""

    def go_on(self, root: str, attach: Callable[[int], None], sync: Callable[[], None], since: float) -> None:
        """Watch on for an incarnation that has outlived its supervisor: nothing that it did is missing.

        Args:
            root: see `watch`.
            attach: gives this log to whoever reads the group from now on; raises OSError.
            sync: see `watch`.
            since: seconds since the epoch, from before the incarnation began.

        Raises:
            OSError: it cannot be.
        """
        self.close()
        log = self._trail.go_on()
        try:
            places = Places(root, self._ignore, since)
            attach(log)
        finally:
            os.close(log)
        self._places, self._sync = places, sync

    def close(self) -> None:
        """Forget the capsule."""
        places, self._places = self._places, None
        if places is not None:
            places.close()

    def problem(self) -> str:
        """Return what has gone wrong since the last call, in a sentence, or an empty string."""
        problem, self._problem = self._problem, ""
        return problem

    def others(self) -> list[str]:
        """Return, in sentences, which of the job's files somebody else has removed or replaced since the last call.

        Exact right after a `look` while the job is stopped: what the job did itself has been seen then.
        """
        gone, self._gone = self._gone, {}
        return [
            f"{printable(path)}, which the job had written, was "
            f"{'replaced' if os.path.lexists(path) else 'removed'} by another program: it is left as it is"
            for path in sorted(gone.values())
        ]

    def resume(self, paths: Iterable[str], checkpoint: str) -> None:
        """Take the files of a checkpoint just rolled back to as what the job has written so far."""
        self._written, self._paths, self._gone = {}, {}, {}
        if self._places is None:
            return
        folders: dict[str, Handle | None] = {}
        for path in paths:
            folder, name = os.path.split(path)
            if folder not in folders:
                folders[folder] = _handle(folder)
            handle, at = _handle(path), folders[folder]
            if handle is not None and at is not None:
                self._written[Place(at, os.fsencode(name))] = handle
        with suppress(OSError):
            self._sync()
            self._trail.news()
            self._trail.mark(checkpoint)

    def look(self, checkpoint: str = "") -> Look:
        """Learn what has happened since the last look.

        Args:
            checkpoint: the files as of now are this checkpoint's.
        """
        seen = Look()
        if self._places is None:
            return seen
        try:
            self._sync()
            data = self._trail.news()
            if checkpoint:
                self._trail.mark(checkpoint)
        except OSError as error:
            self.close()
            self._problem = f"changes to files are no longer watched: {error.strerror}"
            seen.everything = True
            return seen
        touched = self._apply(fanotify.parse(data), seen)
        new = [place for place in touched if place in self._written and place not in self._paths]
        self._paths |= self._places.paths(new)
        seen.touched = {self._paths[place] for place in touched if place in self._paths}
        return seen

    def files(self) -> dict[str, Place]:
        """Return what the job has written so far and not removed, by path."""
        if self._places is None:
            return {}
        unknown = [place for place in self._written if place not in self._paths]
        self._paths |= self._places.paths(unknown)
        return {self._paths[place]: place for place in self._written if place in self._paths}

    def still(self, path: str, place: Place) -> bool:
        """Say whether a path still names the file that the job wrote; if not, it does not count any more."""
        if self._places is not None and self._places.holds(path, self._written[place]):
            return True
        self.forget(place)
        return False

    def forget(self, place: Place) -> None:
        """Do not count a file any more that somebody else has removed or replaced."""
        self._written.pop(place, None)
        if (path := self._paths.pop(place, None)) is not None:
            self._gone[place] = path

    def _apply(self, events: Iterable[Event], seen: Look) -> set[Place]:
        touched: set[Place] = set()
        for event in events:
            if event.mask & OVERFLOW:
                self._problem = "the kernel has lost some changes to files"
                seen.everything = True
                touched |= self._written.keys()
            elif event.place is None or event.place.name == b".":
                continue
            elif event.mask & RENAME:
                if event.mask & ONDIR:
                    seen.everything = True
                    self._paths.clear()
                self._rename(event, event.place, touched, seen)
            else:
                self._change(event, event.place, touched, seen)
        return touched

    def _rename(self, event: Event, place: Place, touched: set[Place], seen: Look) -> None:
        assert event.old is not None
        self._gone.pop(event.old, None)
        self._gone.pop(place, None)
        if self._remove(event.old, seen):
            self._written[place] = event.file
            touched.add(place)
        else:  # not the job's, whatever it has replaced
            self._remove(place, seen)

    def _remove(self, place: Place, seen: Look) -> bool:
        """Take a name out; say whether it was the job's."""
        if (path := self._paths.pop(place, None)) is not None:
            seen.removed.add(path)
        return self._written.pop(place, None) is not None

    def _change(self, event: Event, place: Place, touched: set[Place], seen: Look) -> None:
        self._gone.pop(place, None)
        if event.mask & DELETE and not event.mask & CREATE:
            self._remove(place, seen)
        elif event.mask & (CREATE | MODIFY | CLOSE_WRITE) or (event.mask & ATTRIB and place in self._written):
            # closed without a write that was seen: it may have been written through a mapping
            if not event.mask & (CREATE | MODIFY) and place not in self._written and not self._fresh(place):
                return
            self._written[place] = event.file
            touched.add(place)

    def _fresh(self, place: Place) -> bool:
        """Say whether a file has been changed, by whomever, since the job's incarnation began."""
        assert self._places is not None
        path = self._places.paths([place]).get(place)
        try:
            return path is not None and self._places.changed_since_opened(path)
        except OSError:
            return False


def _mark(group: int, root: str, places: Places) -> dict[str, str]:
    """Watch everything that takes files; return why not, by mount point, where that cannot be."""
    missing: dict[str, str] = {}
    done: set[str] = set()
    for mount in places.mounts:
        full = root + mount.path
        try:
            if places.folder(fanotify.handle_of(full)) is None:
                missing[mount.path] = "folders cannot be opened by handle"
                continue
            if mount.device not in done:
                fanotify.watch_filesystem(group, full)
                done.add(mount.device)
            fanotify.watch_mount(group, full)
        except OSError as error:
            missing[mount.path] = error.strerror or repr(error)
    return missing


def _handle(path: str) -> Handle | None:
    try:
        return fanotify.handle_of(path)
    except OSError:
        return None
