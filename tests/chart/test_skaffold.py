"""skaffold.yaml: by Skaffold's own schema, and with what stands in the repository."""

from __future__ import annotations

import json
import re

import jsonschema
import pytest
import yaml

from tests.chart.helm import ROOT, Helm
from tests.support.kubernetes.definitions import find_definitions

pytestmark = pytest.mark.operator

CONFIGS = list(yaml.safe_load_all((ROOT / "skaffold.yaml").read_text()))


def test_skaffolds_schema_takes_it() -> None:
    (schema,) = find_definitions(["skaffold-v4beta13"], print)
    validator = jsonschema.Draft7Validator(json.loads(schema.read_text()))
    for config in CONFIGS:
        assert [error.message for error in validator.iter_errors(config)] == []
    # It would see a fault.
    assert list(validator.iter_errors({**CONFIGS[0], "deploys": {}}))


def test_it_builds_every_image_that_the_chart_names_from_a_target_that_is_there() -> None:
    artifacts = CONFIGS[0]["build"]["artifacts"]
    targets = set(re.findall(r" AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    assert {each["docker"]["target"] for each in artifacts} <= targets
    values = yaml.safe_load((ROOT / "charts" / "mailrelay" / "values.yaml").read_text())
    named = {each["repository"] for each in values["images"].values() if isinstance(each, dict)}
    assert {each["image"] for each in artifacts} == named


def test_the_files_that_it_names_are_there() -> None:
    (release,) = CONFIGS[0]["deploy"]["helm"]["releases"]
    assert (ROOT / release["chartPath"] / "Chart.yaml").exists()
    assert all((ROOT / each).exists() for each in CONFIGS[1]["manifests"]["rawYaml"])
    assert CONFIGS[1]["requires"] == [{"configs": [CONFIGS[0]["metadata"]["name"]]}]


async def test_the_chart_takes_the_values_that_it_sets(renderer: Helm) -> None:
    (release,) = CONFIGS[0]["deploy"]["helm"]["releases"]
    options = []
    for key, value in {**release["setValues"], **release["setValueTemplates"]}.items():
        # What Skaffold makes of them, with a registry on the developer's machine.
        text = re.sub(r"\{\{\.IMAGE_REPO_(\w+)\}\}", r"localhost:5000/\1", value).replace("_", "-")
        options += ["--set", f"{key}=" + re.sub(r"\{\{.*\}\}", "sha-0123456", text)]
    manifests = await renderer.rendered("mailrelay-system", {}, *options)
    text = json.dumps(manifests)
    for artifact in CONFIGS[0]["build"]["artifacts"]:
        assert f"localhost:5000/{artifact['image']}:sha-0123456" in text
