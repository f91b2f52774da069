"""The hook `command`: runs the user's shell line for the phase. See README.md beside this file.

The line is passed to ``/bin/sh -c`` as it is: nothing of the context ever becomes part of it. Context and
result are files without a name, reached through this process, so that nothing is left behind when it is killed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys


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
    given, result = _nameless("context"), _nameless("result")
    os.write(given, raw)
    environment = {
        **os.environ,
        "CKPTRUN_PHASE": phase,
        "CKPTRUN_CONTEXT": f"/proc/{os.getpid()}/fd/{given}",
        "CKPTRUN_RESULT": f"/proc/{os.getpid()}/fd/{result}",
    }
    ended = subprocess.run(
        ["/bin/sh", "-c", line],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno(),  # what a line prints is for people; ckptrun keeps it in `events`
        env=environment,
        check=False,
    )
    code = ended.returncode if ended.returncode >= 0 else 128 - ended.returncode
    if code == 0:
        sys.stdout.write(_content(result))
    return code  # the reason of a failure is the line's own last word


def _nameless(name: str) -> int:
    return os.memfd_create(f"ckptrun-{name}")


def _content(descriptor: int) -> str:
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        return file.read().decode("utf-8", "replace")


if __name__ == "__main__":
    sys.exit(main())
