"""Reads CRIU's images: which pages each ``pages-N.img`` holds, which PIDs the tree has.

The messages are parsed with pycriu, which comes with CRIU itself and is importable from a path.

Called by the supervisor, after the thaw. It must not know where the bytes lie or go.
"""

from __future__ import annotations

import importlib
import socket
from array import array
from typing import TYPE_CHECKING, Any

from ckptrun.core.model import PAGE_SIZE, BytesSource, ImageStream, MemoryRuns
from ckptrun.criu import pycriu_import
from ckptrun.criu.queues import Queues, name_of
from ckptrun.errors import DumpError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ckptrun.core.model import Source
    from ckptrun.criu.rewriter import Rewriter

_MAGICS = 8
"""Bytes of the two magic numbers every image of version 1.1 opens with."""
_IN_PARENT = 1
_CONNECTIONS = {socket.SOCK_STREAM, socket.SOCK_SEQPACKET}
_ESTABLISHED = 1
_HUGE_PRIVATE = 0x40000 | 0x2
"""MAP_HUGETLB and MAP_PRIVATE."""
_LINKED = 0
"""CRIU's remap_type of a file that it gave another link, as against one that it copied."""


class ImageReader:
    """pycriu's message classes, from the CRIU in use.

    Args:
        pycriu_path: folder that contains the package ``pycriu``.
    """

    def __init__(self, pycriu_path: Path) -> None:
        self._path = pycriu_path

    def _module(self, name: str) -> Any:
        pycriu_import.images(self._path)
        return importlib.import_module(f"pycriu.images.{name}_pb2")

    def entries(self, data: bytes | memoryview, module: str, *messages: str) -> Iterator[Any]:
        """Yield an image's messages; the last name given is that of all further ones."""
        classes = [getattr(self._module(module), message) for message in messages]
        at, index = _MAGICS, 0
        view = memoryview(data)
        while at < len(view):
            size = int.from_bytes(view[at : at + 4], "little")
            message = classes[min(index, len(classes) - 1)]()
            message.ParseFromString(bytes(view[at + 4 : at + 4 + size]))
            yield message
            at += 4 + size
            index += 1

    def memory_runs(self, name: str, pagemap: bytes | memoryview) -> tuple[str, MemoryRuns]:
        """Return the pages image's name and its runs, adjacent ones merged (CRIU splits them anew in each dump).

        Raises:
            DumpError: the image refers to a parent; ckptrun never dumps that way.
        """
        space = name.removeprefix("pagemap-").removesuffix(".img")
        space = space if space.startswith("shmem-") else f"mm-{space}"
        entries = self.entries(pagemap, "pagemap", "pagemap_head", "pagemap_entry")
        head = next(entries)
        starts, lengths = array("Q"), array("Q")
        end = -1
        for entry in entries:
            if entry.flags & _IN_PARENT or entry.in_parent:
                raise DumpError(f"{name} refers to a parent image")
            first, count = entry.vaddr // PAGE_SIZE, entry.nr_pages or entry.compat_nr_pages
            if first == end:
                lengths[-1] += count
            else:
                starts.append(first)
                lengths.append(count)
            end = first + count
        return f"pages-{head.pages_id}.img", MemoryRuns(space, starts, lengths)

    def streams(self, images: Mapping[str, Source]) -> tuple[ImageStream, ...]:
        """Name what each image is, with the address-space layout of those that hold pages."""
        layouts: dict[str, MemoryRuns] = {}
        for name, source in images.items():
            if name.startswith("pagemap-"):
                pages, runs = self.memory_runs(name, source.read(0, source.size))
                layouts[pages] = runs
        return tuple(ImageStream(name, source, layouts.get(name)) for name, source in images.items())

    def last_pid(self, images: Mapping[str, Source]) -> int:
        """Return the highest PID, thread, group or session number in the tree."""
        source = images["pstree.img"]
        highest = 0
        for entry in self.entries(source.read(0, source.size), "pstree", "pstree_entry"):
            # the first thread is the process itself; of a zombie CRIU writes no number there, but what memory held
            highest = max(highest, entry.pid, entry.pgid, entry.sid, *entry.threads[1:])
        return highest

    def registers(self, images: Mapping[str, Source]) -> int:
        """Return the components of the register state (bits of XCR0) that any thread uses; 0 where none is told."""
        found = 0
        for name, source in images.items():
            if name.startswith("core-"):
                for entry in self.entries(source.read(0, source.size), "core", "core_entry"):
                    found |= entry.thread_info.fpregs.xsave.xstate_bv
        return found

    def has_orphans(self, images: Mapping[str, Source]) -> bool:
        """Tell whether a process lives in a session that neither it nor its parent belongs to by itself.

        Its leader, or a parent between it and its leader, has ended. CRIU makes a helper to be its parent, and ends it.
        """
        source = images["pstree.img"]
        entries = list(self.entries(source.read(0, source.size), "pstree", "pstree_entry"))
        sessions = {entry.pid: entry.sid for entry in entries}
        return any(
            entry.sid != entry.pid and entry.sid != sessions[entry.ppid]
            for entry in entries
            if entry.ppid in sessions
        )

    def check_connections(self, images: Mapping[str, Source]) -> None:
        """Refuse what CRIU dumps without a word and cannot restore.

        Raises:
            DumpError: a Unix socket's connection waits, not accepted yet, at a process outside of the job.
        """
        source = images["files.img"]
        entries = self.entries(source.read(0, source.size), "fdinfo", "file_entry")
        sockets = [entry.usk for entry in entries if entry.HasField("usk")]
        inside = {entry.ino for entry in sockets}
        for entry in sockets:
            connected = entry.type in _CONNECTIONS and entry.state == _ESTABLISHED
            if connected and entry.peer and entry.peer not in inside:
                raise DumpError(
                    "the job holds a Unix socket connected to a process outside of it",
                    hint="close that connection before a checkpoint, or start the other side inside the job",
                )

    def check_links(self, images: Mapping[str, Source], private: str) -> None:
        """Refuse files that CRIU finds again only by a link it makes beside them, and removes after the dump.

        Args:
            images: of the dump.
            private: the folder whose contents travel with the checkpoint, such links included.

        Raises:
            DumpError: the job holds a file whose name was removed while it has another.
        """
        remaps = images.get("remap-fpath.img")
        if remaps is None:
            return
        entries = self.entries(remaps.read(0, remaps.size), "remap_file_path", "remap_file_path_entry")
        linked = {entry.orig_id for entry in entries if entry.remap_type == _LINKED}
        source = images["files.img"]
        for entry in self.entries(source.read(0, source.size), "fdinfo", "file_entry") if linked else ():
            path = "/" + entry.reg.name.lstrip("./")
            if entry.id in linked and not path.startswith(f"{private}/"):
                raise DumpError(
                    f"the job holds {path} open or mapped, whose name was removed while it has another one; "
                    "it could not be restored",
                    hint="let the job close it before it removes the name, or keep the file in TMPDIR",
                )

    def check_mappings(self, images: Mapping[str, Source]) -> None:
        """Refuse memory whose pages CRIU would read out of order, which a stream does not let it do.

        Raises:
            DumpError: a process has mapped huge pages of the machine's privately.
        """
        for name, source in images.items():
            if not name.startswith("mm-"):
                continue
            for space in self.entries(source.read(0, source.size), "mm", "mm_entry"):
                if any(vma.flags & _HUGE_PRIVATE == _HUGE_PRIVATE for vma in space.vmas):
                    pid = name.removeprefix("mm-").removesuffix(".img")
                    raise DumpError(
                        f"process {pid} (as the job counts) has huge pages mapped privately (MAP_HUGETLB), which CRIU "
                        "could not restore",
                        hint="map them shared, or use transparent huge pages: madvise with MADV_HUGEPAGE",
                    )

    def inet_sockets(self, images: Mapping[str, Source]) -> list[Any]:
        """Return the job's sockets of the internet's families, as CRIU describes them; `connections` reads them."""
        source = images["files.img"]
        entries = self.entries(source.read(0, source.size), "fdinfo", "file_entry")
        return [entry.isk for entry in entries if entry.HasField("isk")]

    @property
    def queues(self) -> Queues:
        """What reads the queues of TCP connections."""
        return Queues(self._module("tcp_stream").tcp_stream_entry)

    def for_restore(
        self, images: Mapping[str, Source], rewriter: Rewriter | None = None
    ) -> dict[str, Source]:
        """Return the images as CRIU should be given them: see `_siblings_reversed` and `connections`."""
        changed: dict[str, Source] = {
            "pstree.img": BytesSource(self._siblings_reversed(images["pstree.img"]))
        }
        if rewriter is not None:
            changed["files.img"] = BytesSource(self._sockets_rewritten(images["files.img"], rewriter))
            for name in map(name_of, rewriter.finished):
                changed[name] = self.queues.nothing_to_send(images[name])
        return {**images, **changed}

    def _sockets_rewritten(self, source: Source, rewriter: Rewriter) -> bytes:
        data = bytes(source.read(0, source.size))
        parts = [data[:_MAGICS]]
        for raw in _raw_entries(data):
            entry = self._module("fdinfo").file_entry.FromString(raw[4:])
            if entry.HasField("isk") and rewriter.rewrite(entry.isk):
                parts.append(_framed(entry.SerializeToString()))
            else:
                parts.append(raw)
        return b"".join(parts)

    def _siblings_reversed(self, source: Source) -> bytes:
        """Return ``pstree.img`` with siblings the other way round.

        CRIU puts each process it reads before its siblings, so a restored tree has them in reverse, and reverses
        them again the next time. Where the order matters (a terminal's user must be dumped before its relay, or "ctty
        inheritance detected") every second dump would fail. So siblings are listed the other way round.
        """
        data = bytes(source.read(0, source.size))
        children: dict[int, list[tuple[int, bytes]]] = {}
        entry_class = self._module("pstree").pstree_entry
        for raw in _raw_entries(data):
            entry = entry_class.FromString(raw[4:])
            children.setdefault(entry.ppid, []).append((entry.pid, raw))
        parts = [data[:_MAGICS]]
        stack = list(children.pop(0, []))
        while stack:
            pid, raw = stack.pop()
            parts.append(raw)
            stack += children.pop(pid, [])  # popped from the end: the last sibling first
        return b"".join(parts)


def _raw_entries(data: bytes) -> Iterator[bytes]:
    """Yield an image's messages as they stand there, each behind its length."""
    at = _MAGICS
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        yield data[at:end]
        at = end


def _framed(message: bytes) -> bytes:
    return len(message).to_bytes(4, "little") + message


def memory_bytes(streams: tuple[ImageStream, ...]) -> int:
    """Return the bytes of all pages images."""
    return sum(stream.data.size for stream in streams if stream.name.startswith("pages-"))
