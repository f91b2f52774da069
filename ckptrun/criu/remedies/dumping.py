"""The table's first half: what CRIU says when a job cannot be checkpointed, and what /proc shows of it beforehand.

Texts are those of CRIU 4.2's source: match the words, never the line number, which drifts. Where two entries match, the
one that the log ends with counts (see `logs`), so an entry here needs no regard for its neighbours, except that of two
matching at the same place the first one wins.
"""

from __future__ import annotations

from ckptrun.criu.remedies.model import Retry, entry

_AGAIN = Retry(pause=0.2)
"""For what passes by itself: a message that is read, a connection that is accepted."""
_GHOSTS = Retry(("--ghost-limit", "1000G"))
"""Staging and --max-freeze bound it all the same."""

_CLOSE = "close it before a checkpoint"

DUMPING = (
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
        "{who} watches a file{at} on a filesystem that does not tell CRIU its name (an overlay)",
        "watch one on another filesystem",
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
        r"ctty inheritance detected",
        "{who} holds /dev/tty of a terminal whose other end is outside of the job",
        "start ckptrun itself on the terminal",
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
    # Sockets.
    entry(
        "unix-stream-outside",
        r"Can't dump half of stream unix connection\. name: .*?; peer name: (?:\(null\)|(?P<path>.*))",
        "{who} holds a Unix socket connected to a process outside of the job{at}",
        "close that connection before a checkpoint, or start the other side inside the job",
    ),
    entry(
        "unix-datagram-outside",
        r"External socket is used",
        "{who} holds a Unix datagram socket whose peer is outside of the job",
        "start the peer inside the job",
    ),
    entry(
        "unix-nameless-outside",
        r"Can't dump name-less external socket",
        "{who} holds one half of a socket pair whose other half is outside of the job",
        "close it before a checkpoint",
    ),
    entry(
        "unix-in-flight",
        r"Non-empty write queue on an in-flight socket 0x(?P<hexino>[0-9a-f]+)|Dangling connection (?P<ino>\d+)|"
        r"In-flight connection on",
        "{who} has a Unix connection with data on it that nobody has accepted yet{at}",
        "accept it, or wait for the next checkpoint",
        retry=_AGAIN,
        owned=True,
    ),
    entry(
        "unix-control-message",
        r"Control messages in queue, not supported|More than 1 SCM is not possible",
        "a message with credentials or descriptors waits in a Unix socket{at} of {who}",
        "read it, or wait for the next checkpoint",
        retry=_AGAIN,
        owned=True,
    ),
    entry(
        "tcp-established",
        r"Connected TCP socket, consider using",
        "{who} has an open TCP connection{at}, which cannot be saved with the rights of this run",
        "close it before a checkpoint, or give ckptrun NET_ADMIN",
        owned=True,
    ),
    entry(
        "tcp-in-flight",
        r"In-flight connection \(l\) for (?P<hexino>[0-9a-f]+)",
        "{who} listens{at}, and a connection waits to be accepted",
        "wait for the next checkpoint",
        retry=_AGAIN,
        owned=True,
    ),
    entry(
        "tcp-old-criu",
        r"Can't get 1:16 opt",
        "this CRIU is too old for this kernel's TCP sockets",
        "provide CRIU 4.2.1 or newer: ckptrun doctor --fix",
    ),
    entry(
        "mptcp",
        r"Unsupported proto 262 for socket (?P<hexino>[0-9a-f]+)",
        "{who} has a Multipath TCP socket{at}, which CRIU cannot save",
        "switch it off; for Go programs: GODEBUG=multipathtcp=0",
        owned=True,
    ),
    entry(
        "socket-protocol",
        r"Unsupported proto \d+ for socket (?P<hexino>[0-9a-f]+)",
        "{who} has a socket{at} of a protocol that CRIU cannot save",
        _CLOSE,
        owned=True,
    ),
    entry(
        "vsock",
        r"Unknown socket collected \(family 40\)",
        "{who} has a VSOCK socket{at}, which CRIU cannot save",
        _CLOSE,
        owned=True,
    ),
    entry(
        "socket-family",
        r"Unknown socket collected \(family \d+\)",
        "{who} has a socket{at} of a family that CRIU cannot save",
        _CLOSE,
        owned=True,
    ),
    entry(
        "udp-corked",
        r"Can't dump corked dgram socket (?P<hexino>[0-9a-f]+)",
        "{who} has a UDP socket{at} with half a message in it (UDP_CORK)",
        "send it, or wait for the next checkpoint",
        retry=_AGAIN,
        owned=True,
    ),
    entry(
        "netlink-unread",
        r"netlink: The socket has data to read",
        "{who} has not read the answer on its netlink socket{at} yet",
        "wait for the next checkpoint",
        retry=_AGAIN,
        owned=True,
    ),
    entry(
        "netlink-groups",
        r"The netlink socket 0x[0-9a-f]+ (?:has more than 32 groups|is bound to groups but not to portid)",
        "{who} listens to netlink groups{at} in a way that CRIU cannot save",
        _CLOSE,
        owned=True,
    ),
    entry(
        "network-lock",
        r"Locking network failed|Failed to lock TCP connection",
        "CRIU could not hold the job's network traffic back: no iptables or nft that works",
        "install iptables or nftables, and give ckptrun NET_ADMIN",
    ),
    # Processes.
    entry(
        "traced",
        r"Unseizable non-zombie (?P<pid>\d+) found, state t",
        "{who} is being traced",
        "detach the debugger or strace",
    ),
    entry(
        "main-thread-ended",
        r"Zombies with threads are not supported|Zombie thread not supported|zombie \d+ .*found while seizing",
        "the main thread of {who} has ended while others run on",
        "let the main thread wait for them",
    ),
    entry(
        "stopped-thread",
        r"Individually stopped threads not supported",
        "single threads of a process of the job are stopped",
        "detach the debugger, or let them run",
    ),
    entry(
        "pending-trap",
        r"Can't dump the (?P<pid>\d+) thread with a pending SIGTRAP",
        "{who} has a breakpoint's signal pending",
        "detach the debugger",
        retry=_AGAIN,
    ),
    entry(
        "nested-namespace",
        r"Can't dump nested \w+ namespace for (?P<pid>\d+)",
        "{who} lives in namespaces of its own{at}, as containers and sandboxes make them",
        "run it outside of the job, or without its sandbox",
        refused=True,
    ),
    entry(
        "session-outside",
        r"A session leader of (?:zombie process )?(?P<pid>\d+)\(\d+\) is outside of its pid namespace",
        "{who} belongs to a session whose leader is outside of the job",
        "start it with setsid",
    ),
    entry(
        "root-no-session",
        r"The root process \d+ is not a session leader",
        "the tree's first process leads no session",
        "start it with setsid",
    ),
    entry(
        "criu-inside",
        r"The criu itself is within dumped tree",
        "ckptrun is itself part of the tree that is to be dumped",
        "start the job by ckptrun, not ckptrun by the job",
    ),
    entry(
        "rseq",
        r"(?P<pid>\d+) has rseq but kernel lacks get_rseq_conf",
        "{who} uses restartable sequences, which this kernel cannot save",
        "use Linux 5.13 or newer, or start it with GLIBC_TUNABLES=glibc.pthread.rseq=0",
    ),
    entry(
        "slow-collect",
        r"Timeout reached\. Try to interrupt",
        "the job's processes could not all be stopped in time",
        "try again when the machine is less busy",
    ),
    entry(
        "ended",
        r"Unable to interrupt task: \d+ \(No such process\)|A root task is dead",
        "the job ended before it could be stopped",
        "see how it ended: nothing is lost by this",
    ),
    # Rights and features.
    entry(
        "trace-denied",
        r"Unable to interrupt task: (?P<pid>\d+) \(Operation not permitted\)|Unseizable non-zombie (?P<pid2>\d+)",
        "CRIU may not stop {who}",
        "give ckptrun SYS_PTRACE, lower kernel.yama.ptrace_scope, or run it as the same user",
    ),
    entry(
        "seccomp-suspend",
        r"suspending seccomp failed",
        "CRIU may not suspend the seccomp filter of {who}",
        "give ckptrun SYS_ADMIN and no seccomp filter of its own (seccomp=unconfined)",
    ),
    entry(
        "foreign-limits",
        r"Can't get rlimit \d+",
        "{who} belongs to another user, whose limits may not be read",
        "run ckptrun as that user, or give it SYS_RESOURCE",
    ),
    entry(
        "dirty-tracking",
        r"Tracking memory is not available",
        "this kernel does not track changed memory",
        "dump all of it: leave out --track-mem and pre-dump",
    ),
    entry(
        "cuda-pause",
        r"PAUSE_DEVICES failed with",
        "the GPU did not come to rest in time",
        "wait for the next checkpoint; take one between long kernels",
        retry=_AGAIN,
    ),
    entry(
        "cuda-checkpoint",
        r"CHECKPOINT_DEVICES failed with",
        "the GPU's memory could not be moved into the machine's",
        "free as much of the machine's memory as the job uses on the GPU",
    ),
    # What only /proc shows.
    entry(
        "seccomp-user",
        None,
        "{who} has a seccomp filter, which an ordinary user's CRIU cannot read",
        "run ckptrun with sudo",
    ),
    entry(
        "cuda-libraries",
        None,
        "{who} has CUDA libraries mapped{at}, but no GPU device in use",
        "nothing to do: they are saved like any library",
    ),
)
