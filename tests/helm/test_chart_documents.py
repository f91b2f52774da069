"""What is said of the chart's values is said once: README and schema are made from the comments of values.yaml."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from typing import TYPE_CHECKING

import pytest
from support import chart

if TYPE_CHECKING:
    from types import ModuleType


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("helm_generate", chart.ROOT / "helm" / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


def test_readme_and_schema_are_in_step_with_the_values():
    generator = _generator()
    if chart.UPDATE:
        generator.main()
    for path, text in generator.made().items():
        assert path.read_text("utf-8") == text, f"{path.name} is out of step: make chart"


def test_every_value_has_a_comment():
    with pytest.raises(ValueError, match=r"line 4: job\.image has no comment"):
        _generator().documented("# kind\nkind: Job\njob:\n  image: x\n")


def test_schema_knows_every_value_and_no_other():
    generator = _generator()
    values = generator.documented("# What.\nkind: Job\n")
    one = {"properties": {"kind": {}}}
    assert json.loads(generator.schema(json.dumps(one), values))["properties"]["kind"] == {
        "description": "What."
    }
    with pytest.raises(ValueError, match=r"schema\.json lacks kind"):
        generator.schema(json.dumps({"properties": {}}), values)
    with pytest.raises(ValueError, match=r"values\.yaml lacks mode"):
        generator.schema(json.dumps({"properties": {"kind": {}, "mode": {}}}), values)


def test_every_object_of_the_schema_refuses_what_it_does_not_know():
    def closed(node: dict, path: str) -> None:
        if "properties" in node and "required" not in node:
            assert node.get("additionalProperties") is False, path
            for name, child in node["properties"].items():
                closed(child, f"{path}.{name}")

    closed(json.loads((chart.CHART / "values.schema.json").read_text("utf-8")), "")


def test_selectors_of_the_page_find_the_jobs_pod_and_not_the_doctors():
    page = (chart.ROOT / "docs" / "kubernetes.md").read_text("utf-8")
    selectors = re.findall(r"kubectl [^`\n]*?-l (\S+)", page)
    assert len(selectors) > 1
    text = chart.rendered("-f", str(chart.CHART / "ci" / "s3-values.yaml"))
    job = chart.workload(text)["spec"]["template"]["metadata"]["labels"]
    (doctor,) = [
        d["metadata"]["labels"] for d in chart.documents(text) if d["metadata"]["name"].endswith("-doctor")
    ]
    for selector in selectors:
        wanted = dict(part.split("=") for part in selector.split(","))
        assert wanted.items() <= job.items(), selector
        assert not wanted.items() <= doctor.items(), selector
