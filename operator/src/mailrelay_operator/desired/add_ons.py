"""Objects of add-ons that a cluster may have: a Certificate, a PodMonitor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mailrelay_operator.desired.inputs import Inputs
from mailrelay_operator.desired.labels import selector
from mailrelay_operator.desired.manifest import Manifest, manifest
from mailrelay_operator.desired.names import ChildNames, Component
from mailrelay_operator.resource.relay import Relay

# By these dashboard and alerts know a relay and its parts, wherever it runs (decision 0035);
# `namespace` is what Prometheus' operator calls it, too.
_RELABELINGS: Final = [
    {
        "sourceLabels": [f"__meta_kubernetes_pod_label_app_kubernetes_io_{label}"],
        "targetLabel": target,
    }
    for label, target in (("instance", "relay"), ("component", "component"))
]


def certificate(relay: Relay, inputs: Inputs) -> Iterator[Manifest]:
    """Yield the Certificate, when an issuer is named and cert-manager is there.

    With a `hostName` it is for that alone: issuers of the world sign no names of a cluster.
    """
    issuer = relay.spec.ingress.tls.issuer_ref
    if issuer is None or not inputs.has_certificates:
        return
    service = f"{ChildNames(relay.name).of(Component.INGRESS)}.{relay.namespace}.svc"
    dns_names = [relay.spec.host_name] if relay.spec.host_name else [service]
    yield manifest(
        relay,
        "cert-manager.io/v1",
        "Certificate",
        ChildNames(relay.name).of(Component.INGRESS),
        Component.INGRESS,
        spec={
            "secretName": relay.tls_secret,
            "dnsNames": dns_names,
            "issuerRef": issuer.model_dump(by_alias=True),
            "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
            "usages": ["digital signature", "server auth"],
        },
    )


def pod_monitor(relay: Relay, inputs: Inputs) -> Iterator[Manifest]:
    """Yield the PodMonitor, when it is wanted and Prometheus' operator is there."""
    wanted = relay.spec.monitor.pod_monitor
    if not (wanted.enabled and inputs.has_pod_monitors):
        return
    found = manifest(
        relay,
        "monitoring.coreos.com/v1",
        "PodMonitor",
        ChildNames(relay.name).pod_monitor,
        spec={
            "selector": {
                "matchLabels": selector(relay.name),
                "matchExpressions": [
                    {
                        "key": "app.kubernetes.io/component",
                        "operator": "In",
                        "values": [
                            each.value
                            for each in (Component.INGRESS, Component.SENDER, Component.MONITOR)
                        ],
                    }
                ],
            },
            "podMetricsEndpoints": [
                {"port": "probe", "path": "/metrics", "relabelings": _RELABELINGS}
            ],
        },
    )
    # Those by which a Prometheus selects it; the operator's own go before them.
    found["metadata"]["labels"] = {**(wanted.labels or {}), **found["metadata"]["labels"]}
    yield found
