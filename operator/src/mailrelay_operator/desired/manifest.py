"""What every child has: its kind, name, labels, and whose it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from mailrelay_operator.desired.labels import labels
from mailrelay_operator.desired.names import Component
from mailrelay_operator.resource.relay import API_VERSION, KIND, Relay

Manifest = dict[str, Any]

# Names have 63 characters; 32 bits tell a relay's own changes apart.
_DIGEST_CHARACTERS: Final = 8


def manifest(
    relay: Relay,
    api_version: str,
    kind: str,
    name: str,
    component: Component | None = None,
    *,
    annotations: Mapping[str, str] | None = None,
    is_owned: bool = True,
    **body: Any,  # noqa: ANN401 — what the kind has
) -> Manifest:
    """Return an object of the relay's namespace.

    One that is not owned stays when the resource is deleted.
    """
    metadata: Manifest = {
        "name": name,
        "namespace": relay.namespace,
        "labels": labels(relay.name, component),
    }
    if annotations:
        metadata["annotations"] = dict(annotations)
    if is_owned:
        metadata["ownerReferences"] = [owner(relay)]
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **body}


def owner(relay: Relay) -> Manifest:
    """Return the reference by which Kubernetes removes a child when the resource is gone.

    It blocks no deletion: that would need one right more, and nothing here waits for it.
    """
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": relay.name,
        "uid": relay.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def digest(value: object) -> str:
    """Return a short name for a JSON value: the same for the same one, on every machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARACTERS]


def without_none(value: Mapping[str, Any]) -> Manifest:
    """Return a mapping without the keys that have no value."""
    return {key: each for key, each in value.items() if each is not None}
