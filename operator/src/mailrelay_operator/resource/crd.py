"""The custom resource definition, written from the models.

There is no scale subresource: docs/decisions/0027 says why.
"""

from __future__ import annotations

from typing import Final

from mailrelay_operator.resource.relay import (
    CATEGORY,
    GROUP,
    KIND,
    MAX_NAME,
    PLURAL,
    SHORT_NAME,
    VERSION,
)
from mailrelay_operator.resource.schema import Rule
from mailrelay_operator.resource.spec import Spec
from mailrelay_operator.resource.status import Status
from mailrelay_operator.resource.structural import Schema, rules_schema, section_schema

_ROOT_RULES: Final = (
    Rule(
        f"size(self.metadata.name) <= {MAX_NAME}",
        f"metadata.name must be at most {MAX_NAME} characters: the names and labels of the "
        "relay's objects are made of it",
    ),
    Rule(
        "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name must begin with a letter and have only a-z, 0-9 and -, without a dot: the "
        "names of the relay's Services are made of it",
    ),
)
_CONDITION: Final = ".status.conditions[?(@.type=='Ready')]"
_COLUMNS: Final[tuple[Schema, ...]] = (
    {"name": "Ready", "type": "string", "jsonPath": f"{_CONDITION}.status"},
    {"name": "Reason", "type": "string", "jsonPath": f"{_CONDITION}.reason"},
    {"name": "Ingress", "type": "string", "jsonPath": ".status.ingress.summary"},
    {"name": "Senders", "type": "string", "jsonPath": ".status.sender.summary"},
    {"name": "Queued", "type": "integer", "jsonPath": ".status.queue.jobs"},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    {"name": "Message", "type": "string", "priority": 1, "jsonPath": f"{_CONDITION}.message"},
)


def crd() -> Schema:
    """Return the definition as a manifest."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": [SHORT_NAME],
                "categories": [CATEGORY],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": list(_COLUMNS),
                    "schema": {"openAPIV3Schema": _root()},
                }
            ],
        },
    }


def _root() -> Schema:
    return {
        "type": "object",
        "description": "A mail relay: takes mail, keeps it safe in a queue, and delivers it.",
        "required": ["spec"],
        "x-kubernetes-validations": rules_schema(_ROOT_RULES),
        "properties": {
            "apiVersion": {"type": "string", "description": f"{GROUP}/{VERSION}."},
            "kind": {"type": "string", "description": f"{KIND}."},
            "metadata": {"type": "object"},
            "spec": {"description": "What the relay shall be."} | section_schema(Spec),
            "status": {"description": "What the operator saw last."}
            | section_schema(Status, defaults=False),
        },
    }
