"""Where a job lives: beside ckptrun, in capsules of its own, or in a container that another process has opened.

`Here` is the first; `ckptrun.supervisor.container` has the second. Whoever makes an incarnation asks its dwelling what
it lives in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from ckptrun.capsule.capsule import Capsule
from ckptrun.capsule.container import own
from ckptrun.capsule.visit import here
from ckptrun.criu.available import oom_kills

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptrun.capsule.capsule import Callbacks
    from ckptrun.capsule.spec import CapsuleSpec
    from ckptrun.capsule.visit import Place

T = TypeVar("T")


class Dwelling(Protocol):
    """Where a job lives."""

    at_hand: bool
    """See `Place.at_hand`."""
    outlasting: bool
    """A first incarnation may outlast this process."""

    @property
    def closed(self) -> tuple[str, ...]:
        """Folders of ckptrun's own that the job sees and no rollback may reach into."""

    @property
    def action(self) -> str:
        """Path, as CRIU finds it, of the helper that acts for it: it has CRIU's rights, so no job may replace it."""

    def fresh(self, spec: CapsuleSpec, callbacks: Callbacks) -> Capsule:
        """Return what a first incarnation lives in, to be started."""

    def restored(self, spec: CapsuleSpec, callbacks: Callbacks) -> Capsule:
        """Return what a restored incarnation lives in, to be started."""

    def again(self, spec: CapsuleSpec, callbacks: Callbacks) -> Capsule:
        """Return what a first incarnation lives in that an earlier process has begun, to be started."""

    def await_(self, over: Callable[[], bool]) -> None:
        """Return when a job can live there; not before it is `over`.

        Raises:
            RestoreError: nothing can live there any more, or it is over.
        """

    def present(self) -> bool:
        """Whether a job can live there now, as far as is known."""

    def there(self, work: Callable[[], T], /) -> T:
        """Run what looks at the job's files, or makes files of the job's."""

    def oom_kills(self) -> int:
        """Return how many processes the kernel has killed for want of memory where the job may be one of them."""


class Here:
    """Capsules in this process's own namespaces.

    Args:
        place: where files are made that are to be the job's: see `Privilege.guise`.
    """

    at_hand = False
    outlasting = False
    closed = ()
    action = "/proc/1/exe"
    """Of the capsule's init. The copy under `HIDDEN` lies in a folder of the job's user, who could replace it."""

    def __init__(self, place: Place = here) -> None:
        self._place = place

    def fresh(self, spec: CapsuleSpec, callbacks: Callbacks) -> Capsule:
        """See `Dwelling.fresh`."""
        return Capsule(own(spec), callbacks)

    def restored(self, spec: CapsuleSpec, callbacks: Callbacks) -> Capsule:
        """See `Dwelling.restored`."""
        return Capsule(own(spec), callbacks)

    def again(self, spec: CapsuleSpec, callbacks: Callbacks) -> Capsule:
        """See `Dwelling.again`: with the process before, everything has ended."""
        raise NotImplementedError

    def await_(self, over: Callable[[], bool]) -> None:
        """See `Dwelling.await_`."""

    def present(self) -> bool:
        """See `Dwelling.present`."""
        return True

    def there(self, work: Callable[[], T], /) -> T:
        """See `Dwelling.there`."""
        return self._place(work)

    def oom_kills(self) -> int:
        """See `Dwelling.oom_kills`."""
        return oom_kills()
