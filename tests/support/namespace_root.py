"""Run a command as root of a user namespace, with every capability over its processes, SYS_RESOURCE among them.

    python namespace_root.py COMMAND...

Run as root. Root of a container mostly lacks that capability, and this is how it is had all the same. NET_ADMIN is
given up: it would not be worth anything outside of the namespace, and without it ckptrun knows. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_PR_CAPBSET_DROP, _CAP_NET_ADMIN = 24, 12
_USERS = 65536


def command() -> tuple[str, ...]:
    """Return what to put before a command line, for `Lab.prefix`."""
    return (sys.executable, __file__)


def main() -> None:
    me = os.getpid()
    unshared, mapped = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.close(unshared[1])
        if os.read(unshared[0], 1):
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/{me}/{name}").write_text(f"0 0 {_USERS}\n")
            os.write(mapped[1], b"x")
        os._exit(0)
    os.close(mapped[1])
    _check(_LIBC.unshare(_CLONE_NEWUSER | _CLONE_NEWNS))
    os.write(unshared[1], b"x")
    if not os.read(mapped[0], 1):
        sys.exit("the user namespace could not be given users")
    os.waitpid(child, 0)
    _check(_LIBC.prctl(_PR_CAPBSET_DROP, _CAP_NET_ADMIN, 0, 0, 0))
    os.execv(sys.argv[1], sys.argv[1:])


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    main()
