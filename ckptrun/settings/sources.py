"""Where a setting can come from, and which source wins: command line, environment, ``ckptrun.toml``.

The table `OPTIONS` lists every option by name and shape; `NOT_BUILT` those of the contract that would have no
effect yet, and are refused from whichever source they come.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ckptrun.errors import CkptrunError, ConfigurationError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

T = TypeVar("T")

FILE_NAME = "ckptrun.toml"
"""Looked for in the working directory."""


class Shape(enum.Enum):
    """How an option is given."""

    VALUE = "value"
    FLAG = "flag"
    MANY = "many"


OPTIONS: dict[str, Shape] = {
    "name": Shape.VALUE,
    "store": Shape.VALUE,
    "s3-endpoint-url": Shape.VALUE,
    "key-file": Shape.VALUE,
    "no-encryption": Shape.FLAG,
    "interval": Shape.VALUE,
    "keep": Shape.VALUE,
    "preserve": Shape.MANY,
    "hook": Shape.MANY,
    "ledger": Shape.VALUE,
    "require-ledger": Shape.FLAG,
    "journal-limit": Shape.VALUE,
    "restart": Shape.VALUE,
    "max-restarts": Shape.VALUE,
    "grace": Shape.VALUE,
    "max-freeze": Shape.VALUE,
    "staging": Shape.VALUE,
    "resume": Shape.FLAG,
    "fresh": Shape.FLAG,
    "take-over": Shape.FLAG,
    "require-store": Shape.FLAG,
    "portable-cpu": Shape.VALUE,
    "allow-io-uring": Shape.FLAG,
    "no-private-tmp": Shape.FLAG,
    "forward-usr1": Shape.FLAG,
    "tcp": Shape.VALUE,
    "user": Shape.VALUE,
    "pass-env": Shape.MANY,
    "log-format": Shape.VALUE,
    "label": Shape.MANY,
    "quiet": Shape.FLAG,
    "verbose": Shape.FLAG,
}

NOT_BUILT: dict[str, Shape] = {
    "key": Shape.VALUE,
    "metrics-port": Shape.VALUE,
    "dry-run": Shape.FLAG,
}

_SEPARATORS = {"preserve": ":", "hook": ";"}
"""What separates several values in one environment variable; a comma unless listed."""

HOOKS = "hooks"
"""The tables ``[hooks.SPEC]`` of the file: options of hooks, by what names the hook."""

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"", "0", "false", "no", "off"})


class Level(enum.IntEnum):
    """The rank of a source; the higher one wins."""

    FILE = 1
    ENVIRONMENT = 2
    COMMAND_LINE = 3


@dataclass(frozen=True, slots=True)
class Found:
    """A setting as written, and where: ``where`` is for messages, as ``--grace`` or ``CKPTRUN_GRACE``."""

    value: str | bool | tuple[str, ...]
    where: str
    level: Level


def variable(option: str) -> str:
    """Return the environment variable of an option, as ``CKPTRUN_MAX_FREEZE`` for ``max-freeze``."""
    return "CKPTRUN_" + option.upper().replace("-", "_")


def as_variables(given: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return options of the command line as environment variables that mean the same; those not given are left out.

    Raises:
        UsageError: a value of a repeatable option has the character that parts values there.
    """
    found = []
    for option, shape in OPTIONS.items():
        value = given.get(option)
        if value is None or value is False or value == ():
            continue
        if shape is Shape.MANY:
            separator = _SEPARATORS.get(option, ",")
            if bad := next((item for item in value if separator in item), None):
                raise UsageError(
                    f"--{option} {bad}: in the environment a {separator!r} parts values",
                    hint="write it without",
                )
            value = separator.join(value)
        found.append((variable(option), "1" if shape is Shape.FLAG else str(value)))
    return tuple(found)


class Sources:
    """Looks settings up, the winning source first.

    Args:
        given: what the command line says, by option name; None or absent where it says nothing.
        environ: the environment.
        document: the parsed ``ckptrun.toml``.

    Raises:
        ConfigurationError: the file has a key that is no option, or a value of the wrong type.
    """

    def __init__(
        self, given: Mapping[str, Any], environ: Mapping[str, str], document: Mapping[str, Any] | None = None
    ) -> None:
        self._given = given
        self._environ = environ
        settings = {key: value for key, value in (document or {}).items() if key != HOOKS}
        self._document = {key: _from_toml(key, value) for key, value in settings.items()}
        self.hook_tables = _hook_tables((document or {}).get(HOOKS, {}))

    def refuse(self, options: Collection[str]) -> None:
        """Raise if one of ``options``, which are not built yet, is set anywhere.

        Raises:
            UsageError: it is.
        """
        for option in options:
            found = self._find(option, NOT_BUILT[option])
            if found is not None and found.value:
                raise not_built(found.where)

    def found(self, option: str) -> Found | None:
        """Return the winning value of ``option`` as written, or None if nobody gives one."""
        return self._find(option, OPTIONS[option])

    def value(self, option: str, parse: Callable[[str], T], default: T) -> T:
        """Return the parsed value of ``option``.

        Raises:
            UsageError: the command line or the environment gives something that ``parse`` refuses.
            ConfigurationError: ``ckptrun.toml`` does.
        """
        found = self.found(option)
        return default if found is None else _parsed(found, str(found.value), parse)

    def flag(self, option: str) -> bool:
        """Return whether ``option`` is switched on."""
        found = self.found(option)
        return found is not None and bool(found.value)

    def many(self, option: str, parse: Callable[[str], T]) -> tuple[T, ...]:
        """Return every value of a repeatable option; the winning source replaces the others."""
        found = self.found(option)
        if found is None:
            return ()
        assert isinstance(found.value, tuple)
        return tuple(_parsed(found, item, parse) for item in found.value)

    def _find(self, option: str, shape: Shape) -> Found | None:
        given = self._given.get(option)
        if given is not None and given is not False and given != ():
            return Found(given, f"--{option}", Level.COMMAND_LINE)
        text = self._environ.get(variable(option))
        if text is not None:
            value = _from_variable(option, shape, text)
            if value is not None:
                return Found(value, variable(option), Level.ENVIRONMENT)
        if option in self._document:
            return Found(self._document[option], f"{option} in {FILE_NAME}", Level.FILE)
        return None


def not_built(where: str) -> UsageError:
    """Return the refusal of an option that would have no effect yet."""
    return UsageError(f"{where} is not built yet", hint="leave it out; the README lists what is built")


def read_document(directory: Path) -> dict[str, Any]:
    """Return the parsed ``ckptrun.toml`` of ``directory``, empty if there is none.

    Raises:
        ConfigurationError: it cannot be read or parsed.
    """
    path = directory / FILE_NAME
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}", hint="make it readable UTF-8") from error
    import tomllib  # noqa: PLC0415 -- most runs have no file; the import costs more than the rest of this function

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is no valid TOML: {error}", hint="correct that line") from error


def _from_toml(key: str, value: Any) -> str | bool | tuple[str, ...]:
    """Return a TOML value in the form the other sources have."""
    shape = OPTIONS.get(key) or NOT_BUILT.get(key)
    match shape, value:
        case None, _:
            import difflib  # noqa: PLC0415 -- for one message

            close = difflib.get_close_matches(key, OPTIONS, 1)
            hint = f"did you mean {close[0]!r}?" if close else "keys are the long options without the dashes"
            raise ConfigurationError(f"{key!r} in {FILE_NAME} is no option", hint=hint)
        case Shape.FLAG, bool():
            return value
        case Shape.MANY, list() if all(isinstance(item, str) for item in value):
            return tuple(value)
        case Shape.VALUE, str():
            return value
        case Shape.VALUE, int() | float() if not isinstance(value, bool):
            return str(value)
        case _:
            wanted = {Shape.FLAG: "true or false", Shape.MANY: "a list of strings", Shape.VALUE: "a string"}
            raise ConfigurationError(
                f"{key!r} in {FILE_NAME} is {value!r}", hint=f"it must be {wanted[shape]}"
            )


def _hook_tables(value: Any) -> dict[str, dict[str, Any]]:
    """Return the tables of the file's hooks; what may stand in them is each hook's to say."""
    if not isinstance(value, dict) or not all(isinstance(table, dict) for table in value.values()):
        raise ConfigurationError(
            f"{HOOKS!r} in {FILE_NAME} is no table of tables", hint="write [hooks.NAME] and its options below"
        )
    return value


def _from_variable(option: str, shape: Shape, text: str) -> str | bool | tuple[str, ...] | None:
    """Return an environment variable's value, None if it counts as not set (an empty one, save for flags)."""
    if shape is Shape.FLAG:
        lowered = text.strip().lower()
        if lowered not in _TRUE | _FALSE:
            raise UsageError(f"{variable(option)}={text!r} is neither on nor off", hint="set it to 1 or 0")
        return lowered in _TRUE
    if not text:
        return None
    if shape is Shape.MANY:
        return tuple(item for item in text.split(_SEPARATORS.get(option, ",")) if item)
    return text


def _parsed(found: Found, text: str, parse: Callable[[str], T]) -> T:
    try:
        return parse(text)
    except CkptrunError as error:
        kind = ConfigurationError if found.level is Level.FILE else type(error)
        raise kind(f"{found.where}: {error.message}", hint=error.hint) from error
