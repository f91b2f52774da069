"""A hook's options, checked: those that the runner itself understands, and the hook's own by its JSON schema.

Called by `discovery`. jsonschema is imported only where there is a schema: most runs have no hooks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptrun.errors import ConfigurationError, UsageError
from ckptrun.hooking.contract import Phase, Policy
from ckptrun.settings.units import parse_duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptrun.core.model import Json
    from ckptrun.hooking.spec import Spec

SCHEMAS = Path(__file__).parent / "schema"
LONGEST_DAYS = 7
"""A call of a hook may take so long at most; poll(2), by which it is waited for, cannot wait for 25 days."""
RUNNERS = ("timeout", "policy", "phases", "require", "python", "messages")
"""Options that every hook has; the runner keeps them to itself."""


@dataclass(frozen=True, slots=True)
class Common:
    """What the user says about running a hook; None or empty where nothing is said."""

    timeout: float | None = None
    policy: Policy | None = None
    phases: tuple[Phase, ...] = ()
    require: tuple[str, ...] = ()
    python: str = ""
    messages: bool = False
    own: Mapping[str, Any] = field(default_factory=dict, repr=False)


def split(spec: Spec) -> Common:
    """Take the runner's options out of a spec's.

    Raises:
        ConfigurationError: one of them is wrong.
    """
    given = spec.options
    own = {name: value for name, value in given.items() if name not in RUNNERS}
    for name, value in own.items():
        _check_json(value, name, spec.where)
    timeout = None
    if "timeout" in given:
        timeout = _timeout(spec, given["timeout"])
    policy = None
    if "policy" in given:
        if given["policy"] not in set(Policy):
            raise ConfigurationError(
                f"{spec.where}: policy {given['policy']!r} is none", hint="choose ignore or abort"
            )
        policy = Policy(given["policy"])
    phases = tuple(phase_named(name, spec.where) for name in _words(given.get("phases", ())))
    require, python = _words(given.get("require", ())), str(given.get("python", ""))
    return Common(timeout, policy, phases, require, python, _messages(spec, phases), own)


def phase_named(name: str, where: str) -> Phase:
    """Return the phase of a name.

    Raises:
        ConfigurationError: there is none; `where` says who names it.
    """
    try:
        return Phase(name)
    except ValueError:
        raise ConfigurationError(
            f"{where}: {name!r} is no phase", hint="the phases are " + ", ".join(Phase)
        ) from None


def checked(own: Mapping[str, Any], schema: Mapping[str, Any], where: str) -> dict[str, Json]:
    """Return a hook's own options as its schema wants them: strings of a query converted, defaults filled in.

    Raises:
        ConfigurationError: one is unknown, missing or wrong.
    """
    properties: Mapping[str, Any] = schema.get("properties", {})
    for name in own:
        if name not in properties:
            known = ", ".join((*properties, *RUNNERS))
            raise ConfigurationError(f"{where}: there is no option {name!r}", hint=f"there are: {known}")
    values = {name: _converted(value, properties[name]) for name, value in own.items()}
    filled = {name: rule["default"] for name, rule in properties.items() if "default" in rule}
    values = {**filled, **values}
    problem = invalid(values, schema)
    if problem:
        raise ConfigurationError(f"{where}: {problem}", hint="see the hook's README")
    return values


def invalid(value: Any, schema: Mapping[str, Any]) -> str:
    """Return what a value has against a JSON schema, as one clause without the value; "" if nothing."""
    import jsonschema  # noqa: PLC0415 -- see above

    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(value))
    if error is None:
        return ""
    place = ".".join(map(str, error.absolute_path))
    wanted = error.validator_value
    match error.validator:
        case "required":
            missing = [name for name in wanted if name not in error.instance]
            return f"{', '.join(map(repr, missing))} must be given" + (f" in {place}" if place else "")
        case "type":
            return f"{place or 'it'} must be {wanted}"
        case "enum":
            return f"{place} must be one of {', '.join(map(str, wanted))}"
        case "additionalProperties":
            return str(error.message)
        case _:
            return f"{place or 'it'} is not as it must be ({error.validator} {json.dumps(wanted)[:80]})"


def schema(name: str) -> dict[str, Any]:
    """Return one of the published schemas: ``context``, ``result`` or ``hook``."""
    value: dict[str, Any] = json.loads((SCHEMAS / f"{name}.json").read_text("utf-8"))
    return value


def _check_json(value: Any, name: str, where: str) -> None:
    """Refuse what TOML has and JSON has not: dates and times, infinity."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise ConfigurationError(
            f"{where}: option {name!r} is a value that hooks cannot be given", hint="write it as a string"
        ) from None


def _timeout(spec: Spec, value: Any) -> float:
    try:
        seconds = parse_duration(str(value))
    except UsageError as error:
        raise ConfigurationError(f"{spec.where}: timeout {error.message}", hint=error.hint) from error
    if seconds <= 0:
        raise ConfigurationError(
            f"{spec.where}: a timeout must be longer than zero", hint="write timeout=30s"
        )
    if seconds > LONGEST_DAYS * 86400:
        raise ConfigurationError(
            f"{spec.where}: timeout {value} is too long: a hook may take {LONGEST_DAYS} days at most",
            hint="write timeout=30s",
        )
    return seconds


def _messages(spec: Spec, phases: Sequence[Phase]) -> bool:
    value = _converted(spec.options.get("messages", False), {"type": "boolean"})
    if not isinstance(value, bool):
        raise ConfigurationError(f"{spec.where}: messages={value} is neither yes nor no")
    if value and phases and Phase.POST_COMMIT not in phases:
        raise ConfigurationError(
            f"{spec.where}: messages are handed over in {Phase.POST_COMMIT}, which is not among its phases",
            hint=f"add {Phase.POST_COMMIT} to phases=, or leave out messages=",
        )
    return value


def _words(value: Any) -> tuple[str, ...]:
    """Return the words of a comma-separated option, of one given several times, or of a TOML list."""
    pieces = [value] if isinstance(value, str) else value
    return tuple(word.strip() for piece in pieces for word in str(piece).split(",") if word.strip())


def _converted(value: Any, rule: Mapping[str, Any]) -> Any:
    """Return what a string of a query means by the rule of its option; as it is, if it means nothing there."""
    kinds = rule.get("type", "string")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if isinstance(value, tuple) or ("array" in kinds and isinstance(value, str)):
        each = rule.get("items", {})
        return [_converted(item, each) for item in ([value] if isinstance(value, str) else value)]
    if not isinstance(value, str) or "string" in kinds:
        return value
    if "boolean" in kinds and value.lower() in {"true", "yes", "on", "1", "false", "no", "off", "0"}:
        return value.lower() in {"true", "yes", "on", "1"}
    for kind, read in (("integer", int), ("number", float), ("object", json.loads)):
        if kind in kinds:
            try:
                return read(value)
            except ValueError:
                continue
    return value
