"""The SDK by itself: what it needs, what it costs others, and what it does where there is no ckptrun."""

from __future__ import annotations

import ast
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ckptrun
from ckptrun import job
from ckptrun.job import _page

FOLDER = Path(ckptrun.__file__).parent
SOURCES = [FOLDER / "__init__.py", *sorted((FOLDER / "job").rglob("*.py"))]
OLDEST = (3, 8)
ADAPTERS = FOLDER / "job" / "adapters"
OF_LIBRARIES = {"huggingface": ("transformers",), "langgraph": ("langchain_core",)}
"""What comes with a library that is adapted, or has another name."""

ALONE = """
import os, sys
import ckptrun.job as job
assert not [name for name in sys.modules if name.startswith("ckptrun.") and not name.startswith("ckptrun.job")]
assert job.checkpoint() is None and job.checkpoint(wait=True) is None
assert not job.under_ckptrun()
with job.critical(seconds=5):
    with job.critical():
        job.heartbeat(within=3)
@job.critical()
def f(x):
    return x + 1
assert f(1) == 2
job.heartbeat()
job.report(loss=0.5)
calls = []
job.on_restore(lambda: calls.append("restore"))
job.on_checkpoint(lambda: calls.append("checkpoint"))
job.safe_point()
assert calls == []
assert (job.incarnation(), job.restores(), job.lineage()) == (0, 0, None)
assert job.environment() == dict(os.environ)
job.guard(loss=float("nan"), error=0.5)
loop = job.steps([5, 6], within=3, checkpoint_every=1)
assert len(loop) == 2 and list(loop) == [5, 6] == list(loop)
assert list(job.steps(iter("ab"))) == ["a", "b"]
try:
    job.rollback("loss is nan")
except job.NotUnderCkptrunError as error:
    assert "ckptrun -- COMMAND" in str(error)
else:
    raise AssertionError
print("fine")
"""


def interpreters() -> list[str]:
    """Return this interpreter, and one of every other version that can be found and runs."""
    installed = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    named = (shutil.which(f"python3.{minor}") for minor in range(OLDEST[1], 20))
    found = {sys.version_info[:2]: sys.executable}
    for path in filter(None, (*map(str, installed.glob("3.*/bin/python")), *named)):
        asked = subprocess.run(
            [path, "-S", "-c", "import sys; print(*sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        if asked.returncode == 0 and (version := tuple(map(int, asked.stdout.split()))) >= OLDEST:
            found.setdefault(version, path)
    return list(found.values())


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_the_sdk_is_written_in_the_oldest_pythons_grammar(path: Path):
    ast.parse(path.read_text(encoding="utf-8"), feature_version=OLDEST)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_the_sdk_needs_the_standard_library_only(path: Path):
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    foreign = {
        name
        for name in names
        if name.split(".")[0] not in sys.stdlib_module_names and not name.startswith("ckptrun.job")
    }
    if ADAPTERS in path.parents:
        library = path.relative_to(ADAPTERS).parts[0].partition(".")[0]
        own = {library, *OF_LIBRARIES.get(library, ())}
        foreign = {name for name in foreign if name.split(".")[0] not in own}
    assert not foreign


@pytest.mark.parametrize("python", interpreters())
def test_without_ckptrun_every_call_has_its_plain_meaning_in_every_python_there_is(
    python: str, tmp_path: Path
):
    package = tmp_path / "ckptrun"
    package.mkdir()
    shutil.copy(FOLDER / "__init__.py", package)
    shutil.copytree(FOLDER / "job", package / "job", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [python, "-S", "-c", ALONE], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "fine\n", done.stderr


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf")])
def test_a_heartbeat_promises_a_time(wrong: float):
    with pytest.raises(job.UsageError, match="within"):
        job.heartbeat(within=wrong)


@pytest.mark.parametrize("wrong", [float("nan"), float("-inf"), "much", None])
def test_a_report_has_finite_numbers(wrong: float):
    with pytest.raises(job.UsageError, match="loss"):
        job.report(loss=wrong)


def test_a_critical_section_decorates_no_function_whose_body_runs_later():
    async def later() -> None: ...

    with pytest.raises(job.UsageError, match="later"):
        job.critical()(later)


def test_safe_points_tell_of_restores_and_of_checkpoints_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "page"
    numbers = itertools.count(2, 2)

    def say(**fields: int | str) -> None:
        page = _page.pack(next(numbers), _page.Page(run="r", **fields))
        path.write_bytes(page.ljust(_page.SIZE, b"\0"))

    path.write_bytes(bytes(_page.SIZE))
    monkeypatch.setattr(_page, "READER", _page.Reader(str(path)))
    monkeypatch.setattr("ckptrun.job._safepoint._callbacks", job._safepoint._Callbacks())
    told: list[str] = []
    say(incarnation=1)

    @job.on_checkpoint
    def committed() -> None:
        told.append("checkpoint")
        job.safe_point()  # does nothing inside a callback

    @job.on_restore
    def restored() -> None:
        told.append("restore")

    job.safe_point()
    assert told == []
    say(incarnation=1, newest="a-1")
    job.safe_point()
    job.safe_point()
    assert told == ["checkpoint"]
    say(incarnation=2, newest="a-2")
    job.heartbeat()
    job.safe_point()
    assert told == ["checkpoint", "restore", "checkpoint"]


def test_a_callback_that_raises_keeps_the_others_from_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "page"
    path.write_bytes(_page.pack(0, _page.Page(1, run="r")).ljust(_page.SIZE, b"\0"))
    monkeypatch.setattr(_page, "READER", _page.Reader(str(path)))
    monkeypatch.setattr("ckptrun.job._safepoint._callbacks", job._safepoint._Callbacks())
    told: list[str] = []

    @job.on_restore
    def broken() -> None:
        raise ValueError("no connection")

    job.on_restore(lambda: told.append("second"))
    path.write_bytes(_page.pack(2, _page.Page(2, run="r")).ljust(_page.SIZE, b"\0"))
    with pytest.raises(ValueError, match="no connection"):
        job.safe_point()
    job.safe_point()
    assert told == ["second"]
