"""Reading the machine's own apt sources, in both formats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptrun.criu import debian

if TYPE_CHECKING:
    from pathlib import Path

DEB822 = """\
Types: deb
# a comment between fields
URIs: https://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: https://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""
INLINE_KEY = """\
Types: deb deb-src
URIs: https://mirror.example/debian
Suites: trixie
Components: main
Signed-By:
# a comment inside a value
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBGPL0BUBEADm
 -----END PGP PUBLIC KEY BLOCK-----
"""


def test_deb822_stanzas_give_address_suites_components_and_key():
    first, second = debian.parse_deb822(DEB822)
    assert first == debian.Source(
        "https://mirror.example/debian",
        ("bookworm", "bookworm-updates"),
        ("main", "contrib"),
        (("Signed-By", "/usr/share/keyrings/debian-archive-keyring.gpg"),),
    )
    assert second.suites == ("bookworm-security",)


def test_an_inlined_key_keeps_its_lines_in_the_private_source():
    (source,) = debian.parse_deb822(INLINE_KEY)
    (again,) = debian.parse_deb822(source.for_suite("forky", ["main"]))
    assert again.options == source.options
    assert "\n mQINBGPL0BUBEADm\n" in source.for_suite("forky", ["main"])


def test_disabled_and_source_only_stanzas_are_skipped():
    off = "Types: deb\nEnabled: no\nURIs: https://a.example\nSuites: x\nComponents: main\n"
    source_only = "Types: deb-src\nURIs: https://b.example\nSuites: x\nComponents: main\n"
    assert debian.parse_deb822(f"{off}\n{source_only}") == []


def test_one_line_sources_give_options_and_ignore_comments():
    text = """\
# deb https://no.example/debian bookworm main
deb-src https://no.example/debian bookworm main
deb [arch=amd64 signed-by=/etc/apt/keyrings/a.gpg] https://yes.example/debian bookworm main contrib # why
deb cdrom:[Debian_12]/ bookworm main
deb http://plain.example/debian/ trixie main
"""
    sources = debian.parse_one_line(text)
    assert sources[0] == debian.Source(
        "https://yes.example/debian",
        ("bookworm",),
        ("main", "contrib"),
        (("Signed-By", "/etc/apt/keyrings/a.gpg"),),
    )
    assert [source.uri for source in sources if source.uri.startswith("http")][
        1
    ] == "http://plain.example/debian/"


def test_every_source_of_the_machine_is_read_and_disabled_files_are_not(tmp_path: Path):
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text("deb http://list.example/debian bookworm main\n")
    (parts / "debian.sources").write_text(DEB822)
    (parts / "old.list.disabled").write_text("deb http://disabled.example/debian bookworm main\n")
    assert [source.uri for source in debian.machine_sources(tmp_path)] == [
        "http://list.example/debian",
        "https://mirror.example/debian",
        "https://mirror.example/debian-security",
    ]


def test_a_machine_without_sources_has_none(tmp_path: Path):
    assert debian.machine_sources(tmp_path) == []


def test_the_archive_is_the_one_of_the_release_not_a_third_partys_or_a_pocket():
    third = debian.Source("https://third.example", ("stable",), ("main",))
    security = debian.Source("https://security.example", ("bookworm-security",), ("main",))
    own = debian.Source("https://own.example", ("bookworm", "bookworm-updates"), ("main",))
    assert debian.archive([third, security, own], "bookworm") == own


def test_the_archive_may_be_named_by_its_class():
    stable = debian.Source("https://own.example", ("stable",), ("main", "contrib"))
    flat = debian.Source("https://flat.example", ("./",), ())
    assert debian.archive([flat, stable], "bookworm") == stable


def test_only_pockets_are_no_archive():
    security = debian.Source("https://security.example", ("bookworm-security",), ("main",))
    assert debian.archive([security], "bookworm") is None


def test_the_private_source_asks_for_packages_only():
    source = debian.Source("https://own.example", ("bookworm",), ("main",), (("Signed-By", "/k.gpg"),))
    lines = source.for_suite("forky", ["main"]).splitlines()
    assert "Suites: forky" in lines
    assert "Signed-By: /k.gpg" in lines
    assert "Targets: Packages" in lines
