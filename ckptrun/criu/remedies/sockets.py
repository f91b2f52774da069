"""Entries about the sockets of a job that is to be dumped. See `table`."""

from __future__ import annotations

from ckptrun.criu.remedies.model import AGAIN, entry

_CLOSE = "close it before a checkpoint"

SOCKETS = (
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
        "unix-relative",
        r"Can't resolve name for socket 0x(?P<hexino>[0-9a-f]+)",
        "{who} has bound a Unix socket{at} by a relative path, which cannot be looked up with the rights of this run",
        "bind it by its whole path, or give ckptrun NET_ADMIN",
        owned=True,
    ),
    entry(
        "unix-in-flight",
        r"Non-empty write queue on an in-flight socket 0x(?P<hexino>[0-9a-f]+)|Dangling connection (?P<ino>\d+)|"
        r"In-flight connection on",
        "{who} has a Unix connection with data on it that nobody has accepted yet{at}",
        "accept it, or wait for the next checkpoint",
        retry=AGAIN,
        owned=True,
    ),
    entry(
        "unix-control-message",
        r"Control messages in queue, not supported|More than 1 SCM is not possible",
        "a message with credentials or descriptors waits in a Unix socket{at} of {who}",
        "read it, or wait for the next checkpoint",
        retry=AGAIN,
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
        retry=AGAIN,
        owned=True,
    ),
    entry(
        "tcp-moving",
        r"libsoccr_save\(\) failed",
        "data moved on a TCP connection{at} of {who} while it was being saved",
        "wait for the next checkpoint",
        retry=AGAIN,
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
        retry=AGAIN,
        owned=True,
    ),
    entry(
        "netlink-unread",
        r"netlink: The socket has data to read",
        "{who} has not read the answer on its netlink socket{at} yet",
        "wait for the next checkpoint",
        retry=AGAIN,
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
)
