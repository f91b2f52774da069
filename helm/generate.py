"""Makes what is said twice about the chart's values from the comments in values.yaml.

That is the tables in README.md and the descriptions in values.schema.json. ``python helm/generate.py`` writes them, a
test says when they are out of step. Needs PyYAML.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "ckptrun"
BEGIN, END = "<!-- values: made by helm/generate.py -->", "<!-- end of values -->"


@dataclass(frozen=True)
class Value:
    """One documented value: its path as ``job.image``, what is said of it, its default, its section's title."""

    path: str
    text: str
    default: Any
    section: str


def documented(text: str) -> list[Value]:
    """Return the values of ``text`` in their order; a section's keys are described, not the section.

    Raises:
        ValueError: a key has no comment above it.
    """
    lines = text.splitlines()
    found: list[Value] = []
    section = ""
    titles = {number: line[3:].strip() for number, line in enumerate(lines) if line.startswith("## ")}

    def visit(node: yaml.MappingNode, path: str) -> None:
        nonlocal section
        for key, value in node.value:
            number = key.start_mark.line
            section = next((titles[n] for n in sorted(titles, reverse=True) if n < number), "")
            name = f"{path}{key.value}"
            if said := _comment_above(lines, number):
                found.append(Value(name, said, yaml.safe_load(yaml.serialize(value)), section))
            elif isinstance(value, yaml.MappingNode) and value.value:
                visit(value, f"{name}.")
            else:
                raise ValueError(f"values.yaml, line {number + 1}: {name} has no comment above it")

    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    visit(root, "")
    return found


def readme(old: str, values: list[Value]) -> str:
    """Return the README with its tables made anew."""
    head, _, rest = old.partition(BEGIN)
    _, _, tail = rest.partition(END)
    parts = []
    for section in dict.fromkeys(value.section for value in values):
        rows = [_row(value) for value in values if value.section == section]
        parts.append("\n".join([f"### {section}", "", "| value | default | |", "|---|---|---|", *rows]))
    return f"{head}{BEGIN}\n" + "\n\n".join(parts) + f"\n{END}{tail}"


def schema(old: str, values: list[Value]) -> str:
    """Return the schema with the values' descriptions.

    Raises:
        ValueError: the schema lacks a value, or has one that values.yaml lacks.
    """
    document = json.loads(old)
    known = {value.path for value in values}
    for value in values:
        node = document
        for part in value.path.split("."):
            if part not in node.get("properties", {}):
                raise ValueError(f"values.schema.json lacks {value.path}")
            node = node["properties"][part]
        node.pop("description", None)
        node["description"] = value.text.replace("`", "")
    for path in _leaves(document, ""):
        if not any(path == name or path.startswith(f"{name}.") for name in known) and path != "global":
            raise ValueError(f"values.yaml lacks {path}, which values.schema.json has")
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _leaves(node: dict[str, Any], path: str) -> list[str]:
    inner = node.get("properties", {})
    if not inner:
        return [path]
    return [leaf for name, child in inner.items() for leaf in _leaves(child, f"{path}.{name}".lstrip("."))]


def _comment_above(lines: list[str], number: int) -> str:
    said: list[str] = []
    for line in reversed(lines[:number]):
        stripped = line.strip()
        if not stripped.startswith("# "):
            break
        said.insert(0, stripped[2:])
    return " ".join(said)


def _row(value: Value) -> str:
    default = "" if value.default is None else json.dumps(value.default, ensure_ascii=False)
    shown = f"`{default}`" if default not in {"", '""', "[]", "{}"} else ""
    text = value.text.replace("|", "\\|")
    return f"| `{value.path}` | {shown} | {text} |"


def made() -> dict[Path, str]:
    """Return what each of the files should hold."""
    values = documented((CHART / "values.yaml").read_text("utf-8"))
    return {
        CHART / "README.md": readme((CHART / "README.md").read_text("utf-8"), values),
        CHART / "values.schema.json": schema((CHART / "values.schema.json").read_text("utf-8"), values),
    }


def main() -> int:
    """Write the files."""
    for path, text in made().items():
        path.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
