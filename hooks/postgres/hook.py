"""The postgres hook: what the job wrote to declared tables after a checkpoint is undone when that is restored.

One program, run once per phase with a context on standard input; docs/design/hooks.md is the contract, the README
beside this says what is promised. `undoing` is the mode that undoes every change, `marking` the ones that know
rows by a column that grows.
"""

from __future__ import annotations

from ckptrun.hooking.program import Answer, Context, HookFailedError, NotInstalledError, serve

PHASES = ("pre-checkpoint", "post-checkpoint", "post-commit", "pre-restore", "on-exit")


def _phase(context: Context) -> Answer:
    try:
        from phases import run  # noqa: PLC0415 - psycopg is an extra
    except ModuleNotFoundError as error:
        if error.name != "psycopg":
            raise
        raise NotInstalledError("psycopg", "postgres") from None
    except ImportError as error:  # psycopg without its libpq
        reason = str(error).strip().splitlines()[0]
        raise HookFailedError(f"psycopg does not load: {reason}; pip install 'ckptrun[postgres]'") from None
    return run(context)


if __name__ == "__main__":
    serve(dict.fromkeys(PHASES, _phase))
