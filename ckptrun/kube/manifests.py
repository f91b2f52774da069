"""Manifests as text: YAML with several documents in, YAML out, so that Kubernetes reads what was meant.

Comments are lost, the order of keys is kept. Imported where it is needed only: PyYAML is optional.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

from ckptrun.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

_MISREAD = re.compile(r"[-+]?[.0-9].*|[yYnN]", re.ASCII)
"""Strings that Kubernetes' YAML may read as numbers or booleans, and PyYAML would write plain: ``1e3``, ``y``."""


class _Loader(yaml.SafeLoader):
    """Reads dates as strings, as Kubernetes does; a key that is there twice is an error, as in Kubernetes."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key.value} is there twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in rules if tag != "tag:yaml.org,2002:timestamp"]
    for letter, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Dumper(yaml.SafeDumper):
    """Writes without aliases, and strings so that they stay strings."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 -- PyYAML's signature
        return True


def _string(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else '"' if _MISREAD.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _string)


def load(text: str, where: str) -> list[Any]:
    """Return the documents of ``text``, empty ones left out.

    Raises:
        ConfigurationError: it is no YAML.
    """
    try:
        return [document for document in yaml.load_all(text, _Loader) if document is not None]
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(f"{where} is no YAML: {reason}", hint="correct that line") from error


def dump(documents: Sequence[Any]) -> str:
    """Return ``documents`` as YAML, each but the first behind ``---``."""
    return "---\n".join(
        yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
        for document in documents
    )
