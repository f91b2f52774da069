"""A Python hook's process: ``python worker.py MODULE:FUNCTION`` calls the function with the context.

Run by path, by any interpreter from 3.8 on, and so without ckptrun and without its dependencies. What the function
prints goes to standard error; only its result goes to standard output. With ``--check`` it only says whether there is
such a function.
"""

from __future__ import annotations

import importlib
import json
import os
import sys


def main(words: list[str]) -> int:
    """Call the function, or find out whether it is there."""
    check = words[:1] == ["--check"]
    module, _, name = words[-1].partition(":")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 -- the fewer imports the better
    if sys.path[:1] == [here]:
        del sys.path[0]  # nobody's place to import from
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 -- as python -m has it
    function = importlib.import_module(module)
    for part in name.split("."):
        function = getattr(function, part)
    if not callable(function):
        raise TypeError(f"{words[-1]} cannot be called")
    if not check:
        result = function(json.load(sys.stdin))
        if result is not None:
            json.dump(result, answers)
    answers.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
