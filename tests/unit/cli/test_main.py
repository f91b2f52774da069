"""The command line from outside: words in; exit code, stdout and stderr out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import pytest

from ckptrun.cli.main import COMMANDS, NOT_BUILT_COMMANDS, main
from ckptrun.cli.options import _RUN, _STORE
from ckptrun.errors import CommandNotFoundError, StoreError
from ckptrun.settings.sources import NOT_BUILT, OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptrun.settings import RunSettings

GOLDEN = Path(__file__).parent / "golden"

CONTRACT_COMMANDS = {
    "run", "ls", "show", "status", "checkpoint", "stop", "restore", "verify", "gc", "pin", "unpin",
    "rm", "diff", "files", "effects", "hooks", "events", "report", "doctor", "explain", "bench",
    "kube", "sidecar",
}  # fmt: skip

CONTRACT_OPTIONS = {
    "name", "store", "s3-endpoint-url", "key-file", "key", "no-encryption", "interval", "keep",
    "preserve", "journal-limit", "hook", "restart", "max-restarts", "grace", "max-freeze", "staging",
    "resume", "fresh", "take-over", "require-store", "user", "portable-cpu", "allow-io-uring",
    "no-private-tmp", "tcp", "log-format", "metrics-port", "dry-run", "label", "forward-usr1",
}  # fmt: skip


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Cli: TypeAlias = "Callable[..., Outcome]"


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run the program in this process, in an empty directory, with an empty state directory."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("CKPTRUN_", "AWS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*words: str) -> Outcome:
        code = main(words)
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], None]:
    """Have every run end with an exception."""

    def set_up(error: Exception) -> None:
        def run(_settings: RunSettings) -> int:
            raise error

        module = types.ModuleType("ckptrun.app.run")
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "ckptrun.app.run", module)

    return set_up


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[RunSettings]:
    """What would have been run."""
    seen: list[RunSettings] = []

    def run(settings: RunSettings) -> int:
        seen.append(settings)
        return 42

    module = types.ModuleType("ckptrun.app.run")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ckptrun.app.run", module)
    return seen


# --- runs


@pytest.mark.parametrize(
    "words",
    [
        ["--", "python", "train.py", "--lr", "1"],
        ["run", "--", "python", "train.py", "--lr", "1"],
        ["python", "train.py", "--lr", "1"],
        ["run", "python", "train.py", "--lr", "1"],
    ],
)
def test_the_spellings_of_a_run_are_the_same(cli: Cli, runs: list[RunSettings], words: list[str]):
    assert cli(*words).code == 42
    assert runs[0].command == ("python", "train.py", "--lr", "1")


def test_options_end_at_the_first_word_that_is_none(cli: Cli, runs: list[RunSettings]):
    cli("--interval", "5m", "-v", "python", "--name", "x", "--", "y")
    assert runs[0].command == ("python", "--name", "x", "--", "y")
    assert (runs[0].interval, runs[0].verbosity) == (300.0, 1)


def test_behind_two_dashes_a_subcommands_name_is_a_program(cli: Cli, runs: list[RunSettings]):
    cli("--", "ls", "-l")
    assert runs[0].command == ("ls", "-l")


def test_a_run_says_nothing_of_its_own(cli: Cli, runs: list[RunSettings]):
    outcome = cli("--", "python", "-c", "pass")
    assert (outcome.out, outcome.err) == ("", "")
    assert len(runs) == 1


def test_secrets_stay_out_of_the_jobs_environment(
    cli: Cli, runs: list[RunSettings], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CKPTRUN_PASSPHRASE", "geheim")
    monkeypatch.setenv("CKPTRUN_AWS_ACCESS_KEY_ID", "store")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "job")
    cli("--store", "s3://bucket/p", "--name", "n", "--", "python")
    assert runs[0].environment["AWS_ACCESS_KEY_ID"] == "job"
    assert not [name for name in runs[0].environment if name.startswith("CKPTRUN_")]
    assert os.environ["AWS_ACCESS_KEY_ID"] == "store"


# --- refusals


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["run"],
        ["--name", "x"],
        ["--name"],
        ["--bogus", "python"],
        ["--interval", "often", "python"],
        ["--name", "../x", "python"],
        ["--store", "here", "python"],
        ["--store", "s3://bucket", "--no-encryption", "python"],
        ["--tcp", "perhaps", "python"],
        ["show"],
        ["show", "../x"],
        ["show", "a", "b"],
        ["ls", "--bogus"],
        ["ls", "extra"],
        ["status", "nobody"],
        ["checkpoint", "nobody", "--wait"],
        ["stop", "nobody"],
        ["events", "nobody", "--follow", "--json"],
        ["restore", "n", "--paused"],
        ["doctor", "--pid", "me"],
        ["doctor", "--pid", "999999999"],
        ["doctor", "--pid", "1", "--fix"],
        ["doctor", "--pid", "1", "--store", "file:///nowhere"],
        ["explain", "no-such-log"],
    ],
)
def test_a_wrong_command_line_ends_with_64_and_a_prefixed_line(
    cli: Cli, runs: list[RunSettings], words: list[str]
):
    outcome = cli(*words)
    assert outcome.code == 64
    assert outcome.out == ""
    assert not runs
    if words:
        assert all(line.startswith("ckptrun: ") for line in outcome.err.splitlines())


def test_a_misspelt_option_is_told_the_likely_one(cli: Cli):
    assert "did you mean --interval" in cli("--intervall", "5m", "--", "python").err


@pytest.mark.parametrize("option", sorted(NOT_BUILT))
def test_an_option_to_come_is_refused_never_ignored(cli: Cli, runs: list[RunSettings], option: str):
    value = [] if option == "dry-run" else ["x"]
    outcome = cli(f"--{option}", *value, "--", "python")
    assert (outcome.code, runs) == (64, [])
    assert "not built yet" in outcome.err


@pytest.mark.parametrize("command", sorted(NOT_BUILT_COMMANDS))
def test_a_command_to_come_is_refused_and_no_program_of_that_name_is_run(
    cli: Cli, runs: list[RunSettings], command: str
):
    outcome = cli(command, "name")
    assert (outcome.code, runs) == (64, [])
    assert f"'ckptrun {command}' is not built yet" in outcome.err


def test_contradictions_end_with_78(cli: Cli, runs: list[RunSettings]):
    assert cli("--resume", "--fresh", "--", "python").code == 78
    assert cli("--store", "s3://bucket", "--name", "n", "--", "python").code == 78
    assert not runs


def test_an_error_of_the_run_is_one_line_a_hint_and_its_code(cli: Cli, running: Callable[[Exception], None]):
    running(CommandNotFoundError("there is no program 'pyhton'", hint="check the spelling"))
    outcome = cli("--", "pyhton")
    assert outcome.code == 127
    assert outcome.err == "ckptrun: there is no program 'pyhton'\nckptrun:   check the spelling\n"


def test_a_defect_ends_with_70_and_says_how_to_report_it(
    cli: Cli, running: Callable[[Exception], None], monkeypatch: pytest.MonkeyPatch
):
    running(ZeroDivisionError("by zero"))
    outcome = cli("--", "python")
    assert outcome.code == 70
    assert "internal error: ZeroDivisionError: by zero" in outcome.err
    assert "CKPTRUN_DEBUG=1" in outcome.err
    assert "Traceback" not in outcome.err
    monkeypatch.setenv("CKPTRUN_DEBUG", "1")
    assert "ckptrun: Traceback" in cli("--", "python").err


# --- help and the contract


@pytest.mark.parametrize(
    ("words", "golden"),
    [(["--help"], "help.txt"), (["run", "--help"], "run.txt"), (["restore", "-h"], "restore.txt")],
)
def test_the_help_is_the_one_that_was_agreed_on(cli: Cli, words: list[str], golden: str):
    outcome = cli(*words)
    assert outcome.code == 0
    if "WRITE_GOLDEN" in os.environ:
        (GOLDEN / golden).write_text(outcome.out)
    assert outcome.out.split() == (GOLDEN / golden).read_text().split()


def test_every_command_of_the_contract_is_there_or_refused_by_name():
    assert {*COMMANDS, *NOT_BUILT_COMMANDS} == CONTRACT_COMMANDS


def test_every_option_of_the_contract_is_there_or_refused_by_name():
    assert {*_RUN, *_STORE, *NOT_BUILT} >= CONTRACT_OPTIONS


def test_every_option_that_settings_know_is_on_the_command_line():
    assert {*_RUN, *_STORE, "quiet", "verbose"} == OPTIONS.keys()


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help(cli: Cli, command: str):
    outcome = cli(command, "--help")
    assert outcome.code == 0
    assert f"Usage: ckptrun {command}" in outcome.out


def test_the_version_goes_to_stdout(cli: Cli):
    assert cli("--version").out.startswith("ckptrun 0.")


# --- explain


def test_explain_names_a_known_cause_its_evidence_and_remedy(cli: Cli, tmp_path: Path):
    log = tmp_path / "dump.log"
    log.write_text("(00.1) fine\n(00.2) Error (criu/sk-unix.c:1): External socket is used. Consider --ext\n")
    outcome = cli("explain", str(log), "--json")
    explanation = json.loads(outcome.out)
    assert outcome.code == 0
    assert explanation.keys() >= {"cause", "evidence", "remedy", "known"}
    assert explanation["known"]
    assert explanation["evidence"].startswith("(00.2) Error")
    assert explanation["cause"] in cli("explain", str(log)).out


def test_explain_says_when_a_cause_is_unknown(cli: Cli, tmp_path: Path):
    log = tmp_path / "dump.log"
    log.write_text("(00.2) Error (criu/x.c:1): something never seen\n")
    explanation = json.loads(cli("explain", str(log), "--json").out)
    assert (explanation["known"], explanation["cause"]) == (False, "something never seen")


# --- as a process


def test_a_reader_that_stops_early_is_no_error():
    command = f"{sys.executable} -m ckptrun --help | true; exit ${{PIPESTATUS[0]}}"
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environ, check=False)
    assert done.returncode in {0, 141}
    assert done.stderr == ""


def test_importing_the_command_line_is_quick_and_pulls_in_no_heavy_module():
    code = "import sys, ckptrun.cli.main, ckptrun.cli.run; print(*sys.modules)"
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=True
    )
    heavy = {"boto3", "botocore", "rich", "cryptography", "zstandard", "psutil", "google.protobuf", "tomllib"}
    assert not heavy & set(done.stdout.split())


def test_a_store_that_cannot_be_used_ends_with_73(cli: Cli, tmp_path: Path):
    (tmp_path / "file").write_text("no directory")
    assert cli("ls", "--store", f"file://{tmp_path}/file").code == StoreError.exit_code
