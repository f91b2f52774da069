"""The doctor's verdict: the machine's checks, the store's, and the exit code."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ckptrun.app import doctor
from ckptrun.cli.main import main
from ckptrun.core.health import Check
from ckptrun.store.localfs import LocalBackend

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Check]:
    """What the machine's checks find."""
    found = [Check("kernel", ok=True, detail="6.1")]
    monkeypatch.setattr("ckptrun.criu.doctor.machine_checks", lambda: found)
    monkeypatch.setattr("ckptrun.cuda.doctor.machine_checks", lambda: [Check("gpu", ok=True, detail="none")])
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return found


def test_all_is_well_on_a_machine_and_a_store_that_work(
    machine: list[Check], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    assert main(["doctor", "--json", "--store", f"file://{tmp_path}/store"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["ok"]
    assert [check["name"] for check in document["checks"]] == [machine[0].name, "gpu", "store"]
    assert all(check.keys() == {"name", "ok", "detail", "remedy"} for check in document["checks"])
    left = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert left == []


def test_a_failing_machine_ends_with_69_and_shows_the_remedy(
    machine: list[Check], capfd: pytest.CaptureFixture[str]
):
    machine.append(Check("criu program", ok=False, detail="there is none", remedy="provide one"))
    assert main(["doctor"]) == 69
    out = capfd.readouterr().out
    assert "problem criu program: there is none\n" in out
    assert "-> provide one\n" in out


def test_a_failing_store_alone_ends_with_73(machine: list[Check], tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    assert machine[0].ok
    assert main(["doctor", "--store", f"file://{tmp_path}/file/store"]) == 73


def test_a_store_that_ignores_preconditions_is_found_out(
    machine: list[Check], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    honest = LocalBackend.put_if_absent

    def put(self: LocalBackend, name: str, data: bytes) -> None:
        self.delete(name)
        honest(self, name, data)

    monkeypatch.setattr(LocalBackend, "put_if_absent", put)
    assert main(["doctor"]) == 73
    assert "If-None-Match" in capfd.readouterr().out
    assert machine


def test_fix_provides_criu_first(machine: list[Check], monkeypatch: pytest.MonkeyPatch):
    provided: list[int] = []
    monkeypatch.setattr("ckptrun.criu.provision.provide", lambda: provided.append(len(machine)))
    assert main(["doctor", "--fix"]) == 0
    assert provided == [1]


def test_the_store_counts_only_when_the_machine_is_well():
    bad = {"ok": False, "detail": "", "remedy": "x"}
    assert doctor.exit_code({"checks": [{"name": "store", **bad}, {"name": "kernel", **bad}]}) == 69
