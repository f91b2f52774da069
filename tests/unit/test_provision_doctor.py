"""What the doctor makes of settings and capabilities, and pycriu's import."""

from __future__ import annotations

import sys
from importlib import metadata
from typing import TYPE_CHECKING

import pytest

from ckptrun.core.health import Check
from ckptrun.criu import doctor, pycriu_import
from ckptrun.errors import MissingFeatureError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ckptrun.criu.program import Criu

ALL = (1 << 41) - 1


def test_a_failing_check_without_a_remedy_is_a_mistake():
    with pytest.raises(ValueError, match="names no remedy"):
        Check("kernel", ok=False, detail="too old")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"kernel.apparmor_restrict_unprivileged_userns": 1}, "apparmor_restrict_unprivileged_userns=0"),
        ({"kernel.unprivileged_userns_clone": 0}, "unprivileged_userns_clone=1"),
        ({"user.max_user_namespaces": 0}, "user.max_user_namespaces=10000"),
        (
            {"user.max_user_namespaces": 9, "kernel.apparmor_restrict_unprivileged_userns": 0},
            "seccomp filter",
        ),
    ],
)
def test_the_setting_that_forbids_namespaces_is_named(settings: dict[str, int], expected: str):
    assert expected in doctor.namespace_remedy(settings, root=False)


def test_root_without_namespaces_is_in_a_container():
    remedy = doctor.namespace_remedy({"user.max_user_namespaces": 0}, root=True)
    assert "securityContext.capabilities.add: [SYS_ADMIN]" in remedy
    assert "seccompProfile.type: Unconfined" in remedy


def test_missing_capabilities_are_named_in_the_remedy():
    check = doctor.capability_check(ALL & ~(1 << 19) & ~(1 << 25))
    assert not check.ok
    assert "securityContext.capabilities.add: [SYS_PTRACE, SYS_TIME]" in check.remedy
    assert "--cap-add SYS_PTRACE --cap-add SYS_TIME" in check.remedy


def test_capabilities_that_are_merely_useful_are_said_and_no_failure():
    check = doctor.capability_check(ALL & ~(1 << 24))
    assert check.ok
    assert "no SYS_RESOURCE" in check.detail
    assert "NET_ADMIN" not in check.detail


def no_criu() -> Criu:
    raise MissingFeatureError("no CRIU was found", hint="run `ckptrun doctor --fix`")


def test_a_machine_without_criu_is_told_how_to_get_one():
    check = doctor.machine_checks(no_criu)[-1]
    assert check == Check("criu program", False, "no CRIU was found", "run `ckptrun doctor --fix`")


def test_the_kernel_is_examined_even_without_criu():
    names = [check.name for check in doctor.machine_checks(no_criu)]
    assert names[:6] == ["kernel", "namespaces", "time namespace", "ns_last_pid", "seccomp", "memory"]


@pytest.fixture
def no_pycriu() -> Iterator[None]:
    """Whatever pycriu this process has imported is out of the way for a test, and back after it."""
    mine = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "pycriu"}
    for name in mine:
        del sys.modules[name]
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "pycriu"]:
        del sys.modules[name]
    sys.modules.update(mine)


@pytest.mark.usefixtures("no_pycriu")
def test_protobuf_7_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(metadata, "version", lambda _name: "7.35.1")
    with pytest.raises(MissingFeatureError, match=r"protobuf 7\.35\.1.*install 'protobuf<7'"):
        pycriu_import.images(tmp_path)


@pytest.mark.usefixtures("no_pycriu")
def test_a_folder_without_pycriu_is_named(tmp_path: Path):
    with pytest.raises(MissingFeatureError, match=f"{tmp_path} holds no pycriu"):
        pycriu_import.images(tmp_path)


@pytest.mark.usefixtures("no_pycriu")
def test_a_pycriu_that_fails_to_import_leaves_nothing_behind(tmp_path: Path):
    (tmp_path / "pycriu").mkdir()
    (tmp_path / "pycriu/__init__.py").write_text(
        "import sys\nsys.path.append('/dirt')\nraise ImportError('broken')\n"
    )
    with pytest.raises(MissingFeatureError, match="cannot be imported: broken"):
        pycriu_import.images(tmp_path)
    assert "pycriu" not in sys.modules
    assert "/dirt" not in sys.path


@pytest.mark.usefixtures("no_pycriu")
def test_pycriu_comes_without_its_neighbours(tmp_path: Path):
    (tmp_path / "pycriu/images").mkdir(parents=True)
    (tmp_path / "pycriu/__init__.py").write_text("from . import images\n")
    (tmp_path / "pycriu/images/__init__.py").write_text("import sys\nsys.path.append('/dirt')\nloads = 1\n")
    (tmp_path / "click.py").write_text("raise RuntimeError('the distribution shadows our packages')\n")
    before = list(sys.path)
    assert pycriu_import.images(tmp_path).loads == 1
    assert sys.path == before
