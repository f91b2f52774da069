"""Making a prefix: which suites are asked, and that a folder appears whole or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckptrun.criu import install, program
from ckptrun.errors import MissingFeatureError

if TYPE_CHECKING:
    from pathlib import Path


def fill(folder: Path, answer: str = "echo Version: 4.2.1") -> None:
    loader = folder / "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
    loader.parent.mkdir(parents=True)
    loader.write_text('#!/bin/sh\nshift 2\nexec "$@"\n')
    binary = folder / "usr/sbin/criu"
    binary.parent.mkdir(parents=True)
    binary.write_text(f"#!/bin/sh\n{answer}\n")
    for path in (loader, binary):
        path.chmod(0o755)
    (folder / "usr/lib/python3/dist-packages/pycriu/images").mkdir(parents=True)
    (folder / "usr/share/doc").mkdir(parents=True)
    (folder / "usr/share/doc/copyright").write_text("long")


def test_debian_is_asked_for_its_testing_then_unstable_suite():
    assert install.suites({"ID": "debian", "VERSION_CODENAME": "bookworm"}) == (("forky", "sid"), ("main",))


def test_ubuntu_is_asked_for_its_own_release_before_a_newer_one():
    names, components = install.suites({"ID": "ubuntu", "ID_LIKE": "debian", "VERSION_CODENAME": "noble"})
    assert names == ("noble", "noble-updates", "devel")
    assert components == ("main", "universe")


def test_another_distribution_is_told_what_to_do_instead():
    with pytest.raises(MissingFeatureError, match=r"Fedora Linux 42.*set CKPTRUN_CRIU"):
        install.suites({"ID": "fedora", "PRETTY_NAME": "Fedora Linux 42"})


def test_os_release_is_read_with_and_without_quotes(tmp_path: Path):
    (tmp_path / "os-release").write_text('ID=debian\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n\n# x\n')
    release = install.read_release(tmp_path / "os-release")
    assert release["ID"] == "debian"
    assert release["PRETTY_NAME"] == "Debian GNU/Linux 12 (bookworm)"


def test_a_machine_whose_apt_has_no_archive_is_told_so(tmp_path: Path):
    (tmp_path / "etc/apt").mkdir(parents=True)
    (tmp_path / "etc/os-release").write_text('ID=debian\nPRETTY_NAME="Debian 12"\n')
    with pytest.raises(MissingFeatureError, match="apt knows no archive of Debian 12"):
        install.install(None, tmp_path / "home", tmp_path)


def test_a_prefix_is_sealed_readable_by_all_and_without_what_criu_never_reads(tmp_path: Path):
    criu = install.build(tmp_path / "4.2.1", fill, {"suite": "forky"})
    assert criu.prefix == tmp_path / "4.2.1"
    assert criu.version == (4, 2, 1)
    assert (tmp_path / "4.2.1").stat().st_mode & 0o777 == 0o755
    assert not (tmp_path / "4.2.1/usr/share").exists()
    assert program.made_from(tmp_path / "4.2.1") == {"suite": "forky"}
    program.verify_prefix(tmp_path / "4.2.1")


def test_a_moved_prefix_still_opens_and_starts_its_own_loader(tmp_path: Path):
    install.build(tmp_path / "a", fill, {})
    (tmp_path / "a").rename(tmp_path / "b")
    criu = program.open_prefix(tmp_path / "b")
    assert all(str(tmp_path / "b") in word for word in criu.argv if word != "--library-path")


def test_a_new_prefix_replaces_the_old_one(tmp_path: Path):
    install.build(tmp_path / "p", fill, {})
    install.build(tmp_path / "p", lambda folder: fill(folder, "echo Version: 4.3"), {})
    assert program.open_prefix(tmp_path / "p").version == (4, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_a_filling_that_fails_leaves_the_old_prefix_and_nothing_else(tmp_path: Path):
    install.build(tmp_path / "p", fill, {})

    def disk_full(folder: Path) -> None:
        fill(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        install.build(tmp_path / "p", disk_full, {})
    program.verify_prefix(tmp_path / "p")
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_packages_whose_criu_does_not_start_make_no_prefix(tmp_path: Path):
    with pytest.raises(MissingFeatureError, match="does not start: no such vdso"):
        install.build(tmp_path / "p", lambda folder: fill(folder, "echo no such vdso >&2; exit 1"), {})
    assert list(tmp_path.iterdir()) == []


def test_packages_without_pycriu_make_no_prefix(tmp_path: Path):
    def without(folder: Path) -> None:
        fill(folder)
        (folder / "usr/lib/python3/dist-packages/pycriu/images").rmdir()
        (folder / "usr/lib/python3/dist-packages/pycriu").rmdir()

    with pytest.raises(MissingFeatureError, match="hold no pycriu"):
        install.build(tmp_path / "p", without, {})
