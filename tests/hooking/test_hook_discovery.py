"""Which hooks a run has: what users write is found, or refused by name."""

from __future__ import annotations

import datetime as dt
import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from hookkit import AFTER, BEFORE, Parts, script

from ckptrun.errors import ConfigurationError, HookError
from ckptrun.hooking import discovery, options
from ckptrun.hooking.contract import Phase, Policy
from ckptrun.hooking.result import Result
from ckptrun.hooking.spec import gathered, parse

if TYPE_CHECKING:
    from pathlib import Path

ALL = tuple(Phase)


def described(folder: Path, **more: Any) -> Path:
    folder.mkdir()
    about = {
        "name": folder.name,
        "description": "Says things.",
        "phases": ["pre-checkpoint", "post-commit"],
        "run": "hook.py",
        "timeout": 5,
        "order": 90,
        "policy": {"pre-checkpoint": "ignore"},
        "require": {"post-commit": ["sent"]},
        "options": {
            "type": "object",
            "required": ["url"],
            "additionalProperties": False,
            "properties": {
                "url": {"type": "string"},
                "tables": {"type": "array", "items": {"type": "string"}},
                "port": {"type": "integer", "default": 80},
                "loud": {"type": "boolean"},
                "share": {"type": "number", "maximum": 1},
                "mode": {"enum": ["undo", "mark"]},
            },
        },
        **more,
    }
    (folder / "hook.json").write_text(json.dumps(about))
    (folder / "hook.py").write_text("")
    return folder


def refused(tmp_path: Path, *specs: str, **how: Any) -> str:
    with pytest.raises(ConfigurationError) as error:
        Parts(tmp_path, *specs, **how)
    return str(error.value)


def test_options_are_percent_encoded_and_repeatable():
    spec = parse("postgres?dsn=a%26b%3Dc+d&table=x&table=y", {})
    assert spec.target == "postgres"
    assert spec.options == {"dsn": "a&b=c+d", "table": ("x", "y")}


def test_a_value_can_come_from_the_environment_and_shows_in_no_repr():
    spec = parse("postgres?dsn=$DATABASE_URL&word=$$x", {"DATABASE_URL": "postgresql://secret"})
    assert spec.options == {"dsn": "postgresql://secret", "word": "$x"}
    assert "secret" not in repr(spec)


def test_a_variable_that_is_not_set_is_refused_by_name(tmp_path: Path):
    assert "$DATABASE_URL is not set" in refused(tmp_path, "postgres?dsn=$DATABASE_URL")


@pytest.mark.parametrize("text", ["?a=b", "name?a", "name?=b", "name?a=b&&c=d"])
def test_a_malformed_query_is_refused(text: str):
    with pytest.raises(ConfigurationError):
        parse(text, {})


def test_the_files_hooks_come_first_and_the_command_lines_options_go_over_them():
    tables = {"redis": {"url": "$R", "key": ["a", "b"]}, "postgres": {"table": "orders", "dsn": "x"}}
    found = gathered(["webhook", "postgres?table=jobs"], tables, {"R": "redis://h"})
    assert [(spec.target, spec.options) for spec in found] == [
        ("redis", {"url": "redis://h", "key": ["a", "b"]}),
        ("webhook", {}),
        ("postgres", {"table": "jobs", "dsn": "x"}),
    ]


def test_an_executable_takes_part_in_every_phase_with_its_options_as_written(tmp_path: Path):
    script(tmp_path / "notify.sh", "exit 0", python=False)
    hook = Parts(tmp_path, "./notify.sh?to=me&to=you&n=1&timeout=2m&policy=ignore&require=a,b")["notify.sh"]
    assert (hook.phases, hook.timeout) == (ALL, 120.0)
    assert hook.options == {"to": ["me", "you"], "n": "1"}
    assert hook.policy[Phase.PRE_RESTORE] is Policy.IGNORE
    assert hook.require[Phase.ON_EXIT] == ("a", "b")


def test_phases_are_chosen_among(tmp_path: Path):
    script(tmp_path / "h", "", python=False)
    hook = Parts(tmp_path, "./h?phases=on-exit,post-commit&phases=on-failure")["h"]
    assert hook.phases == (Phase.POST_COMMIT, Phase.ON_FAILURE, Phase.ON_EXIT)


def test_a_directory_has_a_hook_per_name_ordered_by_name(tmp_path: Path):
    for place in ("pre-checkpoint/20-b", "pre-checkpoint/10-a", "post-checkpoint/10-a", "on-exit/30-c"):
        script(tmp_path / "hooks.d" / place, "", python=False)
    (tmp_path / "hooks.d/README").write_text("not a phase")
    (tmp_path / "hooks.d/on-exit/.keep").write_text("")
    hooks = Parts(tmp_path, "hooks.d").hooks.hooks
    assert [hook.name for hook in hooks] == ["10-a", "20-b", "30-c"]
    assert hooks[0].phases == (Phase.PRE_CHECKPOINT, Phase.POST_CHECKPOINT)


def test_hooks_of_one_name_are_numbered(tmp_path: Path):
    script(tmp_path / "h", "", python=False)
    hooks = Parts(tmp_path, "./h?to=a", "./h?to=b").hooks.hooks
    assert [(hook.name, hook.options["to"]) for hook in hooks] == [("h", "a"), ("h-2", "b")]


def test_a_folder_with_a_hook_json_says_how_it_is_run(tmp_path: Path):
    described(tmp_path / "mine")
    spec = "./mine?url=http://h&tables=x&port=8080&loud=yes&share=0.5"
    hook = Parts(tmp_path, spec)["mine"]
    assert hook.options == {"url": "http://h", "tables": ["x"], "port": 8080, "loud": True, "share": 0.5}
    assert hook.phases == (Phase.PRE_CHECKPOINT, Phase.POST_COMMIT)
    assert (hook.timeout, hook.order, hook.aborts(Phase.PRE_CHECKPOINT)) == (5, 90, False)
    assert hook.require == {Phase.POST_COMMIT: ("sent",)}
    assert hook.programs[Phase.POST_COMMIT] == (sys.executable, "-E", str(tmp_path / "mine/hook.py"))


def test_what_the_user_says_goes_over_what_the_hook_says(tmp_path: Path):
    described(tmp_path / "mine")
    hook = Parts(tmp_path, "./mine?url=u&timeout=9&policy=abort&phases=pre-checkpoint&require=x")["mine"]
    assert (hook.timeout, hook.phases) == (9.0, (Phase.PRE_CHECKPOINT,))
    assert hook.aborts(Phase.PRE_CHECKPOINT)
    assert hook.require == {Phase.PRE_CHECKPOINT: ("x",)}


def test_a_hook_with_a_line_per_phase_takes_part_in_those_only(tmp_path: Path):
    """No process is started for the others."""
    run = Parts(tmp_path, "command?post-commit=true&on-exit=true", "command?on-exit=true&phases=on-exit")
    assert [list(hook.programs) for hook in run.hooks.hooks] == [
        [Phase.POST_COMMIT, Phase.ON_EXIT],
        [Phase.ON_EXIT],
    ]
    bracket = run.hooks.bracket(BEFORE)
    bracket.open()
    bracket.close(AFTER)
    assert run.calls() == []


def test_hooks_that_hold_somebody_begin_after_all_others_and_close_before_them(tmp_path: Path):
    for name, order, holds in (("early", 10, True), ("late", 99, False), ("gpu", 95, True)):
        place = tmp_path / name
        place.mkdir()
        (place / "hook.sh").write_text("#!/bin/sh\n")
        (place / "hook.sh").chmod(0o755)
        about = {"phases": ["pre-checkpoint", "post-checkpoint"], "run": "hook.sh", "description": "x"}
        (place / "hook.json").write_text(json.dumps({**about, "name": name, "order": order, "holds": holds}))
    run = Parts(tmp_path, "./gpu", "./early", "./late")
    bracket = run.hooks.bracket(BEFORE)
    bracket.open(holding=False)
    assert [name for name, _, _ in run.calls()] == ["late"]
    bracket.open(holding=True)
    bracket.close(AFTER)
    assert [name for name, _, _ in run.calls()] == ["late", "early", "gpu", "gpu", "early", "late"]


def test_the_ready_made_hooks_that_hold_somebody_say_so():
    abouts = [discovery.description(folder) for folder in discovery.ready_made().values()]
    assert {about["name"] for about in abouts if about.get("holds")} == {"postgres", "redis", "cuda"}


def test_a_hook_that_is_vetoed_before_it_could_hold_is_not_begun(tmp_path: Path):
    script(tmp_path / "no", "answer(outcome='veto')")
    run = Parts(tmp_path, "./no")
    run.hooks.add(replace(run["no"], name="gpu", holds=True))
    bracket = run.hooks.bracket(BEFORE)
    with pytest.raises(HookError):
        bracket.open(holding=False)
    bracket.close(AFTER)
    assert {name for name, _, _ in run.calls()} == {"no"}


def test_a_phase_that_has_no_line_cannot_be_chosen(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="does nothing in on-exit"):
        Parts(tmp_path, "command?post-commit=true&phases=on-exit")


def test_lower_orders_begin_earlier(tmp_path: Path):
    described(tmp_path / "late")
    described(tmp_path / "early", order=-5)
    script(tmp_path / "h", "", python=False)
    hooks = Parts(tmp_path, "./late?url=u", "./h", "./early?url=u").hooks.hooks
    assert [hook.name for hook in hooks] == ["early", "h", "late"]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("url=u&tabel=x", "there is no option 'tabel'; there are: url, tables"),
        ("", "'url' must be given"),
        ("url=u&port=many", "port must be integer"),
        ("url=u&share=1.5", "share is not as it must be (maximum 1)"),
        ("url=u&mode=redo", "mode must be one of undo, mark"),
        ("url=u&phases=on-exit", "it does nothing in on-exit; its phases are pre-checkpoint, post-commit"),
        ("url=u&phases=pre-commit", "'pre-commit' is no phase"),
        ("url=u&policy=maybe", "policy 'maybe' is none"),
        ("url=u&timeout=0", "longer than zero"),
        ("url=u&timeout=25d", "timeout 25d is too long: a hook may take 7 days at most"),
        ("url=u&timeout=soon", "'soon' is no duration"),
        ("url=u&python=x", "python=x has no effect"),
    ],
)
def test_a_wrong_option_is_refused_by_name(tmp_path: Path, query: str, says: str):
    described(tmp_path / "mine")
    told = refused(tmp_path, f"./mine?{query}")
    assert says in told
    assert "--hook ./mine" in told


def test_a_wrong_value_is_not_repeated_since_it_may_be_a_secret(tmp_path: Path):
    described(tmp_path / "mine")
    assert "hunter2" not in refused(tmp_path, "./mine?url=u&port=hunter2")


def test_a_module_that_a_hook_needs_is_looked_for_at_the_start(tmp_path: Path):
    described(tmp_path / "mine", modules=["json", "no_such_module_here"], extra="postgres")
    told = refused(tmp_path, "./mine?url=u")
    assert "no_such_module_here is not there; pip install 'ckptrun[postgres]'" in told


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"phases": ["sometimes"]}, "must be one of"),
        ({"colour": "red"}, "'colour' was unexpected"),
        ({"run": "other.py"}, "no program other.py"),
    ],
)
def test_a_broken_hook_json_is_refused_with_its_path(tmp_path: Path, more: dict[str, Any], says: str):
    described(tmp_path / "mine", **more)
    told = refused(tmp_path, "./mine?url=u")
    assert says in told
    assert "mine/hook.json" in told


def test_what_is_not_there_is_refused(tmp_path: Path):
    assert "there is no such hook, file or directory" in refused(tmp_path, "postgrse?dsn=x")


def test_a_file_that_is_not_executable_is_refused_by_name(tmp_path: Path):
    script(tmp_path / "d/on-exit/tell", "", python=False).chmod(0o644)
    (tmp_path / "h").write_text("")
    assert f"{tmp_path}/h is not executable" in refused(tmp_path, "./h")
    assert "d/on-exit/tell is not executable" in refused(tmp_path, "./d")


def test_a_folder_that_is_named_like_no_phase_is_refused(tmp_path: Path):
    script(tmp_path / "d/pre-chekpoint/x", "", python=False)
    assert "'pre-chekpoint' is no phase" in refused(tmp_path, "./d")


def test_a_function_is_called_in_its_own_process(tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        "import os\ndef tell(context):\n    print('to nobody')\n"
        "    return {'reason': context['phase'], 'data': {'pid': os.getpid()}}\n"
    )
    parts = Parts(tmp_path, "mine:tell?phases=on-exit")
    hook = parts["mine:tell"]
    assert hook.phases == (Phase.ON_EXIT,)
    from ckptrun.hooking.contract import Occasion  # noqa: PLC0415

    ran = parts.hooks.call(hook, Occasion(Phase.ON_EXIT, exit={"by": "job", "code": 0, "final": True}), None)
    assert (ran.result.reason, ran.stderr) == ("on-exit", "to nobody\n")
    assert ran.result.data is not None
    assert ran.result.data["pid"] != 0


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("nowhere:tell", "No module named 'nowhere'"),
        ("mine:tall", "has no attribute 'tall'"),
        ("mine:WORD", "mine:WORD cannot be called"),
        ("broken:tell", "ZeroDivisionError"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused_at_the_start(tmp_path: Path, target: str, says: str):
    (tmp_path / "mine.py").write_text("WORD = 1\ndef tell(context): pass\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    assert says in refused(tmp_path, target)


def test_another_interpreter_can_be_named(tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        "import sys\ndef tell(context): return {'reason': sys.flags.utf8_mode}\n"
    )
    wrapper = script(tmp_path / "py", f'exec {sys.executable} -X utf8 "$@"', python=False)
    hook = Parts(tmp_path, f"mine:tell?python={wrapper}")["mine:tell"]
    assert hook.programs[Phase.ON_EXIT][0] == str(wrapper)


def test_the_published_schemas_are_schemas():
    for name in ("context", "result", "hook"):
        jsonschema.Draft202012Validator.check_schema(options.schema(name))


@pytest.mark.parametrize("folder", discovery.ready_made().values(), ids=lambda folder: folder.name)
def test_every_ready_made_hook_says_what_it_is(folder: Path):
    about = discovery.description(folder)
    assert about["name"] == folder.name
    assert (folder / "README.md").is_file()
    jsonschema.Draft202012Validator.check_schema(about.get("options", {}))


RESULTS = [
    ({}, True),
    ({"outcome": "veto", "retry_after": 1.5, "reason": "r", "done": ["a"]}, True),
    ({"data": {}, "events": [{"event": "e"}]}, True),
    ({"outcome": "great"}, False),
    ({"retry_after": -1}, False),
    ({"retry_after": True}, False),
    ({"reason": 1}, False),
    ({"done": "a"}, False),
    ({"done": [1]}, False),
    ({"data": []}, False),
    ({"data": None}, False),
    ({"events": [{}]}, False),
    ({"events": [{"event": ""}]}, False),
    ({"other": 1}, False),
]  # fmt: skip


@pytest.mark.parametrize(("value", "good"), RESULTS)
def test_the_code_and_the_schema_agree_on_results(value: dict[str, Any], good: bool):
    try:
        Result.from_json(value)
    except ValueError:
        accepted = False
    else:
        accepted = True
    assert accepted is good
    assert (options.invalid(value, options.schema("result")) == "") is good


def test_more_data_than_may_be_stored_is_refused():
    with pytest.raises(ValueError, match="64 KiB"):
        Result.from_json({"data": {"x": "y" * (64 << 10)}})


@pytest.mark.parametrize("value", [dt.date(2026, 3, 1), float("inf"), [dt.time(1)]])
def test_a_value_that_json_does_not_have_is_refused_by_its_options_name(tmp_path: Path, value: Any):
    script(tmp_path / "h", "", python=False)
    with pytest.raises(ConfigurationError, match=r"\[hooks\.\./h\]: option 'since' is a value") as caught:
        Parts(tmp_path, tables={"./h": {"since": value}})
    assert "write it as a string" in caught.value.hint


@pytest.mark.parametrize("text", ['{"retry_after": 1e10}', '{"retry_after": ' + "9" * 400 + "}"])
def test_a_wait_that_no_clock_can_keep_is_refused(text: str):
    with pytest.raises(ValueError, match="'retry_after' is wrong"):
        Result.from_bytes(text.encode())


def test_a_number_that_is_none_is_no_json():
    with pytest.raises(ValueError, match="is no JSON"):
        Result.from_bytes(b'{"data": {"loss": NaN}}')
