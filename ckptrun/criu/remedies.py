"""From CRIU's log to one sentence with a remedy: the one table every message about a failed dump or restore uses.

Match the text, never the line number: lines drift between versions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Remedy:
    """One known cause: the text that betrays it, what it means, what to do."""

    pattern: re.Pattern[str]
    cause: str
    remedy: str


def _entry(pattern: str, cause: str, remedy: str) -> Remedy:
    return Remedy(re.compile(pattern), cause, remedy)


TABLE: tuple[Remedy, ...] = (
    _entry(
        r"Unknown shit 600|send_fds failed|anon_inode:\[io_uring\]",
        "the job uses io_uring, which CRIU cannot save",
        "run it without --allow-io-uring, so that the program falls back",
    ),
    _entry(
        r"Can't dump half of stream unix connection",
        "the job holds a Unix socket connected to a process outside of it",
        "close that connection before a checkpoint, or start the other side inside the job",
    ),
    _entry(
        r"External socket is used",
        "a Unix socket's peer is outside of the job",
        "start the peer inside the job",
    ),
    _entry(
        r"Can't get 1:16 opt",
        "this CRIU is too old for this kernel's TCP sockets",
        "provide CRIU 4.2.1 or newer: ckptrun doctor --fix",
    ),
    _entry(r"In-flight connection", "a connection is waiting to be accepted", "the next checkpoint will do"),
    _entry(
        r"Can't lookup mount=",
        "a file was opened in another mount namespace",
        "let the job open it itself instead of inheriting it",
    ),
    _entry(
        r"Unable to interrupt task: \d+ \(No such process\)",
        "the job ended before it could be stopped",
        "nothing is lost: its exit is reported by itself",
    ),
    _entry(
        r"Unseizable non-zombie .* state t", "a process of the job is being traced", "detach the debugger"
    ),
    _entry(
        r"Unable to interrupt task: .*not permitted|Unseizable",
        "CRIU may not trace a process of the job",
        "give it SYS_PTRACE, or lower kernel.yama.ptrace_scope",
    ),
    _entry(
        r"suspending seccomp failed", "CRIU may not suspend the job's seccomp filter", "give it SYS_ADMIN"
    ),
    _entry(
        r"Can't get rlimit",
        "a process belongs to another user",
        "run ckptrun as that user, or give it SYS_RESOURCE",
    ),
    _entry(r"packetized mode for pipes", "the job has a packet pipe (O_DIRECT)", "use an ordinary pipe"),
    _entry(r"Unknown socket collected \(family", "a socket family CRIU does not know (VSOCK)", "close it"),
    _entry(
        r"Can't dump file \d+ of that type",
        "an open file of a kind CRIU cannot save (a device, userfaultfd, perf event)",
        "close it before a checkpoint",
    ),
    _entry(
        r"handle_device_vma plugin failed|Can't handle non-regular mapping",
        "device memory is mapped",
        "unmap it",
    ),
    _entry(
        r"SysVIPC shmem map", "System V shared memory of the machine", "use multiprocessing.shared_memory"
    ),
    _entry(r"Can't dump nested", "containers run inside the job", "run them outside"),
    _entry(
        r"Unable to get seccomp|PTRACE_SECCOMP", "a seccomp filter cannot be read without root", "run as root"
    ),
    _entry(
        r"has bad size", "a file of the job changed after the checkpoint", "leave the job's files to ckptrun"
    ),
    _entry(r"has bad mode", "a file's permissions changed after the checkpoint", "put them back"),
    _entry(r"Can't open file .* on restore", "a file of the job is gone", "put it back"),
    _entry(
        r"Can't fork for \d+: File exists|Thread pid mismatch",
        "a PID is taken",
        "this is a defect: report it",
    ),
    _entry(
        r"xsave size mismatch|FPU feature required|CPU .* required by image",
        "this machine's CPU lacks what the checkpoint was made with",
        "restore on the same class of machine",
    ),
)

_ERROR = re.compile(r"Error \(.*?\): (.*)")
_HARMLESS = re.compile(
    r"RLIMIT_NOFILE for self|iptables|nft|Unable to get kernel capabilities|(Dump|Restor)ing FAILED"
)


def errors_of(text: str) -> list[str]:
    """Return the log's error lines without their source positions, harmless ones left out."""
    found = [m[1].strip() for m in _ERROR.finditer(text)]
    return [line for line in found if not _HARMLESS.search(line)]


def sentence(log: Path, otherwise: str) -> str:
    """Return the cause and the remedy a log betrays; its last error, or `otherwise`, when it is unknown."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return f"{otherwise} and left no log"
    for entry in TABLE:
        if entry.pattern.search(text):
            return f"{entry.cause}; {entry.remedy}"
    errors = errors_of(text)
    return f"{otherwise}: {errors[-1]}" if errors else f"{otherwise}; its log is {log}"
