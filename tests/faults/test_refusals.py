"""What cannot work is refused before the job starts: with the right code, the cause, a remedy, and no traceback."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from support.run import Lab, Result

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can take something away from the machine")
CRIU_PLACES = ("/usr/sbin", "/usr/local/sbin", "/usr/bin", "/sbin")


def refused(result: Result, code: int, *words: str) -> None:
    """Check that the job was not started, and that this is said as it should be."""
    assert result.code == code, result.err
    assert result.out == ""
    assert "Traceback" not in result.err
    assert len(result.err.splitlines()) <= 3, result.err
    assert all(line.startswith("ckptrun: ") for line in result.err.splitlines())
    for word in words:
        assert word in result.err


def without_criu() -> tuple[str, ...]:
    """Return what starts a program on a machine like this one that has no CRIU."""
    hide = ["for place in /var/lib/ckptrun; do [ ! -d $place ] || mount -t tmpfs none $place; done"]
    hide += [f"[ ! -e {place}/criu ] || mount --bind /dev/null {place}/criu" for place in CRIU_PLACES]
    return ("unshare", "--mount", "sh", "-c", f'{"; ".join(hide)}; exec "$@"', "sh")


@ROOT_ONLY
def test_without_criu_it_says_how_to_get_one(lab: Lab):
    lab.prefix = without_criu()
    lab.environment = {"CKPTRUN_CRIU": ""}
    refused(lab.run("echo", "started"), 69, "no CRIU", "ckptrun doctor --fix")


@ROOT_ONLY
def test_without_criu_the_doctor_says_the_same_and_fails(lab: Lab):
    lab.prefix = without_criu()
    lab.environment = {"CKPTRUN_CRIU": ""}
    asked = lab.ask("doctor", "--json")
    assert asked.code != 0
    assert any(
        "criu" in check["name"] and not check["ok"] and check["remedy"] for check in asked.json["checks"]
    )


def fake_criu(lab: Lab, script: str, mode: int = 0o755) -> Path:
    path = lab.folder / "criu"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(mode)
    lab.environment = {"CKPTRUN_CRIU": str(path)}
    return path


def test_a_criu_that_is_too_old_is_named_with_the_version_it_takes(lab: Lab):
    path = fake_criu(lab, "echo Version: 4.1")
    refused(lab.run("echo", "started"), 69, str(path), "4.1", "4.2.1")


def test_a_criu_that_cannot_run_is_named(lab: Lab):
    path = fake_criu(lab, "echo broken >&2; exit 1")
    refused(lab.run("echo", "started"), 69, str(path), "4.2.1")


def test_a_criu_that_is_no_program_is_named(lab: Lab):
    path = fake_criu(lab, "", 0o644)
    refused(lab.run("echo", "started"), 69, str(path), "not a program")


def test_a_criu_that_does_not_exist_is_named(lab: Lab):
    lab.environment = {"CKPTRUN_CRIU": "/no/such/criu"}
    refused(lab.run("echo", "started"), 69, "/no/such/criu", "doctor --fix")


def without_capability(name: str) -> tuple[str, ...]:
    return ("setpriv", "--bounding-set", f"-{name}", "--inh-caps", f"-{name}")


@ROOT_ONLY
@pytest.mark.parametrize("name", ["sys_admin", "setpcap", "sys_chroot", "sys_time"])
def test_root_without_what_every_restore_needs_is_told_what_is_missing(lab: Lab, name: str):
    lab.prefix = without_capability(name)
    refused(lab.run("echo", "started"), 77, name.upper(), "capabilities")


@ROOT_ONLY
@pytest.mark.slow
@pytest.mark.parametrize("name", ["sys_ptrace", "net_admin"])
def test_root_is_not_asked_for_capabilities_that_this_job_can_do_without(lab: Lab, name: str):
    lab.prefix = without_capability(name)
    run = lab.start(
        "sh", "-c", "until [ -e go ]; do sleep 0.05; done; echo done", options=("--interval", "0.3s")
    )
    run.commit()
    run.restored(run.kill_job)
    (lab.work / "go").touch()
    result = run.wait()
    assert (result.code, result.out) == (0, "done\n"), result.err


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--interval", "soon"), 64, ("--interval", "soon")),
        (("--interval", "-5s"), 64, ("--interval",)),
        (("--interval", "0.001s"), 64, ("--interval",)),
        (("--name", "../etc"), 64, ("../etc", "letters")),
        (("--name", ""), 64, ("name",)),
        (("--name", "x" * 101), 64, ("100",)),
        (("--store", "ftp://host/x"), 64, ("ftp://host/x", "file:///path", "s3://bucket/prefix")),
        (("--store", "file://relative/path"), 64, ("relative",)),
        (("--store", "s3://"), 64, ("s3://",)),
        (("--s3-endpoint-url", "localhost:9000"), 64, ("http://",)),
        (("--max-freeze", "never"), 64, ("--max-freeze",)),
        (("--grace", "-1"), 64, ("--grace",)),
        (("--keep", "lots"), 64, ("--keep",)),
        (("--restart", "sometimes"), 64, ("--restart",)),
        (("--max-restarts", "-1"), 64, ("--max-restarts",)),
        (("--journal-limit", "plenty"), 64, ("--journal-limit",)),
        (("--preserve", "/no/such/path"), 78, ("/no/such/path",)),
        (("--key-file", "/no/such/key"), 78, ("/no/such/key",)),
        (("--resume", "--fresh"), 78, ("--resume", "--fresh")),
        (("--tcp", "perhaps"), 64, ("--tcp", "auto, keep, close")),
        (("--no-such-option",), 64, ("--no-such-option",)),
        (("--store", "s3://bucket/prefix"), 78, ("--key-file", "--no-encryption")),
    ],
)
def test_bad_options_are_refused_with_the_name_of_the_option(
    lab: Lab, options: tuple[str, ...], code: int, words: tuple[str, ...]
):
    refused(lab.run("echo", "started", options=options), code, *words)


def test_a_bucket_without_a_name_is_refused(lab: Lab):
    argv = lab.argv("--store", "s3://bucket/prefix", "--no-encryption", "--", "echo", "started")
    refused(lab.execute(argv), 64, "--name")


def test_no_command_at_all_is_refused(lab: Lab):
    refused(lab.execute(lab.argv("--name", "x", "--")), 64, "no command")


def test_a_file_that_is_no_program_in_any_format_is_126(lab: Lab):
    garbage = lab.work / "garbage"
    garbage.write_bytes(bytes(range(256)))
    garbage.chmod(0o755)
    refused(lab.run("./garbage"), 126, "garbage", "Exec format error")


def test_a_script_whose_interpreter_is_missing_is_127_and_names_it(lab: Lab):
    script = lab.work / "script"
    script.write_text("#!/no/such/python -u\n")
    script.chmod(0o755)
    refused(lab.run("./script"), 127, "script", "/no/such/python")


def test_a_working_directory_that_is_gone_is_said_to_be(lab: Lab):
    gone = lab.folder / "gone"
    result = lab.shell(f"mkdir {gone}; cd {gone}; rmdir {gone}; ckptrun echo started")
    refused(result, 78, "directory")
