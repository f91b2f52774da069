"""What a worker of a restricted job is before it becomes the job's program: without any capability, for good.

Runs in a forked child: it calls the C library and nothing else.
"""

from __future__ import annotations

import ctypes

_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 23, 24, 38
_CAPABILITIES = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)
_head = (ctypes.c_uint32 * 2)(_CAPABILITIES, 0)
_none = (ctypes.c_uint32 * 6)()


def confine() -> None:
    """Give every capability up, and every way to one: as `Identity.restricted` does inside.

    Raises:
        OSError: the kernel refused.
    """
    cap = 0
    while _libc.prctl(_PR_CAPBSET_READ, cap, 0, 0, 0) >= 0:
        _libc.prctl(_PR_CAPBSET_DROP, cap, 0, 0, 0)  # refused to all but root, whom alone it would matter to
        cap += 1
    if _libc.capset(_head, _none) or _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot be confined")
