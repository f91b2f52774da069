"""Runs one function for ckptrun: the undo of an effect, or a sender. Started as ``-c``, in the job's interpreter.

Arguments: the descriptor that takes the answer, and the process that must live for this one to go on. The request
comes on standard input, as JSON; the answer is ``{"error": "..."}``, empty if all went well.
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
    """Read the request, run the function, answer."""
    answer, parent = int(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(answer, False)
    _die_with(parent)
    request = json.loads(sys.stdin.buffer.read())
    given = [str(folder) for folder in request["path"]]
    sys.path[:] = given + [folder for folder in sys.path[1:] if folder not in given]
    if request["sdk"]:
        sys.path.append(request["sdk"])
    sys.argv[:] = [request["script"] or ""]
    try:
        _run(request)
        error = ""
    except BaseException as problem:  # noqa: BLE001 - whatever it is, ckptrun is told
        error = f"{type(problem).__name__}: {problem}"[:1000]
    sys.stdout.flush()
    os.write(answer, json.dumps({"error": error}).encode())
    os.close(answer)


def _run(request: dict[str, Any]) -> None:
    function = find(request["function"], request["script"])
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
