"""Serves one restore from sources, by the protocol of `stream`."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
from typing import TYPE_CHECKING

from ckptrun.criu.stream import Stop, listen, read_request, receive_fd, widen

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ckptrun.core.model import Source

SERVE_SOCKET = "streamer-serve.sock"


class Serve:
    """Answers one restore's requests from sources. `error` is the first thing that went wrong on this side.

    Args:
        folder: where CRIU looks for the socket.
        images: name -> content.
        asked: called with a name before it is answered: whoever asked waits meanwhile.
    """

    def __init__(
        self, folder: Path, images: Mapping[str, Source], asked: Callable[[str], None] = lambda _: None
    ) -> None:
        self.error: Exception | None = None
        self._images = images
        self._asked = asked
        self._stop = Stop()
        self._listener = listen(folder / SERVE_SOCKET)
        self._connection: socket.socket | None = None
        self._writers: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._run, name="serve", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def close(self) -> None:
        """Stop serving; CRIU, if still reading, sees short files."""
        self._stop.set()
        if self._connection:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
        if self._thread.ident is not None:
            self._thread.join()
        for writer in self._writers:
            writer.join()
        self._listener.close()
        self._stop.close()

    def _run(self) -> None:
        if not self._stop.wait_for(self._listener.fileno(), select.POLLIN):
            return
        self._connection, _ = self._listener.accept()
        with self._connection as connection:
            try:
                while (name := read_request(connection)) is not None:
                    self._answer(connection, name)
            except Exception as error:  # noqa: BLE001 - told by the restore; CRIU sees the end of the socket
                self._failed(error)

    def _failed(self, error: Exception) -> None:
        if self.error is None and not self._stop.is_set():
            self.error = error

    def _answer(self, connection: socket.socket, name: str) -> None:
        self._asked(name)
        source = self._images.get(name)
        reply = b"\x08\x00" if source is None else b"\x08\x01"
        connection.sendall(struct.pack("<I", len(reply)) + reply)
        if source is None:
            return
        fd = receive_fd(connection)
        writer = threading.Thread(target=self._write, args=(fd, source), name=f"serve {name}", daemon=True)
        self._writers = [w for w in self._writers if w.is_alive()]
        self._writers.append(writer)
        writer.start()

    def _write(self, fd: int, source: Source) -> None:
        try:
            widen(fd)
            os.set_blocking(fd, False)
            for piece in source.pieces():
                view = memoryview(piece)
                while view:
                    try:
                        view = view[os.write(fd, view) :]
                    except BlockingIOError:
                        if not self._stop.wait_for(fd, select.POLLOUT):
                            return
        except BrokenPipeError:
            pass  # CRIU has read what it wanted
        except Exception as error:  # noqa: BLE001 - told by the restore; CRIU sees a short file
            self._failed(error)
        finally:
            os.close(fd)
