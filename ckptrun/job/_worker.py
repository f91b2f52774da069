"""Runs functions for ckptrun: the undo of an effect, or a sender. Started as ``-c``, in the job's interpreter.

Arguments: the descriptor of a socket, and the process that must live for this one to go on. A line of JSON comes first
that says where functions are found, then one for each call; each is answered by a line ``{"error": "..."}``, empty if
all went well. The process ends when nobody asks any more.
"""

from __future__ import annotations

import json
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Sequence

_PR_SET_PDEATHSIG = 1
_SIGKILL = 9
MAIN = "__ckptrun_main__"
"""Name under which the job's script is loaded: what it does under ``if __name__ == "__main__"`` is not done."""


def main() -> None:
    """Read requests, run the functions, answer."""
    channel, parent = int(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(channel, False)
    _die_with(parent)
    with open(channel, "rb", closefd=False) as lines:
        setting = json.loads(lines.readline())
        given = [str(folder) for folder in setting["path"]]
        sys.path[:] = given + [folder for folder in sys.path[1:] if folder not in given]
        for folder in setting["sdk"]:
            os.set_inheritable(folder, False)
            sys.path.append(f"/proc/self/fd/{folder}")  # by its name it may be behind closed doors
        sys.argv[:] = [setting["script"] or ""]
        found: dict[str, Callable[..., Any]] = {}
        for line in lines:
            answer = json.dumps({"error": _error(json.loads(line), setting["script"], found)}) + "\n"
            sys.stdout.flush()
            os.write(channel, answer.encode())


def _error(request: dict[str, Any], script: Any, found: dict[str, Callable[..., Any]]) -> str:
    """Do what is asked; return what went wrong."""
    try:
        name = request["function"]
        if name not in found:
            found[name] = find(name, script)
        _run(found[name], request)
    except BaseException as problem:  # noqa: BLE001 - whatever it is, ckptrun is told
        return f"{type(problem).__name__}: {problem}"[:1000]
    return ""


def _run(function: Callable[..., Any], request: dict[str, Any]) -> None:
    result = request["result"]
    filled = {"key": request["key"], "result": result.get("value") if isinstance(result, dict) else None}
    call(function, request["args"], request["kwargs"], filled)


def call(
    function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], filled: dict[str, Any]
) -> None:
    """Call a function to its end; parameters that are named in `filled`, and not given, get what stands there."""
    named = dict(kwargs)
    for name in _parameters(function)[len(args) :]:
        if name in filled:
            named.setdefault(name, filled[name])
    outcome = function(*args, **named)
    if hasattr(outcome, "__await__"):
        import asyncio

        async def wait() -> None:
            await outcome

        asyncio.run(wait())


def find_here(name: str) -> Callable[..., Any]:
    """Return the function of that name in this process."""
    import importlib

    module, _, path = name.partition(":")
    return _inside(importlib.import_module(module), path)


def find(name: str, script: Any) -> Callable[..., Any]:
    """Return the function ``module:qualified.name``; of the module ``__main__``, that of the script."""
    module_name, _, path = name.partition(":")
    if module_name == "__main__":
        import runpy
        import types

        module = types.ModuleType(MAIN)
        sys.modules[MAIN] = module  # what it defines may look itself up
        found: Any = runpy.run_path(script, run_name=MAIN)
        module.__dict__.update(found)
        found = module
    else:
        import importlib

        found = importlib.import_module(module_name)
    return _inside(found, path)


def _inside(found: Any, path: str) -> Callable[..., Any]:
    for part in path.split("."):
        found = getattr(found, part)
    # what a decorator of the SDK stands before is not what is to be run here
    return getattr(found, "__ckptrun_plain__", found)  # type: ignore[no-any-return]


def _parameters(function: Callable[..., Any]) -> list[str]:
    """Return the names of its parameters, in order."""
    import inspect

    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def _die_with(parent: int) -> None:
    """Have the kernel end this process with ckptrun: an undo must not run on while the next run does it again."""
    try:
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGKILL)
    except (ImportError, OSError, AttributeError):
        pass
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    main()
