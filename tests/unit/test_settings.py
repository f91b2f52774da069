"""Settings: which source wins, what parses, what contradicts, what the job gets to see."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from ckptrun.errors import ConfigurationError, UsageError
from ckptrun.settings import (
    KeyKind,
    LogFormat,
    RestartPolicy,
    RunSettings,
    adopt_store_credentials,
    job_environment,
    resolve_run,
    resolve_store,
)
from ckptrun.settings.names import default_name, run_directory
from ckptrun.settings.sources import NOT_BUILT, OPTIONS, Shape, variable

if TYPE_CHECKING:
    from collections.abc import Callable

Resolve: TypeAlias = "Callable[..., RunSettings]"

COMMAND = ("python", "train.py")


@pytest.fixture
def resolve(tmp_path: Path) -> Resolve:
    def call(
        given: dict[str, Any] | None = None,
        environ: dict[str, str] | None = None,
        toml: str | None = None,
        command: tuple[str, ...] = COMMAND,
    ) -> RunSettings:
        if toml is not None:
            (tmp_path / "ckptrun.toml").write_text(toml)
        return resolve_run(command, given or {}, {"HOME": "/home/ann", **(environ or {})}, tmp_path)

    return call


@pytest.mark.parametrize("text", ["", ":", "1000:", ":50", "a:b:c", "an na"])
def test_a_user_that_cannot_be_one_is_refused(resolve: Resolve, text: str):
    with pytest.raises(UsageError, match="is no user"):
        resolve({"user": text})


def test_a_user_is_taken_as_written(resolve: Resolve):
    assert resolve({"user": "1000:50"}).user == "1000:50"
    assert resolve(environ={"CKPTRUN_USER": "anna"}).user == "anna"


# --- sources


def test_without_any_source_the_contracts_defaults_hold(resolve: Resolve):
    settings = resolve()
    assert settings.store_url == "file:///home/ann/.local/state/ckptrun/store"
    assert (settings.interval, settings.keep_last, settings.staging) == ("auto", 3, "auto")
    assert (settings.grace, settings.max_freeze, settings.max_restarts) == (30.0, 60.0, 100)
    assert settings.journal_limit == 1 << 30
    assert settings.restart is RestartPolicy.ON_FAILURE
    assert settings.private_tmp
    assert settings.key.kind is KeyKind.NONE
    assert settings.command == COMMAND


def test_command_line_wins_over_environment_over_file(resolve: Resolve):
    toml = 'grace = "3s"\ninterval = 30\nkeep = "last=7"'
    environ = {"CKPTRUN_GRACE": "2s", "CKPTRUN_INTERVAL": "20s"}
    settings = resolve({"grace": "1s"}, environ, toml)
    assert (settings.grace, settings.interval, settings.keep_last) == (1.0, 20.0, 7)


def test_a_switch_can_be_turned_off_by_a_higher_source(resolve: Resolve):
    assert resolve(toml="require-store = true").require_store
    assert not resolve(environ={"CKPTRUN_REQUIRE_STORE": "0"}, toml="require-store = true").require_store


def test_repeatable_options_are_lists_in_every_source(resolve: Resolve):
    assert resolve({"label": ("a=1", "b=2=3")}).labels == {"a": "1", "b": "2=3"}
    assert resolve(environ={"CKPTRUN_LABEL": "a=1,b=2"}).labels == {"a": "1", "b": "2"}
    assert resolve(toml='label = ["a=1"]').labels == {"a": "1"}


def test_an_unknown_key_in_the_file_is_refused_with_the_likely_one(resolve: Resolve):
    with pytest.raises(ConfigurationError, match=r"'intervall' .* did you mean 'interval'"):
        resolve(toml='intervall = "5m"')


@pytest.mark.parametrize("toml", ["interval = [", "interval = true", "resume = 1", 'label = "a=1"'])
def test_a_file_that_is_wrong_is_bad_configuration(resolve: Resolve, toml: str):
    with pytest.raises(ConfigurationError, match=r"ckptrun\.toml"):
        resolve(toml=toml)


def test_a_bad_value_is_usage_from_the_command_line_and_configuration_from_the_file(resolve: Resolve):
    with pytest.raises(UsageError, match="--grace"):
        resolve({"grace": "soon"})
    with pytest.raises(UsageError, match="CKPTRUN_GRACE"):
        resolve(environ={"CKPTRUN_GRACE": "soon"})
    with pytest.raises(ConfigurationError, match=r"grace in ckptrun\.toml"):
        resolve(toml='grace = "soon"')


@pytest.mark.parametrize("option", sorted(NOT_BUILT))
def test_an_option_not_built_yet_is_refused_from_every_source(resolve: Resolve, option: str):
    shape = NOT_BUILT[option]
    value = {Shape.FLAG: True, Shape.VALUE: "x", Shape.MANY: ("x",)}[shape]
    with pytest.raises(UsageError, match="not built yet"):
        resolve({option: value})
    with pytest.raises(UsageError, match="not built yet"):
        resolve(environ={variable(option): "1"})
    written = {Shape.FLAG: "true", Shape.VALUE: "'x'", Shape.MANY: "['x']"}[shape]
    with pytest.raises(UsageError, match="not built yet"):
        resolve(toml=f"{option} = {written}")


@pytest.mark.parametrize(("option", "value"), [("keep", "last=3,hourly=24")])
def test_a_choice_not_built_yet_is_refused(resolve: Resolve, option: str, value: Any):
    with pytest.raises(UsageError, match="not built yet"):
        resolve({option: value})


# --- values


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("interval", "often"),
        ("interval", "0"),
        ("interval", "-5s"),
        ("interval", "1x"),
        ("interval", ""),
        ("keep", "last=0"),
        ("keep", "last"),
        ("keep", "newest=3"),
        ("max-restarts", "-1"),
        ("max-restarts", "many"),
        ("grace", "0s"),
        ("max-freeze", "0"),
        ("staging", "half"),
        ("journal-limit", "1X"),
        ("restart", "sometimes"),
        ("log-format", "xml"),
        ("label", ("novalue",)),
        ("tcp", "maybe"),
        ("name", "../up"),
        ("name", ".hidden"),
        ("name", "a/b"),
        ("name", "x" * 101),
        ("store", "/plain/path"),
        ("store", "file://relative"),
        ("store", "file://host/path"),
        ("store", "s3:///prefix"),
        ("store", "s3://Bad_Bucket"),
        ("store", "ftp://host/path"),
        ("store", "file:///a?b"),
        ("s3-endpoint-url", "localhost:9000"),
    ],
)
def test_a_value_that_does_not_parse_is_a_usage_error_that_names_the_option(
    resolve: Resolve, option: str, value: Any
):
    with pytest.raises(UsageError) as caught:
        resolve({option: value})
    assert caught.value.exit_code == 64
    assert caught.value.hint
    assert option.partition("-")[0] in caught.value.message


def test_off_means_no_checkpoints_by_time(resolve: Resolve):
    assert resolve({"interval": "off"}).interval is None


def test_staging_zero_streams_without_it(resolve: Resolve):
    assert resolve({"staging": "0"}).staging == 0


def test_log_format_json(resolve: Resolve):
    assert resolve({"log-format": "json"}).log_format is LogFormat.JSON


def test_without_a_command_there_is_nothing_to_run(resolve: Resolve):
    with pytest.raises(UsageError, match="no command"):
        resolve(command=())


@pytest.mark.parametrize(
    "given",
    [
        {"resume": True, "fresh": True},
        {"restart": "never", "max-restarts": "3"},
        {"s3-endpoint-url": "http://localhost:9000"},
        {"key-file": "nowhere"},
        {"preserve": ("nowhere",)},
    ],
)
def test_settings_that_contradict_each_other_or_the_machine_are_bad_configuration(
    resolve: Resolve, given: dict[str, Any]
):
    with pytest.raises(ConfigurationError) as caught:
        resolve(given)
    assert caught.value.exit_code == 78
    assert caught.value.hint


def test_paths_are_taken_from_the_working_directory(resolve: Resolve, tmp_path: Path):
    (tmp_path / "data").mkdir()
    assert resolve({"preserve": ("data",)}).preserve == (tmp_path / "data",)


# --- names, keys, stores


@pytest.mark.parametrize(
    ("command", "stem"),
    [
        (("python", "train.py", "--epochs", "3"), "train"),
        (("/usr/bin/python3.11", "-u", "-X", "dev", "src/fit_all.py"), "fit_all"),
        (("python", "-m", "pkg.main"), "pkg.main"),
        (("python", "-c", "pass"), "python"),
        (("./run job.sh",), "run-job"),
        (("torchrun", "train.py"), "torchrun"),
        (("---",), "job"),
    ],
)
def test_the_default_name_is_readable_and_stable(command: tuple[str, ...], stem: str):
    name = default_name(command, Path("/home/ada"))
    assert name.rsplit("-", 1)[0] == stem
    assert name == default_name(command, Path("/home/ada"))
    assert name != default_name(command, Path("/elsewhere"))
    assert name != default_name((*command, "more"), Path("/home/ada"))


@for_all(st.lists(st.text(max_size=30), min_size=1, max_size=4).filter(lambda words: words[0]))
def test_every_command_has_a_default_name_that_is_allowed(command: tuple[str, ...]):
    settings = resolve_run(command, {}, {"HOME": "/h"}, Path("/nowhere"))
    assert (
        resolve_run(command, {"name": settings.name}, {"HOME": "/h"}, Path("/nowhere")).name == settings.name
    )


def test_an_object_store_needs_a_name(resolve: Resolve):
    environ = {"CKPTRUN_PASSPHRASE": "x"}
    with pytest.raises(UsageError, match="needs a name"):
        resolve({"store": "s3://bucket/p"}, environ)
    assert resolve({"store": "s3://bucket/p", "name": "n"}, environ).name == "n"


def test_an_object_store_without_a_key_is_refused_unless_by_name(resolve: Resolve):
    given = {"store": "s3://bucket", "name": "n"}
    with pytest.raises(ConfigurationError, match="CKPTRUN_PASSPHRASE"):
        resolve(given)
    assert resolve({**given, "no-encryption": True}).no_encryption


def test_the_key_on_the_command_line_wins_and_two_in_the_environment_are_refused(
    resolve: Resolve, tmp_path: Path
):
    (tmp_path / "key").write_bytes(b"k" * 32)
    environ = {"CKPTRUN_PASSPHRASE": "secret"}
    assert resolve({}, environ).key.kind is KeyKind.PASSPHRASE
    chosen = resolve({"key-file": "key"}, environ).key
    assert (chosen.kind, chosen.path, chosen.passphrase) == (KeyKind.FILE, tmp_path / "key", "")
    with pytest.raises(ConfigurationError, match="both set"):
        resolve({}, {**environ, "CKPTRUN_KEY_FILE": "key"})


@pytest.mark.parametrize(
    ("value", "said"), [("", "is empty"), ("AKIA\n", "has a space or a line break in it")]
)
@pytest.mark.parametrize("name", ["CKPTRUN_AWS_ACCESS_KEY_ID", "CKPTRUN_AWS_SECRET_ACCESS_KEY"])
def test_a_key_of_the_buckets_that_can_be_none_is_named_with_the_secret_it_comes_from(
    resolve: Resolve, name: str, value: str, said: str
):
    environ = {"CKPTRUN_AWS_ACCESS_KEY_ID": "a", "CKPTRUN_AWS_SECRET_ACCESS_KEY": "b", name: value}
    store = {"store": "s3://bucket/x", "no-encryption": True, "name": "n"}
    with pytest.raises(ConfigurationError, match=f"{name} {said}") as caught:
        resolve(store, environ)
    assert "kubectl create secret generic" in caught.value.hint
    resolve({}, environ)  # no bucket


@pytest.mark.parametrize("environ", [{"CKPTRUN_PASSPHRASE": ""}, {"CKPTRUN_PASSPHRASE": "x"}])
def test_encryption_is_never_turned_off_by_accident(resolve: Resolve, environ: dict[str, str]):
    with pytest.raises(ConfigurationError):
        resolve({"no-encryption": True}, environ)


def test_the_passphrase_shows_in_no_repr(resolve: Resolve):
    assert "geheim" not in repr(resolve({}, {"CKPTRUN_PASSPHRASE": "geheim"}))


def test_state_follows_xdg(resolve: Resolve):
    assert resolve(environ={"XDG_STATE_HOME": "/s"}).state_dir == Path("/s/ckptrun")
    assert resolve(environ={"XDG_STATE_HOME": "relative"}).state_dir == Path("/home/ann/.local/state/ckptrun")


def test_the_same_name_in_two_stores_is_two_runs():
    one, other = (run_directory(Path("/s"), url, "n") for url in ("file:///a", "file:///b"))
    assert one != other
    assert one == run_directory(Path("/s"), "file:///a/", "n")
    assert one.parts[:3] == ("/", "s", "runs")


@pytest.mark.parametrize(
    ("url", "directory"),
    [
        ("file:///a/b", "/a/b"),
        ("file://localhost/a", "/a"),
        ("file:///with%20space%3F", "/with space?"),
        ("file:///with space", "/with space"),
    ],
)
def test_a_directory_store_says_where_it_lies(resolve: Resolve, url: str, directory: str):
    assert resolve({"store": url}).store_directory == Path(directory)


def test_a_bucket_lies_in_no_directory(resolve: Resolve):
    settings = resolve({"store": "s3://bucket", "name": "n", "no-encryption": True})
    assert settings.store_directory is None


def test_a_state_directory_with_odd_characters_holds_the_default_store(resolve: Resolve):
    settings = resolve(environ={"XDG_STATE_HOME": "/my state/100%"})
    assert settings.store_directory == Path("/my state/100%/ckptrun/store")


def test_queries_need_no_key_to_read_a_plain_bucket(tmp_path: Path):
    assert resolve_store({"store": "s3://bucket"}, {"HOME": "/h"}, tmp_path).key.kind is KeyKind.NONE


# --- the job's environment

KEYS = {"AWS_ACCESS_KEY_ID": "job", "AWS_SECRET_ACCESS_KEY": "job", "AWS_REGION": "r"}


def test_nothing_of_ckptruns_own_reaches_the_job():
    environ = {
        "CKPTRUN_PASSPHRASE": "x",
        "CKPTRUN_KEY_FILE": "f",
        "CKPTRUN_AWS_SESSION_TOKEN": "t",
        "PATH": "/bin",
    }
    assert job_environment(environ) == {"PATH": "/bin"}


def test_with_a_directory_store_aws_variables_are_the_jobs():
    assert job_environment(KEYS, store_url="file:///s") == KEYS


def test_with_a_bucket_plain_credentials_are_the_stores_unless_passed_on(resolve: Resolve):
    assert job_environment(KEYS, store_url="s3://b") == {"AWS_REGION": "r"}
    passed = job_environment(KEYS, store_url="s3://b", pass_env=("AWS_ACCESS_KEY_ID",))
    assert passed == {"AWS_ACCESS_KEY_ID": "job", "AWS_REGION": "r"}
    given = {"store": "s3://bucket", "name": "n", "no-encryption": True}
    settings = resolve(given, KEYS)
    assert settings.withheld == ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    assert "AWS_SECRET_ACCESS_KEY" not in settings.environment


def test_credentials_of_ckptruns_own_leave_the_plain_ones_to_the_job():
    environ = {**KEYS, "AWS_SESSION_TOKEN": "job", "CKPTRUN_AWS_ACCESS_KEY_ID": "store"}
    assert job_environment(environ, store_url="s3://b") == {**KEYS, "AWS_SESSION_TOKEN": "job"}
    adopt_store_credentials(environ)
    assert environ["AWS_ACCESS_KEY_ID"] == "store"
    assert "AWS_SESSION_TOKEN" not in environ  # of another pair


def test_a_region_of_ckptruns_own_leaves_the_credentials_alone():
    environ = {**KEYS, "CKPTRUN_AWS_REGION": "other"}
    adopt_store_credentials(environ)
    assert (environ["AWS_REGION"], environ["AWS_ACCESS_KEY_ID"]) == ("other", "job")


def test_a_setting_of_ckptruns_cannot_be_passed_on(resolve: Resolve):
    with pytest.raises(UsageError, match="CKPTRUN_PASSPHRASE"):
        resolve({"pass-env": ("CKPTRUN_PASSPHRASE",)})


def test_no_option_is_both_built_and_not():
    assert not OPTIONS.keys() & NOT_BUILT.keys()
