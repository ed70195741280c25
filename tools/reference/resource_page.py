"""docs/reference/mailrelay.md and operator/crd/mailrelays.yaml: the MailRelay resource."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import yaml

from mailrelay_operator.resource.crd import crd
from mailrelay_operator.resource.set_by_operator import SET_BY_OPERATOR
from tools.reference.markdown import code, table

_INTRODUCTION = """\
# The MailRelay resource

A relay in a Kubernetes namespace: `mailrelay.dev/v1alpha1`, kind `MailRelay`, short name `mrelay`,
category `mailrelay`. `kubectl explain mailrelay.spec.ingress` says the same as this page.

Ten lines are enough:

```yaml
apiVersion: mailrelay.dev/v1alpha1
kind: MailRelay
metadata:
  name: relay
spec:
  routes:
    - name: everything
      smartHosts:
        - host: smtp.example.com
          credentialsSecretName: upstream
```

The operator makes what is not named: an authority and a certificate (Secrets `relay-ca` and
`relay-tls`), a user and a password (Secret `relay-smtp`), a token for the monitor (Secret
`relay-http-token`), and NATS for the queue.

Secrets are only named, and are of the relay's own namespace. Fields under `pods` are the same for
`ingress`, `sender`, `queue` and `monitor`. `required` means that the field must be there when the
object that it is in is.
"""
_RULES = """\
## Rules across fields

The API server checks them when a resource is written, and answers with these words.

"""
_NOT_FIELDS = """\
## Options without a field

Every other option of [the configuration](config.md) is one of the fields above. These are not, each
for its reason:

"""
_STATUS = "## status\n\nWhat the operator saw last.\n\n"
_HEAD = ("Field", "Value", "Default", "Meaning")
_NOTICE = (
    "# Written by `make docs` from mailrelay_operator.resource; change the models, not this file.\n"
)


def crd_text() -> str:
    """Return the definition as a file.

    It carries a digest of itself, by which the chart sees that a cluster has another version's.
    """
    found = crd()
    digest = hashlib.sha256(json.dumps(found["spec"], sort_keys=True).encode()).hexdigest()
    found["metadata"]["annotations"] = {"mailrelay.dev/definition": f"sha256:{digest[:16]}"}
    return _NOTICE + yaml.safe_dump(found, sort_keys=False, width=100, allow_unicode=True)


def resource_page() -> str:
    """Return the page."""
    root = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    spec, status = (root["properties"][name] for name in ("spec", "status"))
    sections = [("spec", _plain_fields(spec))]
    sections += [
        (f"spec.{name}", list(_fields(schema, f"{name}.")))
        for name, schema in spec["properties"].items()
        if _inner(schema)
    ]
    pods = spec["properties"]["ingress"]["properties"]["pods"]
    sections.append(("spec.….pods", list(_fields(pods, "pods."))))
    parts = [_INTRODUCTION]
    parts += [f"## {name}\n\n" + table(_HEAD, rows) for name, rows in sections]
    parts.append(_STATUS + table(_HEAD, _fields(status, "status.")))
    parts.append(_RULES + table(("At", "Says"), dict.fromkeys(_rules(root, ""))))
    reasons = ((code(key), reason) for key, reason in SET_BY_OPERATOR.items())
    parts.append(_NOT_FIELDS + table(("Option", "Why"), reasons))
    return "\n".join(parts)


def _plain_fields(schema: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the fields of an object that have no fields of their own."""
    required = schema.get("required", ())
    return [
        _row(name, field, name in required)
        for name, field in schema["properties"].items()
        if not _inner(field)
    ]


def _fields(schema: dict[str, Any], above: str) -> Iterator[tuple[str, ...]]:
    """Yield a row for each field of an object, and for those below it."""
    inner = _inner(schema)
    for name, field in inner.get("properties", {}).items():
        yield _row(f"{above}{name}", field, name in inner.get("required", ()))
        if name == "pods":  # once is enough
            continue
        mark = "[]" if field.get("type") == "array" else ""
        yield from _fields(field, f"{above}{name}{mark}.")


def _inner(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the object that a field is, or a list of; nothing for another field."""
    found: dict[str, Any] = schema.get("items", schema)
    return found if "properties" in found else {}


def _row(name: str, field: dict[str, Any], is_required: bool) -> tuple[str, ...]:  # noqa: FBT001 — from one place
    default = field.get("default")
    is_told_below = isinstance(default, dict)
    shown = code(json.dumps(default)) if default is not None and not is_told_below else ""
    return (
        code(name),
        _value(field),
        "required" if is_required else shown,
        field.get("description", ""),
    )


def _value(field: dict[str, Any]) -> str:
    """Say what a field takes."""
    if "enum" in field:
        return ", ".join(map(code, field["enum"]))
    if field.get("x-kubernetes-int-or-string"):
        return "amount"
    kind = str(field.get("type"))
    if kind == "array":
        most = f", at most {field['maxItems']}" if "maxItems" in field else ""
        return f"list of {_value(field['items'])}{most}"
    if "additionalProperties" in field:
        return f"map of {_value(field['additionalProperties'])}"
    low, high = field.get("minimum"), field.get("maximum")
    if low is not None and high is not None:
        return f"{kind}, {low} to {high}"
    if low is not None:
        return f"{kind}, {low} or more"
    return kind


def _rules(schema: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    """Yield where each rule stands and what it says."""
    for rule in schema.get("x-kubernetes-validations", ()):
        yield code(path or "the whole"), str(rule["message"])
    for name, field in schema.get("properties", {}).items():
        shown = "….pods" if name == "pods" else f"{path}.{name}" if path else name
        yield from _rules(field, shown)
    if isinstance(schema.get("items"), dict):
        yield from _rules(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from _rules(schema["additionalProperties"], f"{path}.*")
