"""Finds the hooks of a run at its start, and refuses by name what cannot be run.

Called by ``app``. Looks for, in this order: a ready-made hook of that name, an executable file, a directory, and
``module:function``.
"""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptrun.errors import ConfigurationError
from ckptrun.hooking import options, runner
from ckptrun.hooking.contract import ORDER, TIMEOUT_SECONDS, Hook, Phase, Policy

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

    from ckptrun.hooking.options import Common
    from ckptrun.hooking.spec import Spec

HOOK_FILE = "hook.json"
WORKER = Path(__file__).parent / "worker.py"
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def ready_made_folder() -> Path:
    """Return where the ready-made hooks lie: in the package, or in a clone beside it."""
    package = Path(__file__).parents[1]
    installed = package / "_hooks"
    return installed if installed.is_dir() else package.parent / "hooks"


def ready_made() -> dict[str, Path]:
    """Return the folders of the ready-made hooks by name."""
    folder = ready_made_folder()
    return {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{HOOK_FILE}"))}


class Discovery:
    """Turns specs into hooks.

    Args:
        where: what relative paths start from.
        cwd: where hooks run, and modules are looked for.
        environment: what hooks get; a module is looked for with it.
        launcher: see `runner.run`.
    """

    def __init__(
        self, where: Path, cwd: Path, environment: Mapping[str, str], launcher: Sequence[str]
    ) -> None:
        self._where = where
        self._cwd = cwd
        self._environment = environment
        self._launcher = launcher
        self._ready = ready_made()

    def hooks(self, specs: Iterable[Spec]) -> tuple[Hook, ...]:
        """Return the hooks that are asked for, in the order in which they begin.

        Raises:
            ConfigurationError: one is not there, cannot be run, or has an option that is wrong.
        """
        found = [hook for spec in specs for hook in self._found(spec)]
        return tuple(sorted(_named_apart(found), key=lambda hook: hook.place))

    def _found(self, spec: Spec) -> Iterator[Hook]:
        common = options.split(spec)
        path = self._where / Path(spec.target).expanduser()
        if spec.target in self._ready:
            yield described(self._ready[spec.target], spec, common)
        elif path.is_dir() and (path / HOOK_FILE).is_file():
            yield described(path, spec, common)
        elif path.is_dir():
            yield from _directory(path, spec, common)
        elif path.exists():
            yield _file(path, spec, common)
        elif _FUNCTION.fullmatch(spec.target):
            yield self._function(spec, common)
        else:
            ready = ", ".join(self._ready) or "none"
            raise ConfigurationError(
                f"{spec.where}: there is no such hook, file or directory", hint=f"ready-made ones: {ready}"
            )

    def _function(self, spec: Spec, common: Common) -> Hook:
        argv = (common.python or sys.executable, str(WORKER), spec.target)
        call = runner.Call(
            (*argv[:2], "--check", spec.target),
            str(self._cwd),
            self._environment,
            b"",
            common.timeout or TIMEOUT_SECONDS,
        )
        result = runner.judge(runner.run(self._launcher, call), call.timeout)
        if result.reason:
            raise ConfigurationError(
                f"{spec.where}: {result.reason}",
                hint=f"it is imported by {argv[0]} in {self._cwd}; python=PATH names another interpreter",
            )
        return _plain(spec.target, dict.fromkeys(common.phases or Phase, argv), spec, common)


def described(folder: Path, spec: Spec, common: Common) -> Hook:
    """Return the hook of a folder with a ``hook.json``.

    Raises:
        ConfigurationError: the folder is broken, something it needs is missing, or an option is wrong.
    """
    about = description(folder)
    _refuse_python(spec, common)
    for module in about.get("modules", ()):
        if find_spec(module) is None:
            extra = about.get("extra")
            hint = f"pip install 'ckptrun[{extra}]'" if extra else f"install {module} beside ckptrun"
            raise ConfigurationError(f"{spec.where}: the Python module {module} is not there", hint=hint)
    phases = [Phase(name) for name in about["phases"]]
    if about.get("phases_by_option"):
        phases = [phase for phase in phases if phase in common.own] or phases  # none at all: its schema knows
    for phase in common.phases:
        if phase not in phases:
            raise ConfigurationError(
                f"{spec.where}: it does nothing in {phase}", hint="its phases are " + ", ".join(phases)
            )
    program = folder / about["run"]
    argv = _interpreted(program) if program.suffix == ".py" else _executable(program, spec.where)
    phases = [phase for phase in phases if phase in (common.phases or phases)]
    if common.messages and not about.get("messages"):
        raise ConfigurationError(
            f"{spec.where}: it takes no messages", hint="leave out messages=, or write a hook that takes them"
        )
    _check_messages(phases, spec, common)
    require = {Phase(name): tuple(words) for name, words in about.get("require", {}).items()}
    policy = {Phase(name): Policy(word) for name, word in about.get("policy", {}).items()}
    return Hook(
        about["name"],
        dict.fromkeys(phases, argv),
        source=str(folder),
        description=about["description"],
        options=options.checked(common.own, about.get("options", {}), spec.where),
        timeout=common.timeout or about.get("timeout", TIMEOUT_SECONDS),
        policy=dict.fromkeys(phases, common.policy) if common.policy else policy,
        require=dict.fromkeys(phases, common.require) if common.require else require,
        order=about.get("order", ORDER),
        messages=common.messages,
        stays=about.get("stays", False),
        holds=about.get("holds", False),
    )


def description(folder: Path) -> dict[str, Any]:
    """Return what a folder's ``hook.json`` says.

    Raises:
        ConfigurationError: it is not as ``schema/hook.json`` wants it.
    """
    path = folder / HOOK_FILE
    try:
        value: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    problem = options.invalid(value, options.schema("hook"))
    if not problem and not (folder / value["run"]).is_file():
        problem = f"there is no program {value['run']} beside it"
    if problem:
        raise ConfigurationError(f"{path}: {problem}")
    return value


def _directory(folder: Path, spec: Spec, common: Common) -> Iterator[Hook]:
    """Return the hooks of ``DIR/<phase>/NAME``: the same NAME in several phases is one hook."""
    programs: dict[str, dict[Phase, tuple[str, ...]]] = {}
    for place in sorted(folder.iterdir()):
        if not place.is_dir() or place.name.startswith("."):
            continue
        phase = options.phase_named(place.name, f"{spec.where}: {place}")
        for path in sorted(place.iterdir()):
            if not path.name.startswith(".") and (not common.phases or phase in common.phases):
                programs.setdefault(path.name, {})[phase] = _executable(path, spec.where)
    _check_messages(set().union(*programs.values()), spec, common)
    for name in sorted(programs):
        yield _plain(name, programs[name], spec, common, source=str(folder))


def _file(path: Path, spec: Spec, common: Common) -> Hook:
    argv = _executable(path, spec.where)
    return _plain(path.name, dict.fromkeys(common.phases or Phase, argv), spec, common, source=str(path))


def _plain(
    name: str, programs: Mapping[Phase, tuple[str, ...]], spec: Spec, common: Common, source: str = ""
) -> Hook:
    """Return a hook that says nothing about itself: its options are strings, or what ckptrun.toml has."""
    if not _FUNCTION.fullmatch(spec.target):
        _refuse_python(spec, common)
    own = {key: list(value) if isinstance(value, tuple) else value for key, value in common.own.items()}
    return Hook(
        name,
        programs,
        source=source or spec.target,
        options=own,
        timeout=common.timeout or TIMEOUT_SECONDS,
        policy=dict.fromkeys(programs, common.policy) if common.policy else {},
        require=dict.fromkeys(programs, common.require) if common.require else {},
        messages=common.messages and Phase.POST_COMMIT in programs,
    )


def _check_messages(phases: Container[Phase], spec: Spec, common: Common) -> None:
    if common.messages and Phase.POST_COMMIT not in phases:
        raise ConfigurationError(
            f"{spec.where}: messages are handed over in {Phase.POST_COMMIT}, in which it does nothing",
            hint=f"have it do something in {Phase.POST_COMMIT}, or leave out messages=",
        )


def _refuse_python(spec: Spec, common: Common) -> None:
    if common.python:
        raise ConfigurationError(
            f"{spec.where}: python={common.python} has no effect", hint="it is for hooks MODULE:FUNCTION"
        )


def _executable(path: Path, where: str) -> tuple[str, ...]:
    if not path.is_file():
        raise ConfigurationError(f"{where}: {path} is no file", hint="name a program")
    if not os.access(path, os.X_OK):
        raise ConfigurationError(
            f"{where}: {path} is not executable", hint="make it so: chmod +x, and #! in its first line"
        )
    return (str(path.absolute()),)


def _interpreted(program: Path) -> tuple[str, ...]:
    """Run by ckptrun's own interpreter, whatever the job's PYTHON variables say."""
    return (sys.executable, "-E", str(program.absolute()))


def _named_apart(hooks: Iterable[Hook]) -> Iterator[Hook]:
    """Number hooks of the same name: ``webhook``, ``webhook-2``."""
    seen: dict[str, int] = {}
    for hook in hooks:
        count = seen[hook.name] = seen.get(hook.name, 0) + 1
        yield hook if count == 1 else replace(hook, name=f"{hook.name}-{count}")
