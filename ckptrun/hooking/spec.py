"""What users write about hooks, read: ``--hook SPEC`` with its query, and ``[hooks.SPEC]`` of ckptrun.toml.

Values ``$NAME`` come from ckptrun's environment, so that no secret stands on a command line. What a target is, and
whether its options are right, is `discovery`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from ckptrun.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True, slots=True)
class Spec:
    """A hook as asked for.

    Args:
        target: a ready-made hook's name, a path, or ``module:function``.
        options: by name: a string, a tuple of strings where a query has it several times, or any value of TOML.
        where: how the user named it, for messages.
    """

    target: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    where: str = ""


def parse(text: str, environ: Mapping[str, str]) -> Spec:
    """Read a SPEC: ``TARGET?option=value&option=value``, percent-encoded as in a URL.

    Raises:
        ConfigurationError: it has no target, an option without a value, or names a variable that is not set.
    """
    target, mark, query = text.partition("?")
    where = f"--hook {target}"
    if not target:
        raise ConfigurationError(
            f"--hook {text!r} names no hook", hint="write a name or a path before the '?'"
        )
    found: dict[str, list[str]] = {}
    for pair in query.split("&") if mark and query else ():
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ConfigurationError(
                f"{where}: {pair!r} is no option", hint="write NAME?option=value&option=value"
            )
        found.setdefault(unquote(name), []).append(str(_expanded(unquote(value), where, environ)))
    options = {name: values[0] if len(values) == 1 else tuple(values) for name, values in found.items()}
    return Spec(target, options, where)


def gathered(
    texts: Iterable[str], tables: Mapping[str, Mapping[str, Any]], environ: Mapping[str, str]
) -> list[Spec]:
    """Return all hooks that are asked for: those of the file first; a SPEC's options go over its table's.

    Raises:
        ConfigurationError: see `parse`.
    """
    specs = [parse(text, environ) for text in texts]
    asked = {spec.target for spec in specs}
    known = {name: from_table(name, table, environ) for name, table in tables.items()}
    over = [
        Spec(spec.target, {**known[spec.target].options, **spec.options}, spec.where)
        if spec.target in known
        else spec
        for spec in specs
    ]
    return [spec for name, spec in known.items() if name not in asked] + over


def from_table(target: str, table: Mapping[str, Any], environ: Mapping[str, str]) -> Spec:
    """Read ``[hooks.TARGET]``.

    Raises:
        ConfigurationError: it names a variable that is not set.
    """
    where = f"[hooks.{target}]"
    return Spec(target, {name: _expanded(value, where, environ) for name, value in table.items()}, where)


def _expanded(value: Any, where: str, environ: Mapping[str, str]) -> Any:
    """Return a value, or that of the variable that it names; ``$$`` at its beginning is a dollar sign."""
    if isinstance(value, list | tuple):
        return [_expanded(item, where, environ) for item in value]
    if not isinstance(value, str) or not value.startswith("$"):
        return value
    if value.startswith("$$"):
        return value[1:]
    name = value[1:]
    if name not in environ:
        raise ConfigurationError(
            f"{where}: {value} is not set in the environment",
            hint=f"export {name}, or write $$ for a value that begins with a dollar sign",
        )
    return environ[name]
