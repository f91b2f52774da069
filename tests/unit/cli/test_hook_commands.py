"""`ckptrun hooks`, and hooks said in each of the places where settings come from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ckptrun.cli.main import main
from ckptrun.errors import ConfigurationError, HookError
from ckptrun.settings import resolve_hooks, resolve_run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def hook(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def test_list_has_what_a_run_would_have_and_the_ready_made_ones(
    here: Path, capsys: pytest.CaptureFixture[str]
):
    hook(here / "hooks.d/on-exit/tell", "")
    (here / "ckptrun.toml").write_text('[hooks.command]\npre-restore = "true"\n')
    assert main(["hooks", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows if row["configured"]] == ["tell", "command"]
    assert rows[0]["phases"] == ["on-exit"]
    assert rows[1]["options"] == ["pre-restore"]
    assert "webhook" in [row["name"] for row in rows if not row["configured"]]
    assert main(["hooks", "list"]) == 0
    assert "a run here has:" in capsys.readouterr().out


def test_a_folder_without_the_file_beside_it_is_not_used(here: Path, capsys: pytest.CaptureFixture[str]):
    hook(here / "hooks.d/on-exit/tell", "")
    assert main(["hooks", "list", "--json"]) == 0
    assert not [row for row in json.loads(capsys.readouterr().out) if row["configured"]]


def test_a_good_hook_is_tried_and_shown(here: Path, capsys: pytest.CaptureFixture[str]):
    hook(here / "h", """echo "for $CKPTRUN_PHASE" >&2; echo '{"done": ["a"], "data": {"x": 1}}'""")
    assert main(["hooks", "test", "pre-checkpoint", "--hook", "./h"]) == 0
    told = capsys.readouterr().out
    assert "h pre-checkpoint ok (" in told
    assert 'data: {"x": 1}' in told
    assert "stderr: for pre-checkpoint" in told


@pytest.mark.parametrize("body", ["exit 1", "echo nonsense", "exit 75", """echo '{"outcome": "veto"}'"""])
def test_one_that_does_not_let_it_through_ends_the_command_with_a_code_of_its_own(
    here: Path, capsys: pytest.CaptureFixture[str], body: str
):
    hook(here / "h", body)
    assert main(["hooks", "test", "pre-checkpoint", "--hook", "./h", "--json"]) == HookError.exit_code
    (row,) = json.loads(capsys.readouterr().out)
    assert row["outcome"] != "ok"
    assert row["reason"] or "veto" in body or "75" in body


def test_what_a_hook_had_stored_can_be_given_and_by_default_it_is_asked_for_words_only(
    here: Path, capsys: pytest.CaptureFixture[str]
):
    hook(here / "h", "cat > given")
    assert main(["hooks", "test", "pre-restore", "--hook", "./h", "--data", '{"position": 42}']) == 0
    given = json.loads((here / "given").read_text())
    assert (given["data"], given["dry_run"], given["checkpoint"]["id"]) == (
        {"position": 42},
        True,
        "test-0001",
    )
    assert main(["hooks", "test", "pre-restore", "--hook", "./h", "--for-real"]) == 0
    assert json.loads((here / "given").read_text())["dry_run"] is False
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["test", "pre-restore"], 78, "there is no hook for pre-restore here"),
        (["test", "pre-restart", "--hook", "command"], 64, "pre-restart"),
        (["test", "pre-restore", "--hook", "nope"], 78, "there is no such hook"),
        (["test", "pre-restore", "--hook", "command?pre-restore=true", "--data", "["], 64, "no JSON"),
        (["list", "--hook", "command?on-exti=true"], 78, "there is no option 'on-exti'"),
    ],
)
def test_what_is_wrong_is_refused(
    here: Path, capfd: pytest.CaptureFixture[str], words: list[str], code: int, says: str
):
    assert main(["hooks", *words]) == code
    assert says in capfd.readouterr().err
    assert here.exists()


def test_hooks_come_from_the_environment_too(here: Path):
    environ = {"CKPTRUN_HOOK": "command?pre-restore=a,b;./other", "HOME": str(here)}
    settings = resolve_run(("true",), {}, environ, here)
    assert settings.hooks.specs == ("command?pre-restore=a,b", "./other")
    assert settings.hooks
    assert "CKPTRUN_HOOK" not in settings.environment


def test_a_run_without_hooks_says_so(here: Path):
    assert not resolve_run(("true",), {}, {"HOME": str(here)}, here).hooks


@pytest.mark.parametrize("text", ["hooks = 1\n", '[hooks]\npostgres = "dsn"\n'])
def test_hooks_of_the_file_must_be_tables(here: Path, text: str):
    (here / "ckptrun.toml").write_text(text)
    with pytest.raises(ConfigurationError, match="no table of tables"):
        resolve_hooks({}, {}, here)
