"""Which command a command line means. Pure.

``ckptrun -- CMD``, ``ckptrun run -- CMD`` and ``ckptrun CMD`` are one: options end at the first word that is
none, and a subcommand wins over a program of the same name, unless ``--`` stands before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

RUN = "run"


def route(
    words: Sequence[str], subcommands: Collection[str], takes_value: Collection[str], alone: Collection[str]
) -> list[str]:
    """Return ``words`` with the subcommand as the first word.

    Args:
        words: the arguments, without the program's name.
        subcommands: their names.
        takes_value: options of ``run``, as ``--name``, that are followed by a value.
        alone: options that are the whole program's when they come first, as ``--help``.
    """
    if words and words[0] in alone:
        return list(words)
    position = 0
    while position < len(words):
        word = words[position]
        if word == "--" or not word.startswith("-") or word == "-":
            break
        position += 2 if word in takes_value else 1
    options, rest = list(words[:position]), list(words[position:])
    if rest and rest[0] in subcommands:
        return [rest[0], *options, *rest[1:]]
    return [RUN, *options, *rest]
