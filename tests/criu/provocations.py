"""Jobs that make CRIU fail, each for one reason: what the tests of the remedies provoke.

`DUMPS` fail while they are dumped, `PASSING` too, but are tried again; `RESTORES` fail because of what happens between
dump and restore. Each stands under the name of the table's entry that must be found; a second one for the same entry
carries a suffix after a dot.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from live import PYTHON, wait_until

from ckptrun.capsule.spec import Identity, Program
from ckptrun.core.model import BytesSource
from ckptrun.criu import provision, pycriu_import

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable
    from pathlib import Path

    from live import Job

    from ckptrun.core.model import Source

PRELUDE = """
import ctypes, fcntl, mmap, os, select, signal, socket, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *words):
    got = libc.syscall(number, *words)
    if got < 0: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return got
def check(failed):
    if failed: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def ready():
    print("ready", flush=True)
    while True: time.sleep(1000)
def child(work):
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        work()
        os.write(writer, b"x")
        time.sleep(1000)
    assert os.read(reader, 1)
    os.close(reader); os.close(writer)
    return pid
HERE = os.environ.get("HERE", "")
"""


@dataclass(frozen=True)
class DumpCase:
    """A job that cannot be dumped.

    Args:
        code: run after `PRELUDE`, before ``ready()``.
        drop: options that CRIU is not given.
        add: options that it is given instead.
        filtered: CRIU has a seccomp filter of its own.
        owner: whom the job runs as.
        wrapped: a command that CRIU is started by.
        root: PID of the tree that is dumped.
        fds: makes descriptors that the job starts with.
        ready: False: the job says by itself when it is ready.
        who: what the sentence must name: "pid", "fd", "path".
    """

    code: str = ""
    drop: tuple[str, ...] = ()
    add: tuple[str, ...] = ()
    owner: Identity | None = None
    wrapped: tuple[str, ...] = ()
    root: int = 1000
    fds: Callable[[], dict[int, int]] = dict
    ready: bool = True
    filtered: bool = False
    who: tuple[str, ...] = ("pid",)


_FD = ("pid", "fd")
_PATH = ("pid", "fd", "path")
_NOBODY = Identity(65534, 65534)


def _terminal() -> dict[int, int]:
    return {5: os.openpty()[1]}


def _half_pair() -> dict[int, int]:
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    mine.detach()
    return {5: theirs.detach()}


_UNSHARE = "child(lambda: check(libc.unshare({flag})))"

DUMPS = {
    "io-uring": DumpCase("fd = call(425, 4, ctypes.create_string_buffer(200))", who=_FD),
    "userfaultfd": DumpCase("fd = call(323, 1)", who=_FD),
    "perf-event": DumpCase(
        "fd = call(298, struct.pack('IIQ', 1, 128, 0) + bytes(112), 0, -1, -1, 0)", who=_FD
    ),
    "bpf": DumpCase("fd = call(321, 0, struct.pack('IIIII', 27, 0, 0, 4096, 0) + bytes(100), 120)", who=_FD),
    "landlock": DumpCase("fd = call(444, struct.pack('QQQ', 1, 0, 0), 8, 0)", who=_FD),
    "fuse": DumpCase("fd = os.open('/dev/fuse', os.O_RDWR)", who=_FD),
    "device": DumpCase("fd = os.open('/dev/loop-control', os.O_RDONLY)", who=_FD),
    "special-file": DumpCase("fd = call(430, b'tmpfs', 0)", who=_FD),
    "tun": DumpCase("fd = os.open('/dev/net/tun', os.O_RDWR)", who=_FD),
    "packet-pipe": DumpCase("pair = os.pipe2(os.O_DIRECT)", who=_FD),
    "pidfd-outside": DumpCase("fd = os.pidfd_open(1)", who=_FD),
    "pidfd-thread": DumpCase("fd = os.pidfd_open(os.getpid(), os.O_EXCL)", who=_FD),
    "memfd-secret": DumpCase("fd = call(447, 0)", who=_FD),
    "memfd-secret.mapped": DumpCase(
        "fd = call(447, 0); os.ftruncate(fd, 4096); m = mmap.mmap(fd, 4096); m[0] = 1; os.close(fd)"
    ),
    "terminal-outside": DumpCase(fds=_terminal, who=_PATH),
    "other-mount": DumpCase(fds=lambda: {5: os.open("/etc/passwd", os.O_RDONLY)}, who=_PATH),
    "other-mount.gone": DumpCase(
        "os.mkdir('/dev/shm/gone'); check(libc.mount(b'none', b'/dev/shm/gone', b'tmpfs', 0, None))\n"
        "f = open('/dev/shm/gone/file', 'w'); check(libc.umount2(b'/dev/shm/gone', 2))",
        who=_PATH,
    ),
    "overmounted": DumpCase(
        "os.mkdir('/dev/shm/under'); f = open('/dev/shm/under/file', 'w')\n"
        "check(libc.mount(b'none', b'/dev/shm/under', b'tmpfs', 0, None))",
        who=_PATH,
    ),
    "overlay-watch": DumpCase(
        """
for name in 'uw': os.makedirs('/dev/shm/ov/' + name)
check(libc.mount(b'none', b'/etc', b'overlay', 0, b'lowerdir=/etc,upperdir=/dev/shm/ov/u,workdir=/dev/shm/ov/w'))
fd = libc.inotify_init(); libc.inotify_add_watch(fd, b'/etc/passwd', 2)
""",
        who=_FD,
    ),
    "link-remap": DumpCase(
        "f = open('/dev/shm/a', 'w'); os.link('/dev/shm/a', '/dev/shm/b'); os.unlink('/dev/shm/a')",
        drop=("--link-remap",),
        who=_PATH,
    ),
    "file-locks": DumpCase(
        "f = open('/dev/shm/lock', 'w'); fcntl.flock(f, fcntl.LOCK_EX)", drop=("--file-locks",), who=()
    ),
    "sysv-shm": DumpCase(
        "key = libc.shmget(0, 4096, 0o1600); libc.shmat.restype = ctypes.c_void_p\n"
        "address = libc.shmat(key, None, 0); libc.shmctl(key, 0, None)"
    ),
    "perf-event.mapped": DumpCase(
        "fd = call(298, struct.pack('IIQ', 1, 128, 0) + bytes(112), 0, -1, -1, 0)\n"
        "m = mmap.mmap(fd, 8192); os.close(fd)"
    ),
    "unix-stream-outside": DumpCase(
        "s = socket.socket(socket.AF_UNIX); s.connect(os.environ['PEER'])", who=_PATH
    ),
    "unix-datagram-outside": DumpCase(
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.connect(os.environ['LETTERS'])",
        drop=("--ext-unix-sk",),
        who=(),
    ),
    "unix-nameless-outside": DumpCase(fds=_half_pair, who=()),
    "tcp-established": DumpCase(
        "l = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(l.getsockname())\n"
        "a, _ = l.accept()",
        drop=("--tcp-established",),
        who=_FD,
    ),
    "mptcp": DumpCase(
        "s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262); s.bind(('127.0.0.1', 0)); s.listen()",
        who=_FD,
    ),
    "vsock": DumpCase("s = socket.socket(socket.AF_VSOCK)", who=_FD),
    "socket-family": DumpCase("s = socket.socket(44, socket.SOCK_RAW, 0)", who=_FD),
    "netlink-groups": DumpCase(
        "s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); s.setsockopt(270, 1, 1)", who=_FD
    ),
    "traced": DumpCase(
        """
if not os.fork():
    libc.ptrace(0, 0, 0, 0); os.kill(os.getpid(), signal.SIGSTOP); time.sleep(1000)
os.waitid(os.P_ALL, 0, os.WSTOPPED | os.WNOWAIT)
"""
    ),
    "main-thread-ended": DumpCase(
        """
def rest():
    while open('/proc/self/stat').read().rpartition(')')[2].split()[0] != 'Z': time.sleep(0.01)
    print('ready', flush=True)
    time.sleep(1000)
threading.Thread(target=rest).start()
libc.syscall(60, 0)
""",
        ready=False,
    ),
    "nested-namespace": DumpCase(_UNSHARE.format(flag="0x04000000")),
    "nested-namespace.user": DumpCase(_UNSHARE.format(flag="0x10000000")),
    "nested-namespace.pid": DumpCase(
        "check(libc.unshare(0x20000000)); child(lambda: None)",
    ),
    "root-no-session": DumpCase(root=1001, who=()),
    "criu-inside": DumpCase(root=1, who=()),
    "trace-denied": DumpCase(
        owner=_NOBODY, wrapped=("/usr/bin/setpriv", "--bounding-set", "-sys_ptrace,-perfmon")
    ),
    "seccomp-suspend": DumpCase(filtered=True),
    "foreign-limits": DumpCase(owner=_NOBODY),
    "dirty-tracking": DumpCase(add=("--track-mem",), who=()),
    "network-lock": DumpCase(
        "l = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(l.getsockname())\n"
        "a, _ = l.accept()",
        drop=("--network-lock", "skip"),
        add=("--network-lock", "nftables"),
        wrapped=("/usr/bin/setpriv", "--bounding-set", "-net_admin"),
        who=(),
    ),
}
"""Name -> what fails, and goes on failing."""

PASSING = {
    "tcp-in-flight": DumpCase(
        "l = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(l.getsockname())", who=_FD
    ),
    "unix-in-flight": DumpCase(
        "l = socket.socket(socket.AF_UNIX); l.bind('\\0in-flight-%d' % os.getpid()); l.listen()\n"
        "c = socket.socket(socket.AF_UNIX); c.connect(l.getsockname()); c.send(b'x')",
        who=_FD,
    ),
    "unix-control-message": DumpCase(
        "a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM); b.setsockopt(1, 16, 1)\n"
        "a.sendmsg([b'x'], [(1, 2, struct.pack('iii', os.getpid(), os.getuid(), os.getgid()))])",
        who=_FD,
    ),
    "udp-corked": DumpCase(
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('127.0.0.1', 9))\n"
        "s.setsockopt(17, 1, 1); s.send(b'x')",
        who=_FD,
    ),
    "netlink-unread": DumpCase(
        "s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); s.bind((0, 0))\n"
        "s.send(struct.pack('IHHIIBxHiII', 32, 18, 0x301, 1, 0, 0, 0, 0, 0, 0)); select.select([s], [], [])",
        who=_FD,
    ),
    "ghost-limit": DumpCase(
        "f = open('/dev/shm/ghost', 'w+b'); os.unlink(f.name); f.write(b'x' * (2 << 20)); f.flush()",
        who=_PATH,
    ),
}
"""Name -> what fails, and is tried once more."""


@dataclass(frozen=True)
class Scene:
    """What happens between a dump and its restore: where, to which images, and in which new capsule."""

    folder: Path
    images: dict[str, Source]
    job: Job
    held: contextlib.ExitStack


@dataclass(frozen=True)
class RestoreCase:
    """A job that is dumped well, and what keeps it from being restored.

    Args:
        code: as in `DumpCase`; HERE is the scene's folder, which has ``file`` and ``program``.
        mischief: what happens in between.
        drop: options that CRIU is not given.
        command: run in place of `code`; HERE is replaced.
        who: what the sentence must name: "path", "pid".
        wrapped: as in `DumpCase`.
        patience: seconds that the restore may take.
    """

    code: str = ""
    mischief: Callable[[Scene], object] = lambda _: None
    drop: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    who: tuple[str, ...] = field(default=("path",))
    wrapped: tuple[str, ...] = ()
    patience: float = 60.0


_OPEN = "f = open(HERE + '/file', 'r+b')"
_SOCKET = "os.mkdir(HERE + '/s'); s = socket.socket(socket.AF_UNIX); s.bind(HERE + '/s/sock'); s.listen()"


def _unlink(name: str) -> Callable[[Scene], object]:
    return lambda scene: (scene.folder / name).unlink()


def _replaced(scene: Scene) -> None:
    (scene.folder / "file").unlink()
    (scene.folder / "file").mkdir()


def _remaps_gone(scene: Scene) -> None:
    for path in scene.folder.glob("link_remap.*"):
        path.unlink()


def _port_taken(scene: Scene) -> None:
    taken = socket.socket()
    scene.held.callback(taken.close)
    taken.bind(("127.0.0.1", int((scene.folder / "port").read_text())))
    taken.listen()


def _lock_taken(scene: Scene) -> None:
    file = scene.held.enter_context((scene.folder / "file").open())
    fcntl.flock(file, fcntl.LOCK_EX)


def _pts_taken(scene: Scene) -> None:
    code = "import os, sys, time; os.openpty(); os.mkdir(sys.argv[1]); time.sleep(1000)"
    mark = scene.folder / "taken"
    capsule = scene.job.capsule
    capsule.spawn(Program([PYTHON, "-c", code, str(mark)], {}, "/", pid=capsule.next_helper_pid()))
    wait_until(mark.exists, what="a terminal of the same number")


def _edited(image: str, **fields: object) -> Callable[[Scene], None]:
    """Return a mischief that sets fields in the first entry of an image."""

    def edit(scene: Scene) -> None:
        images = pycriu_import.images(provision.find().pycriu_path)
        source = scene.images[image]
        content = images.loads(bytes(source.read(0, source.size)))
        content["entries"][0] |= fields
        scene.images[image] = BytesSource(images.dumps(content))

    return edit


def _damaged(scene: Scene) -> None:
    source = scene.images["core-1001.img"]
    scene.images["core-1001.img"] = BytesSource(bytes(8) + bytes(source.read(8, source.size - 8)))


RESTORES = {
    "file-size": RestoreCase(_OPEN, lambda scene: os.truncate(scene.folder / "file", 7)),
    "file-gone": RestoreCase(_OPEN, _unlink("file")),
    "file-replaced": RestoreCase(_OPEN, _replaced),
    "folder-gone": RestoreCase(
        "os.mkdir(HERE + '/sub'); os.chdir(HERE + '/sub')", lambda scene: (scene.folder / "sub").rmdir()
    ),
    "program-gone": RestoreCase(command=("HERE/program", "1000"), mischief=_unlink("program")),
    "program-changed": RestoreCase(
        command=("HERE/program", "1000"), mischief=lambda scene: os.truncate(scene.folder / "program", 30_000)
    ),
    "fifo-gone": RestoreCase(
        "os.mkfifo(HERE + '/fifo'); f = os.open(HERE + '/fifo', os.O_RDWR)", _unlink("fifo")
    ),
    "link-remap-gone": RestoreCase(
        "os.link(HERE + '/file', HERE + '/other'); f = open(HERE + '/file'); os.unlink(HERE + '/file')",
        _remaps_gone,
    ),
    "watched-gone": RestoreCase(
        "fd = libc.inotify_init(); libc.inotify_add_watch(fd, HERE.encode() + b'/file', 2)", _unlink("file")
    ),
    "lock-held": RestoreCase(
        _OPEN + "; fcntl.flock(f, fcntl.LOCK_EX)", _lock_taken, who=("pid", "fd"), patience=2.0
    ),
    "images-damaged": RestoreCase(mischief=_damaged, who=()),
    "file-mode": RestoreCase(_OPEN, lambda scene: (scene.folder / "file").chmod(0o444)),
    "pts-taken": RestoreCase("pair = os.openpty()", _pts_taken, who=("pid",)),
    "architecture": RestoreCase(mischief=_edited("core-1001.img", mtype="AARCH64"), who=()),
    "connection-flags": RestoreCase(mischief=_edited("inventory.img", tcp_close=True), who=()),
    "uprobes-image": RestoreCase(mischief=_edited("inventory.img", allow_uprobes=True), who=()),
    "socket-folder-gone": RestoreCase(_SOCKET, lambda scene: shutil.rmtree(scene.folder / "s")),
    "socket-peer-gone": RestoreCase(
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.connect(os.environ['LETTERS'])",
        lambda scene: (scene.folder.parent / "letters").unlink(),
        who=("pid",),
    ),
    "port-taken": RestoreCase(
        "s = socket.create_server(('127.0.0.1', 0)); open(HERE + '/port', 'w').write(str(s.getsockname()[1]))",
        _port_taken,
        who=("pid",),
    ),
    "pid-taken": RestoreCase(
        mischief=lambda scene: scene.job.capsule.spawn(Program(["/bin/sleep", "1000"], {}, "/", pid=1001)),
        who=("pid",),
    ),
    "own-namespace": RestoreCase(_UNSHARE.format(flag="0x40000000"), who=()),
    "own-namespace.mnt": RestoreCase(_UNSHARE.format(flag="0x20000"), who=()),
    "clock": RestoreCase(wrapped=("/usr/bin/setpriv", "--bounding-set", "-sys_time"), who=()),
}
"""Name -> what cannot be restored."""

__all__ = ["DUMPS", "PASSING", "PRELUDE", "RESTORES", "DumpCase", "RestoreCase", "Scene"]
