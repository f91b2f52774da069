"""The redis hook: streams, lists and keys that the job writes go back with it when a checkpoint is restored.

One program, run once per phase with a context on standard input; docs/design/hooks.md is the contract, the README
beside this says what is promised.
"""

from __future__ import annotations

from ckptrun.hooking.program import Answer, Context, NotInstalledError, serve

PHASES = ("pre-checkpoint", "post-checkpoint", "post-commit", "pre-restore", "on-exit")


def _phase(context: Context) -> Answer:
    try:
        from phases import run  # noqa: PLC0415 - redis is an extra
    except ModuleNotFoundError as error:
        if error.name != "redis":
            raise
        raise NotInstalledError("redis", "redis") from None
    return run(context)


if __name__ == "__main__":
    serve(dict.fromkeys(PHASES, _phase))
