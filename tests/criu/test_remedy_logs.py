"""Every entry of the table finds its cause in a log: a captured one (see ``provoking.py``) wherever that can be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptrun.criu import remedies
from ckptrun.criu.remedies.document import markdown
from ckptrun.criu.remedies.model import During

LOGS = Path(__file__).parent / "logs"

FROM_SOURCE = {
    "nvidia-device": "(00.05) Error (criu/files-ext.c:94): Can't dump file 7 of that type [20666] (chr 195:255)",
    "terminal-inherited": "(00.05) Error (criu/tty.c:2281): tty: ctty inheritance detected sid/pgrp 7, "
    "no PTY peer with sid/pgrp needed",
    "shared-mount": "(00.05) Error (criu/mount.c:1093): mnt: Mount 5 /data (master_id: 3 shared_id: 0) has unreachable "
    "sharing. Try --enable-external-masters.",
    "device-memory": "(00.05) Error (criu/proc_parse.c:663): Can't handle non-regular mapping on 1001's map 7f000000",
    "uprobes": "(00.05) Error (criu/proc_parse.c:614): PID 1001 has uprobes vma. Consider using --allow-uprobes.",
    "strange-mapping": "(00.05) Error (criu/proc_parse.c:502): Unknown shit 600 (anon_inode:[something])",
    "little-memory": "(00.05) Error (compel/src/lib/infect.c:900): Can't allocate memory for parasite blob (pid: 1001)",
    "unix-relative": "(00.05) Error (criu/sk-unix.c:322): unix: Can't resolve name for socket 0x21",
    "tcp-moving": "(00.05) Error (criu/sk-tcp.c:147): tcp: libsoccr_save() failed with -6",
    "tcp-old-criu": "(00.05) Error (criu/sockets.c:640): sockets: Can't get 1:16 opt: Operation not supported",
    "socket-protocol": "(00.05) Error (criu/sk-inet.c:137): inet: Unsupported proto 1 for socket 4ecca9",
    "stopped-thread": "(00.05) Error (criu/seize.c:952): Individually stopped threads not supported",
    "pending-trap": "(00.05) Error (compel/src/lib/infect.c:322): Can't dump the 1001 thread with a pending SIGTRAP.",
    "session-outside": "(00.05) Error (criu/cr-dump.c:1681): A session leader of 4711(1001) is outside of its pid "
    "namespace",
    "rseq": "(00.05) Error (criu/cr-dump.c:227): 1001 has rseq but kernel lacks get_rseq_conf feature",
    "tmp-unwritable": "(00.05) Error (criu/kerndat.c:1087): Fail to make dir /tmp/.criu.move_mount_set_group.QjCvEb: "
    "Read-only file system",
    "slow-collect": "(00.05) Error (criu/cr-dump.c:1808): Timeout reached. Try to interrupt: 1",
    "ended": "(00.05) Warn  (compel/src/lib/infect.c:132): Unable to interrupt task: 1001 (No such process)",
    "cuda-pause": "(00.05) Error (cuda_plugin.c:400): cuda_plugin: PAUSE_DEVICES failed with timeout",
    "cuda-checkpoint": "(00.05) Error (cuda_plugin.c:300): cuda_plugin: CHECKPOINT_DEVICES failed with out of memory",
    "file-build": "(00.05)   1001: Error (criu/files-reg.c:2153): File usr/bin/tool has bad build-ID",
    "file-denied": "(00.05)   1001: Error (criu/files-reg.c:2353): Can't open file a on restore: Permission denied",
    "no-space": "(00.05)   1001: Error (criu/files-reg.c:330): Can't write ghost file: No space left on device",
    "socket-path-taken": "(00.05)   1001: Error (criu/sk-unix.c:1651): unix: Can't bind id 0x12 ino 5 addr /run/s: "
    "Address already in use",
    "socket-external": "(00.05) Error (criu/sk-unix.c:1912): unix: External socket found in image. Consider using the "
    "--ext-unix-sk option to allow restoring it.",
    "address-gone": "(00.05)   1001: Error (criu/sk-inet.c:1059): inet: Can't bind inet socket (id 18): Cannot assign "
    "requested address",
    "port-denied": "(00.05)   1001: Error (criu/sk-inet.c:1059): Can't bind inet socket (id 1): Permission denied",
    "interface-gone": "(00.05)   1001: Error (criu/sk-inet.c:1030): inet: couldn't find ifindex for eth1",
    "connection-unreachable": "(00.05)   1001: Error (soccr/soccr.c:529): Can't connect inet socket back: Network is "
    "unreachable",
    "connection-reset": "(00.05)   1001: Error (soccr/soccr.c:819): Can't restore not-sent send queue data (-1), want "
    "(0-5:5:5): Broken pipe",
    "process-limit": "(00.05)   1000: Error (criu/cr-restore.c:1237): Can't fork for 1001: Resource temporarily "
    "unavailable",
    "cpu-lacks": "(00.05) Error (criu/arch/x86/cpu.c:274): cpu: CPU xsave size mismatch (2696/832)",
    "plugin-missing": "(00.05) Error (criu/image.c:198): Missing required plugin: cuda_plugin",
}
"""Entries that cannot be provoked everywhere: lines made from the format strings of CRIU 4.2's source."""

ONLY_IN_PROC = {
    *("seccomp-user", "cuda-libraries"),
    *(
        "zombie-status",
        "orphan-below-subreaper",
        "semaphore-eventfd",
        "thread-clock-timer",
    ),  # provoked in tests/e2e/test_losses.py
    *("sysv-semaphores", "sysv-queue", "unread-watch"),  # in test_sysv.py and test_watches.py there
}


@pytest.mark.parametrize("log", sorted(LOGS.glob("*.log")), ids=lambda path: path.stem)
def test_a_captured_log_betrays_its_cause(log: Path):
    finding = remedies.finding_of(log)
    assert finding is not None
    assert finding.remedy.name == log.stem.split(".")[0]
    assert "{" not in finding.sentence


@pytest.mark.parametrize("name", sorted(FROM_SOURCE))
def test_a_text_of_the_source_betrays_its_cause(name: str):
    finding = remedies.find(FROM_SOURCE[name] + "\n(00.06) Error (criu/cr-dump.c:2128): Dumping FAILED.\n")
    assert finding is not None
    assert finding.remedy.name == name
    assert "{" not in finding.sentence


def test_every_entry_has_a_log_and_none_two_kinds_of_it():
    captured = {path.stem.split(".")[0] for path in LOGS.glob("*.log")}
    named = {remedy.name for remedy in remedies.TABLE}
    assert captured | FROM_SOURCE.keys() | ONLY_IN_PROC == named
    assert not captured & FROM_SOURCE.keys()
    assert {remedy.name for remedy in remedies.TABLE if remedy.log is None} == ONLY_IN_PROC
    assert len(captured) >= 40


HARMLESS = """\
(00.02) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted
(00.03) Error (criu/util.c:1510): Can't wait or bad status: errno=0, status=256
(00.03) Error (criu/net.c:3332): iptables has no mark match: Cannot allocate memory
(00.03) Error (criu/net.c:3308): nft: No space left on device
(00.04) Warn  (criu/config.c:1063): --network-lock will be ignored in restore command
"""


def test_what_successful_runs_complain_of_is_no_cause():
    assert remedies.find(HARMLESS) is None


def test_the_last_cause_counts_and_its_consequences_do_not():
    text = (
        "(00.01) Error (criu/x.c:1): Can't get rlimit 0: Operation not permitted\n"
        "(00.02) Warn  (compel/src/lib/infect.c:132): Unable to interrupt task: 7 (No such process)\n"
        "(00.03) Error (criu/sk-netlink.c:77): netlink: The socket has data to read\n"
        "(00.04) Error (criu/cr-dump.c:1545): Dump files (pid: 1001) failed with -1\n"
    )
    finding = remedies.find(text)
    assert finding is not None
    assert finding.remedy.name == "netlink-unread"


def test_a_task_that_was_at_a_lock_when_another_failed_did_not_wait_for_it():
    waiting = "(00.01)   7: (flock)flag: 2, type: 1, cmd: 2, pid: 7, fd: 3\n"
    finding = remedies.find(waiting)
    assert finding is not None
    assert (finding.remedy.name, finding.pid, finding.fd) == ("lock-held", 7, 3)
    assert remedies.find(waiting + "(00.02)   8: Error (criu/x.c:1): something never seen\n") is None


def test_a_descriptor_of_another_process_is_not_the_culprits():
    text = (
        "(00.01) 1000 fdinfo 2: pos: 0 flags: 2/0\n"
        "(00.03) Error (criu/pipes.c:490): The packetized mode for pipes is not supported yet\n"
        "(00.04) Error (criu/cr-dump.c:1545): Dump files (pid: 1001) failed with -1\n"
    )
    finding = remedies.find(text)
    assert finding is not None
    assert (finding.pid, finding.fd) == (1001, -1)


def test_a_path_is_told_with_its_first_slash_and_without_what_the_kernel_adds():
    size = remedies.find("(00.01)  7: Error (criu/files-reg.c:1): File tmp/a b has bad size 7 (expect 100)\n")
    gone = remedies.find("(00.01) Error (criu/f.c:1): Can't lookup mount=15 for fd=3 path=/x (deleted)\n")
    assert size is not None
    assert gone is not None
    assert (size.path, gone.path) == ("/tmp/a b", "/x")
    assert size.cause.startswith("/tmp/a b has another size")


def test_a_retry_never_carries_a_flag_that_loses_state():
    flags = {
        flag for remedy in remedies.TABLE if remedy.retry for flag in remedy.retry.flags if flag[0] == "-"
    }
    assert flags == {"--ghost-limit", "--skip-file-rwx-check"}


def test_only_what_stops_a_dump_is_refused_beforehand():
    assert all(remedy.during is During.DUMP for remedy in remedies.TABLE if remedy.refused)


def test_the_page_of_remedies_is_the_tables():
    page = (Path(__file__).parents[2] / "docs" / "remedies.md").read_text()
    again = "make it again: python -m ckptrun.criu.remedies.document > docs/remedies.md"
    assert page == markdown().rstrip("\n") + "\n", again
