"""Finds in /proc what CRIU would stumble over: the other way into the table.

`refusal` is asked right before every dump and looks at links only; `name` adds to a log's finding who it was;
`findings` is ``doctor --pid``'s and looks at everything. None of them stops or disturbs a process.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptrun.criu.remedies.model import Finding
from ckptrun.criu.remedies.processes import (
    Process,
    is_device,
    process_of,
    processes,
    socket_inode,
)
from ckptrun.criu.remedies.silent import silent_loss
from ckptrun.criu.remedies.table import BY_NAME
from ckptrun.criu.remedies.unixpeers import unix_sockets

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_ANONYMOUS = {
    "anon_inode:[io_uring]": "io-uring",
    "anon_inode:[userfaultfd]": "userfaultfd",
    "anon_inode:[perf_event]": "perf-event",
    "anon_inode:[landlock-ruleset]": "landlock",
    "anon_inode:bpf-map": "bpf",
    "anon_inode:bpf-prog": "bpf",
    "anon_inode:bpf_link": "bpf",
    "/secretmem (deleted)": "memfd-secret",
    "/dev/fuse": "fuse",
    "/dev/net/tun": "tun",
}
"""Descriptors that their link alone gives away."""

_REFUSED = {link: name for link, name in _ANONYMOUS.items() if BY_NAME[name].refused}

_NAMESPACES = ("mnt", "net", "ipc", "uts", "user", "cgroup", "pid")
_UNRESTORABLE = ("mnt", "net")
"""Nested ones that CRIU dumps without complaint, and can never restore."""

_FINE_DEVICES = re.compile(
    r"/dev/(?:null|zero|full|u?random|kmsg|tty|console|ptmx|pts/\w+|shm/.*)(?: \(deleted\))?$"
)
_TERMINAL = re.compile(r"/dev/(?:pts/\d+|tty\w*|console)$")
_FINE_SOCKETS = re.compile(r"(?:TCP|UDP|UDP-?Lite|UDPLITE|RAW)(?:v6)?$|UNIX|NETLINK$|PACKET$", re.IGNORECASE)
_PACKET_MODE = 0o40000
_GHOST_BYTES = 1 << 30
_CUDA_LIBRARY = re.compile(r"/(lib(?:cuda|cudart|nvidia-ml|torch_cuda|cudnn|cublas|nccl)[\w.-]*\.so[\w.]*)$")
_NOT_ON_A_MOUNT = ("/memfd:", "/SYSV", "/secretmem", "/dmabuf:", "/anon_hugepage")
_FDINFO = re.compile(r"^(flags|mnt_id|Pid):\s*(-?\d+)$", re.MULTILINE)
_STATUS = re.compile(r"^(State|TracerPid|Seccomp|Uid):\s*(\S+)", re.MULTILINE)


def refusal(host_pids: Sequence[int]) -> Finding | None:
    """Return what makes a dump of these processes hopeless, if links in /proc show it; the first is the root.

    About 5 microseconds for each descriptor: 20 ms for 200 processes with 20 each, while the job runs.
    """
    home = {name: _link(host_pids[0], name) for name in _UNRESTORABLE} if host_pids else {}
    for pid in host_pids:
        for name, namespace in home.items():
            if namespace and (found := _link(pid, name)) and found != namespace:
                return _of(pid, host_pids[0], "nested-namespace", path=found)
        if (betrayed := _betrayed(pid)) is not None:
            return _of(pid, host_pids[0], *betrayed)
    return None


def _betrayed(pid: int) -> tuple[str, int] | None:
    """Return the first entry that a link of a process betrays, and its descriptor."""
    folder = f"/proc/{pid}/fd"
    try:
        numbers = os.listdir(folder)  # noqa: PTH208 -- hundreds of small calls
    except OSError:
        return None
    for number in numbers:
        try:
            link = os.readlink(f"{folder}/{number}")  # noqa: PTH115 -- as above
        except OSError:
            continue
        if name := _REFUSED.get(link):
            return name, int(number)
    return None


def _link(pid: int, namespace: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/{namespace}")  # noqa: PTH115 -- as above
    except OSError:
        return ""


def _of(host_pid: int, root: int, name: str, fd: int = -1, path: str = "") -> Finding | None:
    process = process_of(host_pid, root)
    return None if process is None else _finding(process, name, fd, path)


def _finding(process: Process, name: str, fd: int = -1, path: str = "") -> Finding:
    return Finding(BY_NAME[name], "", process.pid, process.host_pid, process.program, fd, path)


def name(finding: Finding, host_pids: Sequence[int]) -> Finding:
    """Return a log's finding with what /proc still knows of the culprit, if it is one of these processes."""
    alive = processes(host_pids)
    mine = [process for process in alive if finding.pid in {0, process.pid}]
    if finding.inode:
        for process in mine:
            for fd, link in process.descriptors():
                if socket_inode(link) == finding.inode:
                    return _named(finding, process, fd)
    if finding.fd < 0:
        for fact in _of_descriptors(mine, alive):
            if fact.remedy is finding.remedy:
                process = next(p for p in mine if p.host_pid == fact.host_pid)
                return replace(_named(finding, process, fact.fd), path=finding.path or fact.path)
    return _named(finding, mine[0], finding.fd) if finding.pid and mine else finding


def _named(finding: Finding, process: Process, fd: int) -> Finding:
    path = finding.path
    if fd >= 0 and not path:
        link = process.link(f"fd/{fd}")
        path = link.removesuffix(" (deleted)") if link.startswith("/") else ""
    return replace(
        finding, pid=process.pid, host_pid=process.host_pid, program=process.program, fd=fd, path=path
    )


def findings(host_pids: Sequence[int]) -> list[Finding]:
    """Return everything about a tree that CRIU cannot save, and what looks so and is not; the first is the root."""
    tree = processes(host_pids)
    if not tree:
        return []
    found = list(_of_descriptors(tree, tree))
    for process in tree:
        found += _of_status(process)
        found += _of_namespaces(process, tree[0])
        found += _of_mappings(process, device_open=any(f.remedy.name == "nvidia-device" for f in found))
    lost = silent_loss(host_pids)
    if lost is not None and all(finding.remedy is not lost.remedy for finding in found):
        found.append(lost)
    return found


def _of_descriptors(mine: Sequence[Process], tree: Sequence[Process]) -> Iterator[Finding]:
    """Yield what descriptors of `mine` show; `tree` is what counts as inside."""
    sockets: list[tuple[Process, int, int]] = []
    for process in mine:
        mounts = set(re.findall(r"^(\d+) ", process.read("mountinfo"), re.MULTILINE))
        for fd, link in process.descriptors():
            if name := _kind_of(process, fd, link, mounts, tree):
                yield _finding(process, name, fd, link.removesuffix(" (deleted)") if link[0] == "/" else "")
            elif inode := socket_inode(link):
                sockets.append((process, fd, inode))
    if sockets:
        yield from _of_peers(sockets, tree)


def _kind_of(process: Process, fd: int, link: str, mounts: set[str], tree: Sequence[Process]) -> str:
    """Return the entry that a descriptor stands for; empty if it is fine."""
    if name := _ANONYMOUS.get(link):
        return name
    if link.startswith("/"):
        return _kind_of_file(process, fd, link, mounts)
    if link.startswith("socket:"):
        return _kind_of_socket(process, fd)
    if link.startswith("pipe:") and int(_info(process, fd).get("flags", "0"), 8) & _PACKET_MODE:
        return "packet-pipe"
    if link == "anon_inode:[pidfd]":
        target = int(_info(process, fd).get("Pid", "0"))
        return "" if target <= 0 or any(p.host_pid == target for p in tree) else "pidfd-outside"
    return ""


def _kind_of_file(process: Process, fd: int, link: str, mounts: set[str]) -> str:
    path = f"{process.folder}/fd/{fd}"
    if link.startswith("/dev/nvidia"):
        return "nvidia-device"
    if link.startswith("/dev/") and not _FINE_DEVICES.match(link) and is_device(path):
        return "device"
    if link.endswith(" (deleted)") and not link.startswith(_NOT_ON_A_MOUNT) and _is_large_ghost(path):
        return "ghost-limit"
    if (
        fd > 2 and mounts and not link.startswith(_NOT_ON_A_MOUNT)
    ):  # the standard streams are ckptrun's to give
        mount = _info(process, fd).get("mnt_id")
        if mount is not None and mount not in mounts:
            return "terminal-outside" if _TERMINAL.match(link) else "other-mount"
    return ""


def _is_large_ghost(path: str) -> bool:
    try:
        status = os.stat(path)  # noqa: PTH116 -- as above
    except OSError:
        return False
    return status.st_nlink == 0 and status.st_blocks * 512 > _GHOST_BYTES


def _kind_of_socket(process: Process, fd: int) -> str:
    try:
        protocol = os.getxattr(f"{process.folder}/fd/{fd}", "system.sockprotoname").rstrip(b"\0").decode()
    except OSError:
        return ""
    if protocol == "MPTCP":
        return "mptcp"
    if protocol == "AF_VSOCK":
        return "vsock"
    return "" if _FINE_SOCKETS.match(protocol) else "socket-family"


def _info(process: Process, fd: int) -> dict[str, str]:
    return dict(_FDINFO.findall(process.read(f"fdinfo/{fd}")))


def _of_peers(sockets: Sequence[tuple[Process, int, int]], tree: Sequence[Process]) -> Iterator[Finding]:
    """Yield the Unix streams whose other end nobody in the tree holds."""
    known = unix_sockets()
    inside = {socket_inode(link) for process in tree for _, link in process.descriptors()}
    for process, fd, inode in sockets:
        here = known.get(inode)
        if here and here.connected and here.peer and here.peer not in inside:
            there = known.get(here.peer)
            yield _finding(process, "unix-stream-outside", fd, (there.name if there else "") or here.name)


def _of_status(process: Process) -> Iterator[Finding]:
    status = dict(_STATUS.findall(process.read("status")))
    if status.get("TracerPid", "0") != "0":
        yield _finding(process, "traced")
    if status.get("State") == "Z" and len(_threads(process)) > 1:
        yield _finding(process, "main-thread-ended")
    if status.get("Seccomp", "0") != "0" and os.geteuid() != 0:
        yield _finding(process, "seccomp-user")


def _threads(process: Process) -> list[str]:
    try:
        return os.listdir(f"{process.folder}/task")  # noqa: PTH208 -- as above
    except OSError:
        return []


def _of_namespaces(process: Process, root: Process) -> Iterator[Finding]:
    for kind in _NAMESPACES:
        own, home = process.link(f"ns/{kind}"), root.link(f"ns/{kind}")
        if own and home and own != home:
            yield _finding(process, "nested-namespace", path=own)
            return  # one names the sandbox; the others follow


def _of_mappings(process: Process, *, device_open: bool) -> Iterator[Finding]:
    """Yield what mappings show, each file once."""
    paths = set()
    for line in process.read("maps").splitlines():
        words = line.split(maxsplit=5)
        if len(words) == 6:
            paths.add(words[5])
    for path in sorted(paths):
        if path.startswith("/SYSV"):
            yield _finding(process, "sysv-shm")
        elif path in {"anon_inode:[io_uring]", "/secretmem (deleted)"}:
            yield _finding(process, _ANONYMOUS[path])
        elif path.startswith("/dev/") and not _FINE_DEVICES.match(path) and is_device(path):
            yield _finding(process, "device-memory", path=path)
    cuda = sorted(match[1] for path in paths if (match := _CUDA_LIBRARY.search(path)))
    if cuda and not device_open and not any(path.startswith("/dev/nvidia") for path in paths):
        yield _finding(process, "cuda-libraries", path=", ".join(cuda[:3]))
