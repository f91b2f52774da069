"""The queues of TCP connections in a dump's images, ``tcp-stream-INODE.img``: read, compared and changed.

Called by `images` and the supervisor. What becomes of a connection is decided in `connections`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptrun.core.model import BytesSource
from ckptrun.criu.connections import Fate, locked_ends, torn
from ckptrun.errors import DumpError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckptrun.core.model import Source
    from ckptrun.criu.connections import Connection, End

_MAGICS = 8
"""Bytes of the two magic numbers every image of version 1.1 opens with."""


class TornError(DumpError):
    """The ends of a connection were saved at different moments; a dump taken again may do.

    Args:
        bad: the connection.
        ends: what has to be locked so that this cannot happen.
    """

    def __init__(self, bad: Connection, ends: list[tuple[End, End]]) -> None:
        super().__init__(
            f"data moved on the TCP connection {bad.here} to {bad.there} while the job was stopped",
            hint="nothing is lost; the next checkpoint will do",
        )
        self.ends = ends


class BereftError(DumpError):
    """Bytes for a connection are in the kernel's hands only; a moment later they may have arrived."""

    def __init__(self, bad: Connection) -> None:
        super().__init__(
            f"the other end of the TCP connection {bad.here} to {bad.there} was closed while its last bytes were still "
            "under way; they could not be restored",
            hint="wait for the next checkpoint, let the reader read on, or leave --tcp out: it is reset then",
        )


def name_of(ino: int) -> str:
    """Return the name of the image of a socket with this inode number."""
    return f"tcp-stream-{ino:x}.img"


class Queues:
    """Reads these images.

    Args:
        entry: CRIU's message class ``tcp_stream_entry``.
    """

    def __init__(self, entry: Any) -> None:
        self._entry = entry

    def read(self, source: Source) -> tuple[Any, bytes]:
        """Return a connection's state and the bytes of its two queues, what has arrived first."""
        data = bytes(source.read(0, source.size))
        end = _MAGICS + 4 + int.from_bytes(data[_MAGICS : _MAGICS + 4], "little")
        return self._entry.FromString(data[_MAGICS + 4 : end]), data[end:]

    def check_untorn(self, images: Mapping[str, Source], connections: Iterable[Connection]) -> None:
        """Refuse a connection inside of the job whose ends do not fit together.

        Raises:
            TornError: see `connections.torn`.
        """
        connections = tuple(connections)
        queues = {c.ino: self.read(images[name_of(c.ino)])[0] for c in connections if c.fate is Fate.KEPT}
        if bad := torn(connections, queues):
            raise TornError(bad, locked_ends(connections))

    def nothing_to_send(self, source: Source) -> Source:
        """Return an image without what was still to be sent."""
        entry, queues = self.read(source)
        entry.outq_len = entry.unsq_len = 0
        message = entry.SerializeToString()
        head = bytes(source.read(0, _MAGICS)) + len(message).to_bytes(4, "little")
        return BytesSource(head + message + queues[: entry.inq_len])
