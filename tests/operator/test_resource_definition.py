from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from mailrelay_operator.resource.crd import crd
from mailrelay_operator.resource.quantity import amount, whole_bytes
from mailrelay_operator.resource.relay import ResourceError, read_relay
from mailrelay_operator.resource.spec import Spec
from tests.architecture.repository import ROOT
from tests.operator.resources import FULL, MINIMAL, changed, resource

ROOT_SCHEMA = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
WANTED = {"type", "x-kubernetes-int-or-string"}


def schemas(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from schemas(field, f"{path}.{name}")
    for part in ("items", "additionalProperties"):
        if isinstance(schema.get(part), dict):
            yield from schemas(schema[part], f"{path}[]")


SCHEMAS = dict(schemas(ROOT_SCHEMA["properties"]["spec"], "spec"))


@pytest.mark.parametrize("path", SCHEMAS)
def test_a_schema_is_structural(path: str) -> None:
    schema = SCHEMAS[path]
    assert WANTED & schema.keys()
    assert not {"$ref", "anyOf", "allOf", "oneOf", "nullable"} & schema.keys()


@pytest.mark.parametrize("path", [path for path in SCHEMAS if not path.endswith("[]")])
def test_a_schema_is_described(path: str) -> None:
    assert SCHEMAS[path]["description"].endswith(".")


def test_a_message_says_something_else_than_its_rule_and_is_short_enough() -> None:
    rules = [
        rule for schema in SCHEMAS.values() for rule in schema.get("x-kubernetes-validations", ())
    ]
    assert rules
    for rule in rules:
        # The API server takes 2048 characters; kubectl shows them on one line.
        assert 15 < len(rule["message"]) < 250
        assert "\n" not in rule["message"]


def test_lists_and_texts_have_an_end_so_that_rules_over_them_have_a_price() -> None:
    endless = {
        path
        for path, schema in SCHEMAS.items()
        if (schema.get("type") == "array" and "maxItems" not in schema)
        or (schema.get("type") == "string" and not {"maxLength", "enum", "format"} & schema.keys())
    }
    assert endless == {"spec.queue.prefix"}  # its pattern ends it


def test_the_ten_lines_of_the_reference_page_are_the_minimal_resource() -> None:
    page = (ROOT / "docs" / "reference" / "mailrelay.md").read_text()
    (text,) = re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert len(text.splitlines()) == 10
    found = yaml.safe_load(text)
    wanted = resource(MINIMAL)
    assert found == wanted | {"metadata": {"name": wanted["metadata"]["name"]}}


def test_a_secret_is_only_ever_named() -> None:
    for path in SCHEMAS:
        name = path.rpartition(".")[2].lower()
        if any(word in name for word in ("password", "token", "seed", "secret")):
            assert name.endswith("secretname") or name in {"imagepullsecrets", "imagepullsecrets[]"}


def test_the_definition_in_the_repository_is_that_of_the_code() -> None:
    path = ROOT / "operator" / "crd" / "mailrelays.yaml"
    found = yaml.safe_load(path.read_text())
    # By it the chart sees that a cluster has another version's (tools.reference.resource_page).
    assert found["metadata"].pop("annotations").keys() == {"mailrelay.dev/definition"}
    assert found == crd()


@pytest.mark.parametrize("spec", [MINIMAL, FULL], ids=["minimal", "full"])
def test_what_is_written_is_read_again(spec: dict[str, Any]) -> None:
    read = Spec.model_validate(spec)
    assert Spec.model_validate(read.model_dump(mode="json", exclude_none=True)) == read


def test_a_resource_that_this_operator_does_not_know_is_told_line_by_line() -> None:
    spec = changed(changed(MINIMAL, "sender.speed", 5), "routes.0.smartHosts.0.port", "many")
    with pytest.raises(ResourceError) as found:
        read_relay(resource(spec))
    paths = {fault.partition(": ")[0] for fault in found.value.faults}
    assert {"spec.routes[0].smartHosts[0].port", "spec.sender.speed"} <= paths


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0", 0),
        ("10Gi", 10 * 2**30),
        ("0.5Ti", 2**39),
        ("1.5M", 1_500_000),
        ("2E", 2 * 10**18),
        ("1e3", 1000),
        ("1E3", 1000),
        (".5k", 500),
        ("5.", 5),
        ("1500m", 1),
        ("+7", 7),
    ],
)
def test_an_amount_is_a_number_of_bytes(text: str, wanted: int) -> None:
    assert whole_bytes(text) == wanted


@pytest.mark.parametrize(
    "text", ["", "Gi", "10 Gi", "10GB", "1e3Gi", "٣", "1_000", "ten", "0x10", "9" * 65]
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no amount"):
        amount(text)
