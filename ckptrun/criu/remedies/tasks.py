"""Entries about the processes of a job that is to be dumped, and about what CRIU may do to them. See `table`."""

from __future__ import annotations

from ckptrun.criu.remedies.model import AGAIN, entry

TASKS = (
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
        retry=AGAIN,
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
        r"Unable to interrupt task: (?P<pid>\d+) \((?:Operation not permitted|Permission denied)\)|"
        r"Unseizable non-zombie (?P<pid2>\d+)",
        "CRIU may not stop {who}",
        "give ckptrun SYS_PTRACE, lower kernel.yama.ptrace_scope, or run it as the same user; where AppArmor or "
        "SELinux is on, let it (in Kubernetes: appArmorProfile.type: Unconfined, seLinuxOptions.type: spc_t)",
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
        "let the whole job be one user and run ckptrun as that user, or give it SYS_RESOURCE",
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
        retry=AGAIN,
    ),
    entry(
        "cuda-checkpoint",
        r"CHECKPOINT_DEVICES failed with",
        "the GPU's memory could not be moved into the machine's",
        "free as much of the machine's memory as the job uses on the GPU",
    ),
    entry(
        "tmp-unwritable",
        r"Fail to make dir /tmp/\.criu\S*: ",
        "CRIU cannot make a folder in /tmp, as it does each time it starts",
        "make /tmp writable, or mount a tmpfs there",
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
    entry(
        "zombie-status",
        None,
        "{who} has ended with an exit code over 127 that its parent has not asked for; CRIU would restore another",
        "wait for ended children; the checkpoint after that will do",
    ),
    entry(
        "orphan-below-subreaper",
        None,
        "{who} lives in a session whose leader has ended, below a child-subreaper of the job's own, which CRIU cannot "
        "restore",
        "start such helpers without setsid, or without a subreaper between them and the job",
    ),
    entry(
        "semaphore-eventfd",
        None,
        "{who} holds an eventfd in semaphore mode{at}, which CRIU restores as a plain one",
        "use a pipe or an ordinary eventfd",
    ),
    entry(
        "thread-clock-timer",
        None,
        "{who} has a timer on the processor time of a single thread, which CRIU gives to the first one",
        "use a timer on the process's (CLOCK_PROCESS_CPUTIME_ID), or delete it before a checkpoint",
    ),
    entry(
        "unread-watch",
        None,
        "{who} has not read all events of an inotify or fanotify descriptor{at} yet, and CRIU would drop them",
        "let it read on, or close what it does not read; the checkpoint after that will do",
        retry=AGAIN,
    ),
)
