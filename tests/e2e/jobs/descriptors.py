"""A job whose parts are descriptors: what is queued in them, what they watch, what they lock."""

from __future__ import annotations

import array
import ctypes
import fcntl
import os
import select
import signal
import socket
import struct
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from parts import LIBC, checked, ended, forked, main, public, until

if TYPE_CHECKING:
    from collections.abc import Iterator

F_SETPIPE_SZ, F_GETPIPE_SZ, F_OFD_SETLK, F_ADD_SEALS, F_GET_SEALS = 1031, 1032, 37, 1033, 1034


def part_eventfds() -> Iterator[object]:
    full, empty = os.eventfd(5), os.eventfd(0, os.EFD_NONBLOCK)
    yield
    yield os.eventfd_read(full), select.select([full, empty], [], [], 0)[0]


def part_timerfd() -> Iterator[object]:
    fd = checked(LIBC.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK))
    checked(LIBC.timerfd_settime(fd, 0, struct.pack("qqqq", 0, 10_000_000, 0, 1), None))
    far = checked(LIBC.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK))
    checked(LIBC.timerfd_settime(far, 0, struct.pack("qqqq", 0, 0, 50_000, 0), None))
    until(lambda: select.select([fd], [], [], 0)[0])
    yield
    count = struct.unpack("Q", os.read(fd, 8))[0]
    left = ctypes.create_string_buffer(32)
    checked(LIBC.timerfd_gettime(far, left))
    yield count > 0, 49_000 < struct.unpack("qqqq", left.raw)[2] < 50_000, select.select([far], [], [], 0)[0]


def part_epoll() -> Iterator[object]:
    level, edge, once = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(3))
    poll = select.epoll()
    poll.register(level, select.EPOLLIN)
    poll.register(edge, select.EPOLLIN | select.EPOLLET)
    poll.register(once, select.EPOLLIN | select.EPOLLONESHOT)
    os.eventfd_write(once, 1)
    fired = [fd for fd, _ in poll.poll(0)]
    os.eventfd_write(level, 1)
    yield
    first = {fd for fd, _ in poll.poll(0)}
    os.eventfd_write(edge, 1)
    second = {fd for fd, _ in poll.poll(0)}
    third = {fd for fd, _ in poll.poll(0)}
    poll.modify(once, select.EPOLLIN)
    yield fired == [once], first == {level}, second == {level, edge}, third == {level}, len(poll.poll(0))


def part_pipes() -> Iterator[object]:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    full = os.write(writer, bytes(range(256)) * 256)
    large_reader, large_writer = os.pipe()
    size = fcntl.fcntl(large_writer, F_SETPIPE_SZ, 1 << 18)
    os.write(large_writer, b"x" * 200_000)
    yield
    try:
        os.write(writer, b"!")
        stuck = False
    except BlockingIOError:
        stuck = True
    whole = b"".join(
        iter(lambda: os.read(reader, 4096) if select.select([reader], [], [], 0)[0] else b"", b"")
    )
    large = len(os.read(large_reader, 1 << 20)), fcntl.fcntl(large_reader, F_GETPIPE_SZ) == size
    yield full, stuck, whole == bytes(range(256)) * 256, large


def part_fifo_in_a_temporary_folder() -> Iterator[object]:
    path = f"{tempfile.mkdtemp()}/fifo"
    os.mkfifo(path, 0o640)
    both = os.open(path, os.O_RDWR)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.write(both, b"queued ")
    yield
    again = os.open(path, os.O_WRONLY)
    os.write(again, b"and new")
    yield os.read(reader, 100), oct(Path(path).stat().st_mode)


def part_stream_sockets() -> Iterator[object]:
    path = f"{tempfile.mkdtemp()}/socket"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(5)
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    server, _ = listener.accept()
    client.sendall(b"to the server")
    server.sendall(b"to the client")
    left, right = socket.socketpair()
    left.sendall(b"last words")
    left.shutdown(socket.SHUT_WR)
    yield
    late = socket.socket(socket.AF_UNIX)
    late.connect(path)
    late.sendall(b"late")
    accepted, _ = listener.accept()
    words = server.recv(100), client.recv(100), accepted.recv(100), right.recv(100), right.recv(100)
    right.sendall(b"back")
    yield *words, left.recv(10)


def part_datagrams() -> Iterator[object]:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    packets, others = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    path = f"{tempfile.mkdtemp()}/bound"
    bound, sender = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
    bound.bind(path)
    sender.connect(path)
    abstract = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    abstract.bind(b"\0ckptrun test %d" % os.getpid())
    for number in range(3):
        left.send(b"d" * (number + 1))
        packets.send(b"p" * (number + 1))
        sender.send(b"b" * (number + 1))
    yield
    sender.send(b"again")
    sender.sendto(b"abstract", abstract.getsockname())
    queued = [[peer.recv(100) for _ in range(3)] for peer in (right, others, bound)]
    yield queued, bound.recv(100), abstract.recv(100)


def part_descriptors_in_flight() -> Iterator[object]:
    left, right = socket.socketpair()
    reader, writer = os.pipe()
    memory = os.memfd_create("flying")
    os.write(memory, b"from memory")
    with tempfile.TemporaryFile() as file:
        file.write(b"from a file")
        file.flush()
        for fd in (writer, memory, file.fileno()):
            left.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
    os.close(writer)
    os.close(memory)
    yield
    got = [socket.recv_fds(right, 1, 1)[1][0] for _ in range(3)]
    os.write(got[0], b"through a pipe")
    yield os.read(reader, 100), os.pread(got[1], 100, 0), os.pread(got[2], 100, 0)


def part_inotify() -> Iterator[object]:
    Path("watched").mkdir()
    fd = checked(LIBC.inotify_init1(os.O_NONBLOCK))
    watch = checked(LIBC.inotify_add_watch(fd, b"watched", 0x100))
    yield
    Path("watched/new").touch()
    data = os.read(fd, 4096)
    got, mask, _, length = struct.unpack_from("iIII", data)
    yield got == watch, hex(mask), data[16 : 16 + length].rstrip(b"\0")


def part_pidfd() -> Iterator[object]:
    pid = forked(signal.pause)
    fd = os.pidfd_open(pid)
    yield
    before = select.select([fd], [], [], 0)[0]
    signal.pidfd_send_signal(fd, signal.SIGTERM)
    until(lambda: select.select([fd], [], [], 0)[0])
    yield before, os.waitid(os.P_PIDFD, fd, os.WEXITED).si_status


def part_memfds() -> Iterator[object]:
    fd = os.memfd_create("sealed", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.write(fd, b"sealed content")
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    yield
    try:
        os.pwrite(fd, b"x", 0)
        written = True
    except PermissionError:
        written = False
    yield (
        os.pread(fd, 100, 0),
        fcntl.fcntl(fd, fcntl.F_GET_SEALS) == seals,
        written,
        str(Path(f"/proc/self/fd/{fd}").readlink()),
    )


def part_numbers_flags_and_offsets() -> Iterator[object]:
    Path("numbers").write_bytes(b"0123456789")
    one = os.open("numbers", os.O_RDONLY)
    shared, high = os.dup(one), fcntl.fcntl(one, fcntl.F_DUPFD, 500)
    other = os.open("numbers", os.O_RDONLY | os.O_CLOEXEC | os.O_NOATIME)
    os.read(one, 3)
    folder, path = os.open(".", os.O_DIRECTORY), os.open("numbers", os.O_PATH)
    devices = [os.open(f"/dev/{name}", os.O_RDWR) for name in ("null", "zero", "urandom", "full")]
    own = os.open("/proc/self/comm", os.O_RDONLY)
    yield
    content = os.read(shared, 2), os.read(high, 1), os.read(one, 1), os.read(other, 2)
    flags = [fcntl.fcntl(fd, fcntl.F_GETFD) for fd in (one, other)]
    same = os.stat("numbers", dir_fd=folder).st_ino == os.fstat(path).st_ino
    yield content, high, flags, same, os.read(devices[1], 2), os.write(devices[0], b"x"), os.read(own, 20)


def part_locks() -> Iterator[object]:
    for name in ("flocked", "posix", "owned"):
        Path(name).write_bytes(bytes(100))
    flocked, posix, owned = (os.open(name, os.O_RDWR) for name in ("flocked", "posix", "owned"))
    fcntl.flock(flocked, fcntl.LOCK_EX)
    fcntl.lockf(posix, fcntl.LOCK_EX, 10, 20)
    fcntl.fcntl(owned, F_OFD_SETLK, struct.pack("hhqqixxxx", fcntl.F_WRLCK, 0, 5, 10, 0))

    def refused(lock: object) -> bool:
        try:
            lock()  # type: ignore[operator]
        except OSError:
            return True
        return False

    def probe() -> int:
        mine = [os.open(name, os.O_RDWR) for name in ("flocked", "posix", "owned")]
        tries = (
            lambda: fcntl.flock(mine[0], fcntl.LOCK_EX | fcntl.LOCK_NB),
            lambda: fcntl.lockf(mine[1], fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 25),
            lambda: fcntl.lockf(mine[1], fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 31),
            lambda: fcntl.fcntl(mine[2], F_OFD_SETLK, struct.pack("hhqqixxxx", fcntl.F_WRLCK, 0, 14, 1, 0)),
            lambda: fcntl.fcntl(mine[2], F_OFD_SETLK, struct.pack("hhqqixxxx", fcntl.F_WRLCK, 0, 15, 1, 0)),
        )
        return sum(refused(lock) << bit for bit, lock in enumerate(tries))

    yield
    yield bin(ended(forked(probe)))


if __name__ == "__main__":
    main(public(globals()))
