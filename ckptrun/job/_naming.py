"""How a function is named so that another process can run it, as ``module:qualified.name``, and found there."""

from __future__ import annotations

import os
import sys

from ckptrun.job import _page
from ckptrun.job._errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PLACE_BYTES = 16 * 1024
_here: dict[str, Any] = {}


def name_of(function: Any) -> str:
    """Return the name of a function, or a name as it is.

    Raises:
        UsageError: it has none that another process could use.
    """
    if isinstance(function, str):
        module, colon, name = function.partition(":")
        if not (module and colon and name):
            raise UsageError(f"{function!r} names no function", "write 'module:function'")
        if module == "__main__":
            _script(function)
        return function
    name = getattr(function, "__qualname__", "")
    module = getattr(function, "__module__", None) or ""
    if not callable(function) or not name or not module or "<" in name:
        raise UsageError(
            f"{function!r} has no name by which another process could find it",
            "an undo or a sender is a function at the top level of a module",
        )
    if module == "__main__":
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        if spec is not None and spec.name:
            module = spec.name  # python -m
        else:
            _script(name)
    return f"{module}:{name}"


def place() -> dict[str, Any]:
    """Return what another process needs to find what this one names: interpreter, script, search path, folder."""
    pid = os.getpid()
    if _here.get("pid") != pid:
        path: list[str] = []
        size = 0
        for folder in sys.path:
            absolute = os.path.abspath(folder)  # noqa: PTH100
            size += len(absolute) + 4
            if not absolute.startswith(_page.HOME) and absolute not in path and size < _PLACE_BYTES:
                path.append(absolute)
        script = _main_file()
        _here["place"] = {
            "executable": sys.executable,
            "script": os.path.abspath(script) if script else None,  # noqa: PTH100
            "path": path,
            "cwd": os.getcwd(),  # noqa: PTH109
        }
        _here["pid"] = pid
    return dict(_here["place"])


def _main_file() -> str | None:
    return getattr(sys.modules.get("__main__"), "__file__", None)


def _script(name: str) -> None:
    if not _main_file():
        raise UsageError(
            f"{name} cannot be found by another process: this program is no file",
            "put the function into a module",
        )
