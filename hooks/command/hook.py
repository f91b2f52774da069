"""The hook `command`: runs the user's shell line for the phase. See README.md beside this file.

The line is passed to ``/bin/sh -c`` as it is: nothing of the context ever becomes part of it. Context and
result are files without a name, reached through this process, so that nothing is left behind when it is killed.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_ME = os.getpid()


def main() -> int:
    """Run the line of this phase and return its exit code; 128 + N when signal N ended it."""
    raw = sys.stdin.buffer.read()
    context = json.loads(raw)
    phase = context["phase"]
    line = context.get("options", {}).get(phase)
    if line is None:
        return 0
    if context.get("dry_run"):
        print(json.dumps({"outcome": "ok", "reason": f"would run: {line}"}))
        return 0
    given, result = _nameless("context", raw), _nameless("result")
    environment = {
        **os.environ,
        "CKPTRUN_PHASE": phase,
        "CKPTRUN_CONTEXT": f"/proc/{os.getpid()}/fd/{given}",
        "CKPTRUN_RESULT": f"/proc/{os.getpid()}/fd/{result}",
    }
    if (messages := context.get("messages")) is not None:
        lines = "".join(json.dumps(message) + "\n" for message in messages)
        environment["CKPTRUN_MESSAGES"] = f"/proc/{os.getpid()}/fd/{_nameless('messages', lines.encode())}"
    ended = subprocess.run(
        ["/bin/sh", "-c", line],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno(),  # what a line prints is for people; ckptrun keeps it in `events`
        env=environment,
        check=False,
        preexec_fn=_die_with_me,
    )
    code = ended.returncode if ended.returncode >= 0 else 128 - ended.returncode
    if code == 0:
        sys.stdout.write(_content(result))
    return code  # the reason of a failure is the line's own last word


def _die_with_me() -> None:
    """Have the line end with this hook, as this hook does with ckptrun: the next run's must not meet it."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != _ME:
        os._exit(70)


def _nameless(name: str, content: bytes = b"") -> int:
    descriptor = os.memfd_create(f"ckptrun-{name}")
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(content)
    return descriptor


def _content(descriptor: int) -> str:
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        return file.read().decode("utf-8", "replace")


if __name__ == "__main__":
    sys.exit(main())
