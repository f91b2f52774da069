"""Entries about what a process holds, sockets left out: descriptors, files and mounts, memory. See `table`."""

from __future__ import annotations

from ckptrun.criu.remedies.model import Retry, entry

_GHOSTS = Retry(("--ghost-limit", "1000G"))
"""Staging and --max-freeze bound it all the same."""

_CLOSE = "close it before a checkpoint"

DESCRIPTORS = (
    # Descriptors that CRIU cannot save.
    entry(
        "io-uring",
        r"send_fds failed \(-22\)|anon_inode:\[io_uring\]",
        "{who} holds an io_uring ring{at}, which CRIU cannot save",
        "run it without --allow-io-uring, so that the program falls back (as an ordinary user: with sudo)",
        refused=True,
    ),
    entry(
        "userfaultfd",
        r"Can't dump file (?P<fd>\d+) of that type .*anon_inode:\[userfaultfd\]",
        "{who} holds a userfaultfd{at}, which CRIU cannot save",
        "switch off what handles its page faults (live migration, a custom memory manager)",
        owned=True,
        refused=True,
    ),
    entry(
        "perf-event",
        r"Can't dump file (?P<fd>\d+) of that type .*anon_inode:\[perf_event\]|"
        r"Unknown shit \d+ \(anon_inode:\[perf_event\]",
        "{who} holds a perf event{at}, which CRIU cannot save",
        "run it without its profiler or hardware counters",
        owned=True,
        refused=True,
    ),
    entry(
        "bpf",
        r"Can't dump file (?P<fd>\d+) of that type .*anon_inode:.?bpf|dumping BPF map type",
        "{who} holds a BPF map or program{at}, which CRIU cannot save",
        _CLOSE + ", or load it from a process outside of the job",
        owned=True,
    ),
    entry(
        "landlock",
        r"Can't dump file (?P<fd>\d+) of that type .*anon_inode:\[landlock",
        "{who} holds a Landlock ruleset{at}, which CRIU cannot save",
        "close it once it is in force",
        owned=True,
    ),
    entry(
        "nvidia-device",
        r"Can't dump file (?P<fd>\d+) of that type .*\(chr 195:\d+\)",
        "{who} has an NVIDIA GPU open{at}, which CRIU cannot save by itself",
        "use the cuda hook, or run the job on the CPU",
        owned=True,
    ),
    entry(
        "fuse",
        r"Can't dump file (?P<fd>\d+) of that type .*\(chr 10:229\)",
        "{who} serves a FUSE filesystem{at}",
        "mount it outside of the job, before the job starts",
        owned=True,
    ),
    entry(
        "device",
        r"Can't dump file (?P<fd>\d+) of that type .*\((?:chr|blk) \d+:\d+\)",
        "{who} has a device open{at} that CRIU cannot save",
        _CLOSE,
        owned=True,
    ),
    entry(
        "special-file",
        r"Can't dump file (?P<fd>\d+) of that type",
        "{who} holds a file of a kind that CRIU cannot save{at}",
        _CLOSE,
        owned=True,
    ),
    entry(
        "tun",
        r"Net namespace is required to dump tun link",
        "{who} holds a TUN or TAP device{at}",
        "let a process outside of the job carry the traffic",
        owned=True,
    ),
    entry(
        "packet-pipe",
        r"The packetized mode for pipes is not supported",
        "{who} holds a packet pipe{at}, opened with O_DIRECT, which CRIU cannot save",
        "use an ordinary pipe",
        owned=True,
    ),
    entry(
        "pidfd-outside",
        r"pidfd pid -?\d+ is not a part of process tree",
        "{who} holds a pidfd of a process outside of the job{at}",
        _CLOSE,
        owned=True,
    ),
    entry(
        "pidfd-thread",
        r"PIDFD_THREAD flag is currently not supported",
        "{who} holds a pidfd of a thread{at}, which CRIU cannot save",
        _CLOSE,
        owned=True,
    ),
    entry(
        "overlay-watch",
        r"Can't dump that handle|Can't find suitable path for handle",
        "{who} watches a file{at} whose name CRIU cannot learn: it is on an overlay, or ckptrun is an ordinary user's",
        "watch one on another filesystem, or in TMPDIR; as an ordinary user, run ckptrun with sudo",
        owned=True,
    ),
    # Files and mounts.
    entry(
        "memfd-secret",
        r"Unknown shit \d+ \(/secretmem|Can't lookup mount=\d+ for fd=(?P<fd>-?\d+) path=/secretmem",
        "{who} holds secret memory{at} from memfd_secret, which nobody but the process can read",
        "switch it off (in OpenSSL and GnuPG it is an option)",
        owned=True,
        refused=True,
    ),
    entry(
        "terminal-outside",
        r"Found dangling tty|slave peer index \d+ without|"
        r"Can't lookup mount=\d+ for fd=(?P<fd>-?\d+) path=(?P<path>/dev/(?:pts/\d+|tty\S*))",
        "{who} holds a terminal that belongs to a process outside of the job{at}",
        "let ckptrun give it one: start ckptrun itself on the terminal",
    ),
    entry(
        "terminal-inherited",
        r"ctty inheritance detected(?:.*ctty pid_real (?P<pid>\d+))?",
        "{who} holds /dev/tty{at}, which CRIU gives back only to session leaders that have the terminal as a stream",
        "let it close /dev/tty once it has asked, or use the standard streams",
    ),
    entry(
        "other-mount",
        r"Can't lookup mount=\d+ for fd=(?P<fd>-?\d+) path=(?P<path>.*)",
        "{who} holds a file{at} that was opened in another mount namespace, or whose mount is gone",
        "let the job open it itself, below a mount that stays",
        owned=True,
    ),
    entry(
        "overmounted",
        r"Open files on overmounted mounts.* fd=(?P<fd>-?\d+) path=(?P<path>.*)|"
        r"Can't link remap to (?P<rel>.*): Invalid cross-device link",
        "{who} holds a file{at} over which something is mounted",
        "unmount that, or mount it before the job starts",
        owned=True,
    ),
    entry(
        "link-remap",
        r"Can't create link remap for (?P<path>.*?)\. Use",
        "{who} holds a file{at} whose name is removed, though it has others",
        "keep a name while it is open",
        owned=True,
    ),
    entry(
        "ghost-limit",
        r"Can't dump ghost file (?P<path>.*) of \d+ size, increase limit",
        "{who} holds a large file{at} that is removed, so that its content must travel with the checkpoint",
        "let it keep its name, in TMPDIR",
        retry=_GHOSTS,
        owned=True,
    ),
    entry(
        "file-locks",
        r"Some file locks are hold by dumping tasks",
        "{who} holds a lock on a file",
        "release it before a checkpoint",
    ),
    entry(
        "shared-mount",
        r"has unreachable sharing",
        "a mount of the job shares its changes with mounts outside of it",
        "make it private before the job starts: mount --make-rprivate",
    ),
    # Memory.
    entry(
        "sysv-shm",
        r"Task (?P<pid>\d+) with SysVIPC shmem map",
        "{who} uses System V shared memory{at}, which belongs to the whole machine",
        "use multiprocessing.shared_memory or mmap",
    ),
    entry(
        "sysv-semaphores",
        None,
        "{who} uses System V semaphores{at}, which belong to the whole machine and are not saved",
        "use those of multiprocessing or POSIX (sem_open), and remove these before a checkpoint",
    ),
    entry(
        "sysv-queue",
        None,
        "{who} uses a System V message queue{at}, which belongs to the whole machine and is not saved",
        "use a pipe, a Unix socket or multiprocessing.Queue, and remove the queue before a checkpoint",
    ),
    entry(
        "device-memory",
        r"handle_device_vma plugin failed|Can't handle non-regular mapping on (?P<pid>\d+)'s map",
        "{who} has the memory of a device mapped{at}",
        "unmap it before a checkpoint; for a GPU, use the cuda hook",
    ),
    entry(
        "uprobes",
        r"PID (?P<pid>\d+) has uprobes vma",
        "{who} is watched by uprobes (a tracing tool)",
        "end the tracing",
    ),
    entry(
        "strange-mapping",
        r"Unknown shit \d+ \((?P<path>.*)\)",
        "{who} has something mapped that CRIU cannot save{at}",
        "unmap it before a checkpoint",
    ),
    entry(
        "little-memory",
        r"Can't allocate memory for parasite blob|Cannot allocate memory",
        "memory ran out during the checkpoint",
        "raise the memory limit, or lower --staging",
    ),
)
