"""The container that a sidecar's job lives in: its shim of now or the next one, its files, its identity.

Called by the supervisor as its `Dwelling`; the shim's thread calls back here, and what the loop must know is enqueued.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from ckptrun.capsule.capsule import Capsule
from ckptrun.capsule.container import ContainerCapsule, within
from ckptrun.capsule.shim import ShimCallbacks
from ckptrun.capsule.visit import Visits
from ckptrun.criu.available import oom_kills, oom_kills_beside
from ckptrun.errors import ContainerGoneError, RestoreError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckptrun.capsule.capsule import Callbacks
    from ckptrun.capsule.listener import ShimListener
    from ckptrun.capsule.shim import Shim
    from ckptrun.capsule.spec import CapsuleSpec, Identity

T = TypeVar("T")

RETURN_SECONDS = 600.0
"""How long a run waits for its container to be started again; a kubelet lets five minutes pass at the most."""
LOOK_SECONDS = 0.2


class Container:
    """One job's container, over its restarts.

    Args:
        listener: where the next shim comes from.
        shim: that of now.
        shared: the folder that both containers have.
        arrived: told of every shim before anything is done with it; raises CkptrunError to refuse it.
        signalled: told, in the shim's thread, of signals that the container was sent.
        note: takes one sentence for the user.

    Raises:
        OSError: the shim is gone already.
    """

    at_hand = True
    outlasting = True

    def __init__(
        self,
        listener: ShimListener,
        shim: Shim,
        shared: Path,
        arrived: Callable[[Shim], None],
        signalled: Callable[[int], None],
        note: Callable[[str], None],
    ) -> None:
        self._listener = listener
        self._shared = shared
        self._arrived = arrived
        self._signalled = signalled
        self._note = note
        self._visits: Visits | None = None
        self._restored: Capsule | None = None
        self._lock = threading.Lock()
        self.shim: Shim
        self._take(shim)

    @property
    def identity(self) -> Identity:
        """Whom everything in the container runs as."""
        return self.shim.identity

    def fresh(self, spec: CapsuleSpec, callbacks: Callbacks) -> Capsule:
        """Return the container itself, served by an agent."""
        return ContainerCapsule(_unowned(spec), self.shim, callbacks)

    def again(self, spec: CapsuleSpec, callbacks: Callbacks) -> Capsule:
        """Return the container itself, with a job in it that the sidecar before this one has started."""
        return ContainerCapsule(_unowned(spec), self.shim, callbacks, again=True)

    def restored(self, spec: CapsuleSpec, callbacks: Callbacks) -> Capsule:
        """Return a capsule in the container's namespaces; it ends with the shim."""
        try:
            capsule = Capsule(within(_unowned(spec), self.shim.pid), callbacks)
        except OSError as error:
            raise RestoreError(
                "the job's container ended before the job could be restored into it"
            ) from error
        self.shim.taken()  # of the incarnation before this one; from here on, its end is made up for
        with self._lock:
            self._restored = capsule
        return capsule

    def await_(self, over: Callable[[], bool]) -> None:
        """Wait for the container to be started again, if it has ended.

        Raises:
            ContainerGoneError: it was not.
            RestoreError: it is over.
        """
        if self.shim.connected:
            return
        self._note(
            "the job's container has ended; the job goes on once it was started again, "
            f"which is waited for up to {RETURN_SECONDS / 60:g} min"
        )
        deadline = time.monotonic() + RETURN_SECONDS
        while not over():
            shim = self._listener.wait(LOOK_SECONDS)
            if shim is not None and shim.connected:
                self._take(shim)
                return
            if time.monotonic() > deadline:
                raise ContainerGoneError(
                    f"the job's container was not started again within {RETURN_SECONDS / 60:g} min",
                    hint="let it be restarted (restartPolicy: OnFailure), or start the pod anew",
                )
        raise RestoreError("the run is over")

    def present(self) -> bool:
        """Whether the container is there now."""
        return self.shim.connected

    def there(self, work: Callable[[], T], /) -> T:
        """Run something where the job's files are, as the job's user."""
        assert self._visits is not None
        return self._visits(work)

    def oom_kills(self) -> int:
        """Return the kills in the job's container and in the sidecar's: on cgroups v2 a restored job is in this one."""
        return oom_kills() + oom_kills_beside(self.shim.pid)

    @property
    def closed(self) -> tuple[str, ...]:
        """The shared folder: a visit can write what the job can only read."""
        return (str(self._shared),)

    @property
    def action(self) -> str:
        """The shim's own path: the job cannot write there."""
        return str(self._shared / "bin" / "ckptrun-shim")

    def end(self, code: int) -> None:
        """Have the container exit with a code, and let it go."""
        self.shim.end(code)
        if self._visits:
            self._visits.close()

    def _take(self, shim: Shim) -> None:
        self._arrived(shim)
        visits = Visits(shim.pid, self._shared, shim.identity)
        if self._visits:
            self._visits.close()
        self.shim, self._visits = shim, visits
        shim.serve(ShimCallbacks(self._signalled, self._lost))

    def _lost(self) -> None:
        """Let nothing that was restored outlive the container; the first incarnation's capsule sees to itself."""
        with self._lock:
            capsule, self._restored = self._restored, None
        if capsule is not None:
            capsule.destroy()


def _unowned(spec: CapsuleSpec) -> CapsuleSpec:
    """Return a specification without an owner: the job may write in /dev/shm as it is, and nowhere above it."""
    return replace(spec, owner=None)
