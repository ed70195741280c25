"""The ConfigMap with config.json, and the ServiceAccount that all pods have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mailrelay_operator.desired.manifest import Manifest, manifest
from mailrelay_operator.desired.names import ChildNames
from mailrelay_operator.resource import paths
from mailrelay_operator.resource.relay import Relay


def config_map(relay: Relay, config: Mapping[str, Any]) -> Manifest:
    """Return the configuration that ingress, senders and monitor follow while they run."""
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    name = ChildNames(relay.name).config
    return manifest(relay, "v1", "ConfigMap", name, data={paths.CONFIG_FILE.name: text})


def service_account(relay: Relay) -> Manifest:
    """Return an account without rights, and without a token in the pods."""
    name = ChildNames(relay.name).service_account
    return manifest(relay, "v1", "ServiceAccount", name, automountServiceAccountToken=False)
