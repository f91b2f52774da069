"""Entries about a checkpoint that cannot be restored. See `table`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptrun.criu.remedies.model import During, Remedy, Retry, entry

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROLL_BACK = "put it back, or restore on a machine that has it"
_DEFECT = "report it, with the log: ckptrun should have prevented this"


def _entries() -> Iterator[Remedy]:
    yield from _files()
    yield from _sockets()
    yield from _machine()


def _of(name: str, log: str, cause: str, remedy: str, *, retry: Retry | None = None) -> Remedy:
    return entry(name, log, cause, remedy, during=During.RESTORE, retry=retry)


def _files() -> Iterator[Remedy]:
    yield _of(
        "file-size",
        r"File (?P<rel>.*) has bad size \d+",
        "{file} has another size than at the checkpoint",
        "leave the job's files to ckptrun: nobody else may write them",
    )
    yield _of(
        "file-mode",
        r"File (?P<rel>.*) has bad mode",
        "{file} has other permissions than at the checkpoint",
        "put them back with chmod",
        retry=Retry(("--skip-file-rwx-check",)),
    )
    yield _of(
        "file-build",
        r"File (?P<rel>.*) has bad build-ID",
        "{file} is another build of the program or library than at the checkpoint",
        "install the old one, or start anew with --fresh",
    )
    yield _of(
        "program-changed",
        r"File (?P<rel>.*) has bad size \d+ .*\n.*Can't fixup VMA's fd",
        "{file}, which is mapped by the job (a program, a library), has changed since the checkpoint",
        "install the version that the job was started with, or start anew with --fresh",
    )
    yield _of(
        "program-gone",
        r"Can't open file (?P<rel>.*) on restore: .*(?:\n.*){1,2}Can't fixup VMA's fd",
        "{file}, which was mapped by the job (a program, a library), cannot be opened",
        "install it again",
    )
    yield _of(
        "folder-gone",
        r"Can't open file (?P<rel>.*) on restore: .*(?:\n.*){1,2}Can't open (?:cwd|root)",
        "the job's working directory {file} is gone",
        "make it again",
    )
    yield _of(
        "file-denied",
        r"Can't open file (?P<rel>.*) on restore: (?:Permission denied|Operation not permitted)",
        "{file} may not be opened any more",
        "put its owner and permissions back",
    )
    yield _of(
        "file-replaced",
        r"Can't open file (?P<rel>.*) on restore: (?:Is|Not) a directory",
        "{file} has become something else than it was at the checkpoint",
        "move away what is there now",
    )
    yield _of(
        "file-gone", r"Can't open file (?P<rel>.*) on restore: ", "{file} cannot be opened again", _ROLL_BACK
    )
    yield _of(
        "fifo-gone",
        r"Can't open fake fifo \S+ \[(?P<rel>.*)\]: No such file",
        "the named pipe {file} is gone",
        "make it again: mkfifo",
    )
    yield _of(
        "link-remap-gone",
        r"Can't link \S*link_remap\.\d+ -> (?P<rel>.*): ",
        "the content of {file}, which had been removed while it was open, has not come along",
        _DEFECT,
    )
    yield _of(
        "watched-gone",
        r"fsnotify: Unable to open (?P<path>.*): No such file",
        "{file}, which the job watches (inotify), is gone",
        _ROLL_BACK,
    )
    yield _of(
        "lock-held",
        r"(?m:^)\((?:flock|posix|ofd)\)flag: .* pid: (?P<pid>-?\d+), fd: (?P<fd>\d+)",
        "another process holds a lock that {who} held{at}",
        "end that process; lslocks names it",
    )
    yield _of(
        "no-space",
        r"No space left on device|Disk quota exceeded",
        "the disk is full: the job's files could not be made again",
        "free some space and run the same command again",
    )
    yield _of(
        "images-damaged",
        r"Head magic doesn't match for|[Ii]mages? corrupt|corrupted image",
        "the checkpoint's images do not parse",
        "restore an older checkpoint: ckptrun restore NAME --at ID",
    )


def _sockets() -> Iterator[Remedy]:
    yield _of(
        "socket-folder-gone",
        r"unix: Can't bind id \S+ ino \d+ addr (?P<path>.*): No such file",
        "the folder of the job's Unix socket {file} is gone",
        "make the folder again, or let the job put its sockets into TMPDIR",
    )
    yield _of(
        "socket-path-taken",
        r"unix: Can't bind id \S+ ino \d+ addr (?P<path>.*): Address already in use",
        "another process has taken the path of the job's Unix socket {file}",
        "end that process",
    )
    yield _of(
        "socket-peer-gone",
        r"unix: Can't connect \d+ socket: ",
        "the process outside of the job that a Unix datagram socket of {who} sends to is gone",
        "start it before the restore",
    )
    yield _of(
        "socket-external",
        r"External socket found in image",
        "the checkpoint holds a Unix socket whose peer is outside of the job",
        _DEFECT,
    )
    yield _of(
        "port-taken",
        r"Can't bind inet socket(?: back)?(?: \(id \d+\))?: Address already in use",
        "another process has taken a port of {who}",
        "end that process; ss -tulpn names it",
    )
    yield _of(
        "address-gone",
        r"Can't bind inet socket(?: back)?(?: \(id \d+\))?: Cannot assign requested address",
        "this machine lacks an address that a socket of {who} is bound to",
        "bind to 0.0.0.0 or 127.0.0.1, or give this machine the address",
    )
    yield _of(
        "port-denied",
        r"Can't bind inet socket(?: back)?(?: \(id \d+\))?: Permission denied",
        "a port of {who} may not be opened by this user",
        "use a port above 1023, or run ckptrun with sudo",
    )
    yield _of(
        "interface-gone",
        r"couldn't find ifindex for (?P<path>\S+)",
        "this machine has no network interface {file}, to which a socket of the job is bound",
        "bind to an address instead",
    )
    yield _of(
        "connection-unreachable",
        r"Can't connect inet socket back",
        "a TCP connection of {who} cannot be continued: the address is another one",
        "let its client connect again",
    )
    yield _of(
        "connection-reset",
        r"Can't restore (?:not-sent )?(?:send|recv) queue data",
        "the kernel reset a TCP connection of {who} while it was being restored",
        "try again",
    )
    yield _of(
        "connection-flags",
        r"Need to set the --tcp-close|Connected TCP socket in image",
        "the checkpoint's TCP connections were saved in another way than they are restored",
        _DEFECT,
    )


def _machine() -> Iterator[Remedy]:
    yield _of(
        "pid-taken",
        r"Can't fork for (?P<pid>\d+): File exists|Thread pid mismatch",
        "the PID of {who} is taken",
        _DEFECT,
    )
    yield _of(
        "process-limit",
        r"Can't fork for (?P<pid>\d+): Resource temporarily unavailable",
        "this machine allows no more processes than there are: {who} could not be made",
        "raise the limit (ulimit -u, pids.max)",
    )
    yield _of(
        "own-namespace",
        r"Can't restore sub-task in NS",
        "a process of the job lived in namespaces of its own, as containers and sandboxes make them",
        "run it outside of the job, or without its sandbox",
    )
    yield _of(
        "pts-taken",
        r"Unable to open (?P<rel>\S+) with specified index \d+",
        "the number of a terminal that {who} made is taken",
        _DEFECT,
    )
    yield _of(
        "cpu-lacks",
        r"CPU xsave (?:max )?size mismatch|FPU feature required by image|CPU xfeatures has unsupported bits|"
        r"CPU (?:instruction )?capabilities do not match",
        "this machine's CPU lacks what the checkpoint was made with",
        "restore on the same class of machine",
    )
    yield _of(
        "architecture",
        r"Core march mismatch",
        "the checkpoint was made on another architecture",
        "restore on a machine of that one",
    )
    yield _of(
        "clock",
        r"Unable to set a (?:monotonic|boottime) clock offset",
        "the job's clocks may not be set",
        "give ckptrun's container CAP_SYS_TIME",
    )
    yield _of(
        "plugin-missing",
        r"Missing required plugin: (?P<path>\S+)",
        "the checkpoint needs CRIU's plugin {file}, which this CRIU lacks",
        "install it",
    )
    yield _of(
        "uprobes-image",
        r"Dumped with --allow-uprobes",
        "the checkpoint was made while the job was watched by uprobes",
        "restore an older checkpoint",
    )


RESTORING = tuple(_entries())
