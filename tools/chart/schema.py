"""charts/mailrelay/values.schema.json: by which Helm refuses wrong values, with the field's name.

`relay.spec` is checked by the definition of MailRelay. It is the API server's schema made a strict
JSON schema: no unknown fields. Its rules across fields (CEL) stay the API server's.
"""

from __future__ import annotations

import json
from typing import Any, Final

from mailrelay_operator.resource.crd import crd
from tools.chart.values import Chart

_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
_INT_OR_STRING: Final = "x-kubernetes-int-or-string"
_OPAQUE: Final = "x-kubernetes-preserve-unknown-fields"
_KEPT: Final = frozenset(
    {
        *("type", "enum", "pattern", "minimum", "maximum", "exclusiveMinimum"),
        *("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
        "required",
    }
)

Schema = dict[str, Any]


def schema_text() -> str:
    """Return the file."""
    return json.dumps(values_schema(), indent=1, ensure_ascii=False) + "\n"


def values_schema() -> Schema:
    """Return the schema of all values."""
    schema = Chart.model_json_schema(by_alias=True)
    definitions = schema.pop("$defs")
    for each in (schema, *definitions.values()):
        _without_titles(each)
    definitions["FirstRelay"]["properties"]["spec"] = relay_spec_schema()
    # Helm hands a chart's `global` values to every chart below it.
    schema["properties"]["global"] = {"type": "object"}
    return {
        "$schema": _DRAFT,
        "title": "Values of the chart mailrelay",
        **schema,
        "$defs": definitions,
    }


def relay_spec_schema() -> Schema:
    """Return what a MailRelay's spec may be."""
    (version,) = crd()["spec"]["versions"]
    return _strict(version["schema"]["openAPIV3Schema"]["properties"]["spec"])


def _strict(structural: Schema) -> Schema:
    if structural.get(_INT_OR_STRING):
        return {"type": ["integer", "string"]}
    schema = {key: value for key, value in structural.items() if key in _KEPT}
    if structural.get("exclusiveMinimum") is True:  # OpenAPI 3.0 says it by a boolean
        schema["exclusiveMinimum"] = schema.pop("minimum")
    if structural.get(_OPAQUE):
        return schema
    if "items" in structural:
        schema["items"] = _strict(structural["items"])
    if "properties" in structural:
        inner = structural["properties"].items()
        schema["properties"] = {name: _strict(field) for name, field in inner}
        schema["additionalProperties"] = False
    elif isinstance(structural.get("additionalProperties"), dict):
        schema["additionalProperties"] = _strict(structural["additionalProperties"])
    return schema


def _without_titles(schema: Schema) -> None:
    """Take out what pydantic says of fields for a program: titles, and defaults as references."""
    schema.pop("title", None)
    for field in schema.get("properties", {}).values():
        field.pop("title", None)
        if "$ref" in field:
            field.pop("default", None)  # stands at the fields below
