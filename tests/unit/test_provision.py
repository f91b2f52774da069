"""Which CRIU is chosen, which is refused, and what is remembered about it; with scripts for programs."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from ckptrun.criu import install, ownrights, probe, program, provision
from ckptrun.errors import MissingFeatureError

if TYPE_CHECKING:
    from collections.abc import Callable

TCP_BROKEN = 'case "$*" in *dump*) exit 1;; esac'


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


class Machine:
    """A machine without any CRIU but those a test puts there."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.shared = root / "shared"
        self.calls = root / "calls"
        self.env = {"HOME": str(root / "home"), "PATH": str(root / "bin")}
        monkeypatch.setattr(provision, "SHARED_HOME", self.shared)
        monkeypatch.setattr(provision, "_SYSTEM_FOLDERS", ())
        monkeypatch.setattr(provision, "_PYCRIU_PLACES", ())

    def script(self, path: Path, version: str, extra: str = "") -> Path:
        """Write a program that answers like CRIU of that version and notes that it was called."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f'#!/bin/sh\necho "$*" >> {self.calls}\n'
            f'[ "$1" = --version ] && echo "Version: {version}"\n{extra}\nexit 0\n'
        )
        path.chmod(0o755)
        return path

    def distribution(self, version: str, extra: str = "", *, pycriu: bool = True) -> Path:
        if pycriu:
            (self.root / "lib/python3/dist-packages/pycriu/images").mkdir(parents=True)
        return self.script(self.root / "bin/criu", version, extra)

    def fill(self, folder: Path, version: str, extra: str = "") -> None:
        """Lay out what the packages of that version would unpack to."""
        loader = folder / "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
        loader.parent.mkdir(parents=True)
        loader.write_text('#!/bin/sh\nshift 2\nexec "$@"\n')
        loader.chmod(0o755)
        self.script(folder / "usr/sbin/criu", version, extra)
        (folder / "usr/lib/python3/dist-packages/pycriu/images").mkdir(parents=True)
        (folder / "usr/lib/python3/dist-packages/pycriu/__init__.py").write_text("# as made\n")

    def prefix(self, version: str, extra: str = "", place: Path | None = None) -> Path:
        place = place or self.shared / version
        place.parent.mkdir(parents=True, exist_ok=True)
        install.build(place, lambda folder: self.fill(folder, version, extra), {"suite": "test"})
        self.calls.unlink(missing_ok=True)
        return place

    def find(self, **env: str) -> program.Criu:
        return provision.find({**self.env, **env})

    def called(self) -> int:
        return len(self.calls.read_text().splitlines()) if self.calls.exists() else 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Version: 4.2.1\n", (4, 2, 1)), ("4.2.1-1~deb13u1", (4, 2, 1)), ("Version: 4.3", (4, 3)), ("none", ())],
)
def test_versions_are_read_from_programs_and_packages(text: str, expected: tuple[int, ...]):
    assert program.parse_version(text) == expected


def test_versions_compare_by_number_not_by_letter():
    assert program.parse_version("4.10") > program.MINIMUM > program.parse_version("4.2")


def test_without_any_criu_the_error_names_the_remedy_and_exits_69(machine: Machine):
    with pytest.raises(
        MissingFeatureError, match=r"no CRIU 4\.2\.1 or newer.*ckptrun doctor --fix"
    ) as caught:
        machine.find()
    assert caught.value.exit_code == 69


def test_the_distributions_criu_is_used_if_it_is_good(machine: Machine):
    binary = machine.distribution("4.2.1")
    machine.prefix("4.3")
    criu = machine.find()
    assert (criu.argv, criu.version, criu.origin) == ((str(binary),), (4, 2, 1), "distribution")
    assert criu.pycriu_path == machine.root / "lib/python3/dist-packages"


def test_too_old_a_distribution_gives_way_to_the_prefix(machine: Machine):
    machine.distribution("3.17.1")
    prefix = machine.prefix("4.2.1")
    criu = machine.find()
    assert criu.prefix == prefix
    assert criu.pycriu_path == prefix / "pycriu-site"


def test_too_old_a_distribution_alone_is_refused_by_its_version(machine: Machine):
    binary = machine.distribution("3.17.1")
    with pytest.raises(MissingFeatureError, match=rf"{binary} version 3\.17\.1 is older than 4\.2\.1"):
        machine.find()


def test_a_distribution_without_pycriu_gives_way_to_the_prefix(machine: Machine):
    machine.distribution("4.3", pycriu=False)
    prefix = machine.prefix("4.2.1")
    # The prefix brings a pycriu that serves the distribution's program too.
    assert machine.find().pycriu_path == prefix / "pycriu-site"


def test_of_two_prefixes_the_newer_is_used(machine: Machine):
    machine.prefix("4.2.1")
    newer = machine.prefix("4.10")
    assert machine.find().prefix == newer


@pytest.mark.parametrize("root", [False, True])
def test_an_ordinary_users_prefix_is_found_where_xdg_state_home_names_another_place_for_a_run(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, root: bool
):
    monkeypatch.setattr(ownrights, "is_root", lambda: root)
    prefix = machine.prefix("4.2.1", place=machine.root / "home/.local/state/ckptrun/criu/4.2.1")
    scratch = {"XDG_STATE_HOME": str(machine.root / "scratch")}
    if root:
        with pytest.raises(MissingFeatureError):
            machine.find(**scratch)
    else:
        assert machine.find(**scratch).prefix == prefix


def test_a_criu_that_fails_the_tcp_dump_is_second_best(machine: Machine):
    machine.distribution("4.3", TCP_BROKEN)
    prefix = machine.prefix("4.2.1")
    assert machine.find().prefix == prefix


def test_a_criu_that_fails_the_tcp_dump_is_better_than_none(machine: Machine):
    binary = machine.distribution("4.3", TCP_BROKEN)
    assert machine.find().argv == (str(binary),)


def test_the_named_program_comes_first(machine: Machine):
    machine.distribution("4.3")
    prefix = machine.prefix("4.2.1")
    criu = machine.find(CKPTRUN_CRIU=str(prefix / "usr/sbin/criu"))
    assert criu.argv[0].endswith("ld-linux-x86-64.so.2")
    assert (criu.version, criu.origin) == ((4, 2, 1), "CKPTRUN_CRIU")


def test_the_named_program_is_refused_if_too_old(machine: Machine):
    named = machine.script(machine.root / "old/bin/criu", "4.1.1")
    machine.prefix("4.2.1")  # it is not used instead: the user chose
    with pytest.raises(MissingFeatureError, match=r"CKPTRUN_CRIU=.*version 4\.1\.1 is older than 4\.2\.1"):
        machine.find(CKPTRUN_CRIU=str(named))


def test_the_named_program_is_refused_if_it_is_none(machine: Machine):
    with pytest.raises(MissingFeatureError, match="CKPTRUN_CRIU=/nowhere/criu is not a program"):
        machine.find(CKPTRUN_CRIU="/nowhere/criu")


def test_a_named_prefix_folder_is_the_only_one_looked_at(machine: Machine):
    machine.prefix("4.10")
    own = machine.prefix("4.2.1", place=machine.root / "elsewhere")
    assert machine.find(CKPTRUN_CRIU_PREFIX=str(own)).prefix == own


def cut_a_file(prefix: Path) -> None:
    (prefix / "pycriu-site/pycriu/__init__.py").write_text("")


def remove_a_file(prefix: Path) -> None:
    (prefix / "pycriu-site/pycriu/__init__.py").unlink()


def change_the_marker(prefix: Path) -> None:
    marker = prefix / program.MARKER
    marker.write_text(marker.read_text().replace('"suite": "test"', '"suite": "evil"'))


def remove_the_marker(prefix: Path) -> None:
    (prefix / program.MARKER).unlink()


@pytest.mark.parametrize("damage", [cut_a_file, remove_a_file, change_the_marker, remove_the_marker])
def test_a_damaged_prefix_is_refused_and_remade(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]
):
    prefix = machine.prefix("4.2.1")
    damage(prefix)
    with pytest.raises(MissingFeatureError, match=str(prefix)):
        machine.find()
    monkeypatch.setattr(install, "install", lambda *_: program.open_prefix(machine.prefix("4.2.1")))
    assert provision.provide(machine.env).prefix == prefix
    assert machine.find().prefix == prefix


def test_content_changed_at_the_same_size_is_found_when_providing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
):
    prefix = machine.prefix("4.2.1")
    module = prefix / "pycriu-site/pycriu/__init__.py"
    module.write_text("# by you!\n")
    monkeypatch.setattr(install, "install", lambda *_: program.open_prefix(machine.prefix("4.2.1")))
    provision.provide(machine.env)
    assert module.read_text() == "# as made\n"


def test_providing_leaves_a_good_prefix_alone(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    prefix = machine.prefix("4.2.1")
    monkeypatch.setattr(install, "install", lambda *_: pytest.fail("nothing was to be downloaded"))
    assert provision.provide(machine.env).prefix == prefix


def test_providing_does_not_download_around_a_bad_choice(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    machine.prefix("4.2.1")
    named = machine.script(machine.root / "old/bin/criu", "4.1.1")
    monkeypatch.setattr(install, "install", lambda *_: pytest.fail("the user's choice would not use it"))
    with pytest.raises(MissingFeatureError, match=r"4\.1\.1"):
        provision.provide({**machine.env, "CKPTRUN_CRIU": str(named)})


def test_the_second_start_runs_no_program(machine: Machine):
    machine.prefix("4.2.1")
    machine.find()
    asked = machine.called()
    machine.find()
    assert asked == machine.called() == 3  # version, check, dump


def test_a_remembered_criu_is_found_within_five_milliseconds(machine: Machine):
    machine.prefix("4.2.1")
    machine.find()
    times = []
    for _ in range(20):
        begun = time.perf_counter()
        machine.find()
        times.append(time.perf_counter() - begun)
    assert min(times) < 0.005


def test_a_changed_program_is_asked_again(machine: Machine):
    binary = machine.distribution("4.2.1")
    machine.find()
    machine.script(binary, "3.17.1")
    os.utime(binary, ns=(1, 1))
    with pytest.raises(MissingFeatureError, match=r"3\.17\.1"):
        machine.find()


def test_another_kernel_is_asked_again(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    machine.distribution("4.2.1")
    machine.find()
    asked = machine.called()
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release="99.0"))
    machine.find()
    assert machine.called() == 2 * asked


def test_other_capabilities_are_asked_again(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    machine.distribution("4.2.1")
    machine.find()
    asked = machine.called()
    monkeypatch.setattr(ownrights, "effective_capabilities", lambda: 0x1FFFFFFFFF)
    machine.find()
    assert machine.called() == 2 * asked


def test_a_success_is_remembered_for_good(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    machine.distribution("4.2.1")
    machine.find()
    asked = machine.called()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1e9)
    machine.find()
    assert machine.called() == asked


def test_a_failure_is_forgotten_after_an_hour(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    machine.distribution("4.2.1", TCP_BROKEN)
    machine.find()
    asked = machine.called()
    machine.find()
    assert machine.called() == asked
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3700)
    machine.find()
    assert machine.called() == 2 * asked


@pytest.mark.parametrize("text", ["", "[]", "{]", '{"x": 1}'])
def test_a_damaged_memory_is_an_empty_one(machine: Machine, text: str):
    binary = machine.distribution("4.2.1")
    machine.find()
    memory = provision.state_directory(machine.env) / "criu-findings.json"
    memory.write_text(text)
    assert machine.find().argv == (str(binary),)
    assert json.loads(memory.read_text())


def test_an_unwritable_state_directory_costs_time_only(machine: Machine):
    binary = machine.distribution("4.2.1")
    (machine.root / "home").write_text("not a directory")
    assert machine.find().argv == (str(binary),)


def test_checks_name_what_is_wrong_with_a_remedy(machine: Machine):
    prefix = machine.prefix("4.2.1", TCP_BROKEN)
    checks = {check.name: check for check in provision.check(program.open_prefix(prefix), machine.env)}
    assert [name for name, check in checks.items() if not check.ok] == ["criu tcp"]
    assert checks["criu tcp"].remedy


def test_checks_compare_every_byte_of_a_prefix(machine: Machine):
    prefix = machine.prefix("4.2.1")
    criu = program.open_prefix(prefix)
    module = prefix / "pycriu-site/pycriu/__init__.py"
    module.write_text("# by you!\n")
    failed = [check for check in provision.check(criu, machine.env) if not check.ok]
    assert [check.name for check in failed] == ["criu program"]
    assert str(module) in failed[0].detail


def complaints(stderr: str, code: int = 1) -> dict[str, Any]:
    return {"returncode": code, "stdout": "", "stderr": stderr}


@pytest.mark.parametrize(
    ("done", "problem"),
    [
        (complaints("Looks good.\n", 0), ""),
        (
            complaints(
                "Warn  (criu/cr-check.c:824): Dirty tracking is OFF. Memory snapshot will not work.\n"
            ),
            "",
        ),
        (
            complaints("Error (criu/cr-check.c:9): Kernel lacks it\nWarn (a.c:1): Does not look good.\n"),
            "Kernel lacks it",
        ),
        (
            complaints("CRIU needs to have the CAP_SYS_ADMIN capability\n"),
            "CRIU needs to have the CAP_SYS_ADMIN capability",
        ),
        (complaints("criu: cannot execute\n", 126), "criu: cannot execute"),
        (complaints("", 1), "exit status 1 without a word"),
    ],
)
def test_criu_check_is_judged_by_its_errors(
    monkeypatch: pytest.MonkeyPatch, done: dict[str, Any], problem: str
):
    monkeypatch.setattr(ownrights, "rights", lambda: ownrights.Rights.FULL)
    monkeypatch.setattr(probe, "_run", lambda _argv: SimpleNamespace(**done))
    assert probe._ask_check(program.Criu(("criu",), (4, 2, 1), "distribution", Path("/"))) == problem


@pytest.mark.parametrize(
    ("rights", "tolerated"), [(ownrights.Rights.USER, True), (ownrights.Rights.FULL, False)]
)
def test_only_without_rights_is_a_missing_tcp_repair_no_fault(
    monkeypatch: pytest.MonkeyPatch, rights: ownrights.Rights, tolerated: bool
):
    stderr = "Error (criu/cr-check.c:1056): Can't turn TCP repair mode ON: Operation not permitted\n"
    monkeypatch.setattr(ownrights, "rights", lambda: rights)
    monkeypatch.setattr(probe, "_run", lambda _argv: SimpleNamespace(**complaints(stderr)))
    problem = probe._ask_check(program.Criu(("criu",), (4, 2, 1), "distribution", Path("/")))
    assert (problem == "") is tolerated
