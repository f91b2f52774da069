"""The first process of a test's Slurm: furnishes its namespaces, and reaps.

    unshare --mount --uts --pid --fork --mount-proc python slurm_node.py NODE USER UID HOME

Run as root. Says "ready" and lives until it is killed; all in its PID namespace dies with it. Standard library
only.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import as_user


def main() -> None:
    node, user, uid, home = sys.argv[1:]
    as_user.open_ways()
    as_user.bind_copy(
        Path("/etc/passwd"), Path(home).parent / "passwd", f"{user}:x:{uid}:{uid}::{home}:/bin/bash\n"
    )
    as_user.bind_copy(Path("/etc/group"), Path(home).parent / "group", f"{user}:x:{uid}:\n")
    Path("/proc/sys/kernel/hostname").write_text(node, encoding="ascii")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # reaps
    print("ready", flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
