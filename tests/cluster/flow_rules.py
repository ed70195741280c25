"""What the table of flows says of one connection, and how that compares with what was seen.

Written from the table (`mailrelay_operator.desired.flows`) and the words of `spec.networkPolicy`;
it knows no NetworkPolicy, so a policy that says something else is found out. Pure.

A connection is made when its source may send it and its target may take it. Who is no relay's pod
may do both. Name servers, collectors, the NATS of `queue.url` and, without `upstreamNetworks`,
smart hosts are known by their ports alone: anybody at such a port is one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from mailrelay_operator.desired.flows import FLOWS, Flow, Other, Party
from mailrelay_operator.desired.names import Component
from mailrelay_operator.resource.relay import Relay

_MONITOR_PORT: Final = 8025
_OPERATOR_PROBE_PORT: Final = 8080
_DNS_PORT: Final = 53
# What the chart's values say of where an API server may listen.
_API_PORTS: Final = frozenset({443, 6443, 8443, 16443})


@dataclass(frozen=True, slots=True)
class Part:
    """A component's pod of a relay."""

    relay: Relay
    component: Component

    @property
    def of(self) -> tuple[str, str]:
        """Whose pod it is."""
        return self.relay.namespace, self.relay.name


@dataclass(frozen=True, slots=True)
class Place:
    """One end of a connection: a pod, the node, or somebody outside the cluster."""

    name: str
    address: str
    namespace: str | None = None  # of a pod
    part: Part | None = field(default=None, compare=False)
    is_operator: bool = False
    is_node: bool = False


@dataclass(frozen=True, slots=True)
class Door:
    """What is tried at a target."""

    port: int
    transport: str = "TCP"

    def __str__(self) -> str:
        return f"{self.port}" if self.transport == "TCP" else f"{self.port}/{self.transport}"


@dataclass(frozen=True, slots=True)
class Try:
    """One connection."""

    source: Place
    target: Place
    door: Door

    def __str__(self) -> str:
        return f"{self.source.name} → {self.target.name} {self.door}"


def may(tried: Try) -> bool:
    """Whether the connection is to be made."""
    if tried.source.is_node:
        return True  # a node reaches its own pods, whatever policies say
    return may_send(tried) and may_take(tried)


def may_send(tried: Try) -> bool:
    """Whether the source's side lets it out."""
    if tried.source.is_operator:
        return _operator_sends(tried)
    return _has_flow(tried.source.part, tried.target, tried.door, lambda f: (f.sources, f.targets))


def may_take(tried: Try) -> bool:
    """Whether the target's side lets it in."""
    if tried.target.is_operator:
        return tried.source.namespace is not None and tried.door == Door(_OPERATOR_PROBE_PORT)
    return _has_flow(tried.target.part, tried.source, tried.door, lambda f: (f.targets, f.sources))


def _has_flow(
    near: Part | None,
    far: Place,
    door: Door,
    sides: Callable[[Flow], tuple[tuple[Party, ...], tuple[Party, ...]]],
) -> bool:
    if near is None:
        return True
    for flow in FLOWS:
        here, there = sides(flow)
        if (
            near.component in here
            and flow.holds(near.relay)
            and door.port in flow.ports(near.relay)
            and door.transport in flow.transports
            and any(_is(party, far, near) for party in there)
        ):
            return True
    return False


def _is(party: Party, place: Place, near: Part) -> bool:
    """Whether a place is a party of this relay's table."""
    policy = near.relay.spec.network_policy
    match party:
        case Component():
            own = place.part is not None and place.part.of == near.of
            return own and place.part is not None and place.part.component is party
        case Other.CLIENTS if policy.client_namespaces or policy.client_networks:
            named = place.namespace in policy.client_namespaces
            return named or _is_in(place, policy.client_networks)
        case Other.SMART_HOSTS if policy.upstream_networks:
            return _is_in(place, policy.upstream_networks)
        case Other.OPERATOR:
            return place.is_operator
        case Other.WATCHERS if policy.monitor_namespaces:
            return place.namespace in policy.monitor_namespaces
        case Other.WATCHERS:
            return place.namespace is not None
        case _:
            return True


def _is_in(place: Place, networks: Iterable[str]) -> bool:
    address = ipaddress.ip_address(place.address)
    return any(address in ipaddress.ip_network(network) for network in networks)


def _operator_sends(tried: Try) -> bool:
    """The chart's own policy: name servers, the API server, and all relays' monitors."""
    door, part = tried.door, tried.target.part
    if door.port == _DNS_PORT:
        return True
    is_monitor = part is not None and part.component is Component.MONITOR
    wanted = door.port in _API_PORTS or (is_monitor and door.port == _MONITOR_PORT)
    return wanted and door.transport == "TCP"


def wrong(seen: Mapping[Try, bool], expected: Callable[[Try], bool] = may) -> list[str]:
    """Each connection that was not as expected, in words."""
    return [
        f"{tried}: {'denied, and should be made' if expected(tried) else 'made, and is no flow'}"
        for tried, made in seen.items()
        if made != expected(tried)
    ]


def matrix(seen: Mapping[Try, bool]) -> Iterator[str]:
    """Yield who reached whom at which ports, a line for each pair that connected at all."""
    pairs: dict[tuple[str, str], list[Try]] = {}
    for tried in seen:
        pairs.setdefault((tried.source.name, tried.target.name), []).append(tried)
    yield f"{'from':34}{'to':30}{'expected':34}seen"
    silent = 0
    for (source, target), tries in pairs.items():
        expected = " ".join(str(each.door) for each in tries if may(each))
        got = " ".join(str(each.door) for each in tries if seen[each])
        if expected or got:
            yield f"{source:34}{target:30}{expected:34}{got}"
        else:
            silent += 1
    made = sum(seen.values())
    yield f"{len(seen)} tried, {made} made; {silent} of {len(pairs)} pairs have no way at all"
