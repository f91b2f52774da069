"""The program's entry: route the words, run the command, turn every outcome into an exit code and one line.

What commands do is in ``ckptrun.app``.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from ckptrun import __version__
from ckptrun.cli.lazily import LazyGroup
from ckptrun.cli.routing import RUN, route
from ckptrun.errors import CkptrunError, UsageError
from ckptrun.settings.sources import NOT_BUILT

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    RUN: ("run", "Run a command; resume it if it was interrupted. The default."),
    "ls": ("listing", "List lineages."),
    "show": ("listing", "Show a lineage and its checkpoints."),
    "status": ("live", "Show how a live run is doing."),
    "checkpoint": ("live", "Ask a live run for a checkpoint."),
    "stop": ("live", "Checkpoint a live run, then stop it."),
    "restore": ("run", "Run again from a checkpoint of choice."),
    "files": ("listing", "List a checkpoint's files, and what rollbacks set aside."),
    "verify": ("listing", "Read every chunk of the checkpoints back."),
    "events": ("listing", "Tell what happened, one JSON object a line."),
    "effects": ("effects", "List what a lineage has done to the world outside."),
    "hooks": ("hooks", "List hooks, or try one without a run."),
    "sidecar": ("sidecar", "Checkpoint the job of another container of this pod."),
    "doctor": ("doctor", "Tell whether this machine and this store will do."),
    "explain": ("doctor", "Tell what a log of CRIU's says, and what to do."),
    "kube": ("kube", "Prepare pods for ckptrun, and see what they need."),
}
"""See `LazyGroup.modules`."""

NOT_BUILT_COMMANDS = frozenset({
    "gc", "pin", "unpin", "rm", "diff", "report", "bench",
})  # fmt: skip
"""Subcommands of the contract to come: their names are taken, so that no program is run in their place."""

ALONE = frozenset({"--help", "-h", "--version"})

_USAGE = 64
_INTERNAL = 70


class _Program(LazyGroup):
    """The group of all commands."""

    modules = COMMANDS

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in NOT_BUILT_COMMANDS:
            raise UsageError(
                f"'ckptrun {cmd_name}' is not built yet",
                hint=f"to run a program of that name: ckptrun -- {cmd_name}",
            )
        return super().get_command(ctx, cmd_name)


@click.group(
    cls=_Program,
    name="ckptrun",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    options_metavar="",
    subcommand_metavar="[run] [OPTIONS] [--] COMMAND...  |  ckptrun SUBCOMMAND ...",
    epilog="Options of a run: 'ckptrun run --help'.",
)
@click.version_option(__version__, message="ckptrun %(version)s")
def program() -> None:
    """Run any long job so that a crash or a lost machine costs seconds, not the run."""


def main(words: Sequence[str] | None = None) -> int:
    """Run ckptrun with ``words`` (by default the process's arguments); return the exit code, never raise."""
    arguments = list(sys.argv[1:] if words is None else words)
    _open_standard_streams()
    try:
        if os.getpid() == 1:
            from ckptrun.app.firstprocess import hand_over  # noqa: PLC0415 -- only as a container's entry point

            hand_over()
        return _run(arguments)
    except CkptrunError as error:
        return _complain(error.message, error.hint, error.exit_code, error)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f"try '{context.command_path if context else program.name} --help'"
        return _complain(_sentence(error), hint, _USAGE, error)
    except (KeyboardInterrupt, click.Abort):
        return 130
    except BrokenPipeError:  # 'ckptrun ls | head': the reader has what it wanted
        _forget_stdout()
        return 141
    except Exception as error:  # noqa: BLE001 -- whatever it is, the user gets one line and a code
        return _complain(
            f"internal error: {type(error).__name__}: {error}",
            "please report it with the output of the same command under CKPTRUN_DEBUG=1",
            _INTERNAL,
            error,
        )


def _run(arguments: list[str]) -> int:
    if not arguments:
        context = program.make_context("ckptrun", [], resilient_parsing=True)
        click.echo(program.get_help(context), err=True)
        return _USAGE
    from ckptrun.cli.run import value_options  # noqa: PLC0415 -- 'import ckptrun.cli.main' stays cheap
    from ckptrun.telemetry.speak import Speaker, say_logs  # noqa: PLC0415 -- likewise

    say_logs(Speaker())
    routed = route(arguments, {*COMMANDS, *NOT_BUILT_COMMANDS}, value_options(), ALONE)
    try:  # not click's main(): it ends a broken pipe with 1, a code that means nothing here
        with program.make_context("ckptrun", routed) as context:
            result: Any = program.invoke(context)
    except click.exceptions.Exit as ended:  # --help, --version
        result = ended.exit_code
    sys.stdout.flush()
    return result if isinstance(result, int) else 0


def _complain(message: str, hint: str, code: int, error: BaseException) -> int:
    """Say what went wrong in one line, the next step in another, and return the exit code."""
    from ckptrun.telemetry.speak import Speaker  # noqa: PLC0415 -- only when something went wrong

    speaker = Speaker(-1)
    speaker.error(message)
    if hint:
        speaker.error(f"  {hint}")
    if os.environ.get("CKPTRUN_DEBUG"):
        import traceback  # noqa: PLC0415 -- only for whoever looks for a fault

        speaker.error("".join(traceback.format_exception(error)).rstrip())
    return code


def _sentence(error: click.ClickException) -> str:
    """Return a message of click's in this program's style."""
    if isinstance(error, click.NoSuchOption):
        close = [name for name in error.possibilities or () if name.removeprefix("--") not in NOT_BUILT]
        meant = f"; did you mean {' or '.join(close)}?" if close else ""
        return f"no such option {error.option_name!r}{meant}"
    text = " ".join(error.format_message().split()).rstrip(".")
    return text[:1].lower() + text[1:]


def _open_standard_streams() -> None:
    """Put /dev/null where a standard stream is closed: else the next file opened would be taken for it."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(fd, mode, closefd=False))


def _forget_stdout() -> None:
    """Keep the interpreter from flushing to a closed pipe once more at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
