"""PodDisruptionBudgets: when nodes are emptied, one pod of a component goes at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mailrelay_operator.desired.labels import selector
from mailrelay_operator.desired.manifest import Manifest, manifest
from mailrelay_operator.desired.names import ChildNames, Component
from mailrelay_operator.resource.relay import Relay

# A pod that is not ready serves nobody: it may go. Of a NATS cluster it may be the one that still
# has to catch up, and then another one must not go.
_WHEN_UNHEALTHY: Final = {
    Component.INGRESS: "AlwaysAllow",
    Component.SENDER: "AlwaysAllow",
    Component.NATS: "IfHealthyBudget",
}


def budgets(relay: Relay) -> Iterator[Manifest]:
    """Yield the budgets. One NATS server has none: it could only keep its node from being emptied.

    `maxUnavailable`, not `minAvailable`: with one pod the latter would do the same.
    """
    for component, when_unhealthy in _WHEN_UNHEALTHY.items():
        if component is Component.NATS and (
            not relay.spec.queue.is_own or relay.spec.queue.replicas == 1
        ):
            continue
        yield manifest(
            relay,
            "policy/v1",
            "PodDisruptionBudget",
            ChildNames(relay.name).of(component),
            component,
            spec={
                "maxUnavailable": 1,
                "unhealthyPodEvictionPolicy": when_unhealthy,
                "selector": {"matchLabels": selector(relay.name, component)},
            },
        )
