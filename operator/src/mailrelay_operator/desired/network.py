"""NetworkPolicies: one for each component, made of the table of flows. All else is denied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mailrelay_operator.desired.flows import FLOWS, Flow, Other, Party
from mailrelay_operator.desired.inputs import Inputs
from mailrelay_operator.desired.labels import selector
from mailrelay_operator.desired.manifest import Manifest, manifest
from mailrelay_operator.desired.names import ChildNames, Component
from mailrelay_operator.resource.relay import Relay

# Kubernetes sets this label of each namespace itself.
_NAMESPACE_LABEL: Final = "kubernetes.io/metadata.name"
_OPERATOR_LABELS: Final = {"app.kubernetes.io/name": "mailrelay-operator"}


def network_policies(relay: Relay, inputs: Inputs) -> Iterator[Manifest]:
    """Yield the policies; none when they are turned off."""
    if not relay.spec.network_policy.enabled:
        return
    for component in Component:
        if component is Component.NATS and not relay.spec.queue.is_own:
            continue
        yield manifest(
            relay,
            "networking.k8s.io/v1",
            "NetworkPolicy",
            ChildNames(relay.name).of(component),
            component,
            spec={
                "podSelector": {"matchLabels": selector(relay.name, component)},
                "policyTypes": ["Ingress", "Egress"],
                **_sides(relay, inputs, component),
            },
        )


def _sides(relay: Relay, inputs: Inputs, component: Component) -> Manifest:
    """Return the rules of both directions.

    A direction that has none is left out, which denies all of it: the API server stores an empty
    list as none, and would count each apply of one as a change.
    """
    sides = {
        "ingress": list(_rules(relay, inputs, component, comes_in=True)),
        "egress": list(_rules(relay, inputs, component, comes_in=False)),
    }
    return {side: rules for side, rules in sides.items() if rules}


def _rules(
    relay: Relay, inputs: Inputs, component: Component, *, comes_in: bool
) -> Iterator[Manifest]:
    for flow in FLOWS:
        near, far = (flow.targets, flow.sources) if comes_in else (flow.sources, flow.targets)
        ports = _ports(flow, relay)
        if component in near and ports and flow.holds(relay):
            peers = [_peers(party, relay, inputs) for party in far]
            rule: Manifest = {"ports": ports}
            if all(peer is not None for peer in peers):  # otherwise everybody
                found = [each for peer in peers if peer is not None for each in peer]
                rule["from" if comes_in else "to"] = found
            yield rule


def _ports(flow: Flow, relay: Relay) -> list[Manifest]:
    return [
        {"protocol": transport, "port": port}
        for port in flow.ports(relay)
        for transport in flow.transports
    ]


def _peers(party: Party, relay: Relay, inputs: Inputs) -> list[Manifest] | None:
    """Return who a party is, as a policy says it; None: whoever it may be."""
    policy = relay.spec.network_policy
    match party:
        case Component():
            return [{"podSelector": {"matchLabels": selector(relay.name, party)}}]
        case Other.CLIENTS if policy.client_namespaces or policy.client_networks:
            return [
                *map(_namespace, policy.client_namespaces),
                *map(_network, policy.client_networks),
            ]
        case Other.SMART_HOSTS if policy.upstream_networks:
            return list(map(_network, policy.upstream_networks))
        case Other.OPERATOR:
            pods = {"podSelector": {"matchLabels": _OPERATOR_LABELS}}
            return [{**_namespace(inputs.operator_namespace), **pods}]
        case Other.WATCHERS:
            # Each namespace's pods when none is named, and nobody from outside the cluster.
            return list(map(_namespace, policy.monitor_namespaces)) or [{"namespaceSelector": {}}]
        case _:
            return None


def _namespace(name: str) -> Manifest:
    return {"namespaceSelector": {"matchLabels": {_NAMESPACE_LABEL: name}}}


def _network(cidr: str) -> Manifest:
    return {"ipBlock": {"cidr": cidr}}
