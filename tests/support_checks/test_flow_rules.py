"""What the rules of flows say of single connections, and that a difference is told."""

from __future__ import annotations

from typing import Any

import pytest

from mailrelay_operator.desired.names import Component
from tests.cluster.flow_rules import Door, Part, Place, Try, matrix, may, wrong
from tests.operator.relays import relay

NAMED: dict[str, Any] = {
    "queue": {"replicas": 3},
    "ingress": {"smtpsPort": 465},
    "networkPolicy": {
        "clientNamespaces": ["web"],
        "clientNetworks": ["192.0.2.0/24"],
        "monitorNamespaces": ["monitoring"],
        "upstreamNetworks": ["198.51.100.0/24"],
    },
}
STRANGER = Place("stranger", "10.0.0.9", "apps")
WEB = Place("web", "10.0.0.10", "web")
PROMETHEUS = Place("prometheus", "10.0.0.11", "monitoring")
OPERATOR = Place("operator", "10.0.0.12", "mailrelay-system", is_operator=True)
NODE = Place("node", "10.0.0.1", is_node=True)
CLIENT = Place("client outside", "192.0.2.1")
SMART_HOST = Place("smart host", "198.51.100.1")
ELSEWHERE = Place("elsewhere", "203.0.113.1")


def pod(component: Component, spec: dict[str, Any], name: str = "mail", number: int = 0) -> Place:
    part = Part(relay(spec, name), component)
    return Place(f"{name} {component.value} {number}", "10.0.0.2", "apps", part)


@pytest.mark.parametrize(
    ("source", "target", "port", "expected"),
    [
        (WEB, Component.INGRESS, 2525, True),
        (CLIENT, Component.INGRESS, 2465, True),
        (STRANGER, Component.INGRESS, 2525, False),
        (ELSEWHERE, Component.INGRESS, 2525, False),
        (WEB, Component.INGRESS, 8026, False),
        (PROMETHEUS, Component.INGRESS, 8026, True),
        (PROMETHEUS, Component.MONITOR, 8025, True),
        (OPERATOR, Component.MONITOR, 8025, True),
        (OPERATOR, Component.NATS, 4222, False),
        (STRANGER, Component.MONITOR, 8025, False),
        (STRANGER, Component.NATS, 4222, False),
        (NODE, Component.NATS, 8222, True),
        (Component.SENDER, Component.NATS, 4222, True),
        (Component.SENDER, Component.NATS, 6222, False),
        (Component.SENDER, Component.INGRESS, 2525, False),
        (Component.MONITOR, Component.INGRESS, 2525, True),
        (Component.SENDER, SMART_HOST, 587, True),
        (Component.SENDER, SMART_HOST, 25, False),
        (Component.SENDER, ELSEWHERE, 587, False),
        (Component.INGRESS, SMART_HOST, 587, False),
        (Component.NATS, ELSEWHERE, 53, True),
    ],
)
def test_rules_say_what_the_table_says(
    source: Place | Component, target: Place | Component, port: int, *, expected: bool
) -> None:
    source = pod(source, NAMED) if isinstance(source, Component) else source
    target = pod(target, NAMED) if isinstance(target, Component) else target
    assert may(Try(source, target, Door(port))) is expected


def test_pods_of_another_relay_are_strangers() -> None:
    queue = pod(Component.NATS, NAMED)
    other = pod(Component.SENDER, NAMED, "other")
    assert not may(Try(other, queue, Door(4222)))
    first, second = (pod(Component.NATS, NAMED, number=number) for number in (0, 1))
    assert may(Try(first, second, Door(6222)))


def test_everybody_sends_mail_where_nobody_is_named() -> None:
    ingress = pod(Component.INGRESS, {})
    assert may(Try(ELSEWHERE, ingress, Door(2525)))
    assert not may(Try(ELSEWHERE, ingress, Door(8026)))  # metrics are for pods
    assert may(Try(STRANGER, ingress, Door(8026)))


def test_only_dns_goes_by_udp() -> None:
    sender = pod(Component.SENDER, NAMED)
    assert may(Try(sender, ELSEWHERE, Door(53, "UDP")))
    assert not may(Try(sender, SMART_HOST, Door(587, "UDP")))


def test_a_policy_that_is_too_wide_or_too_narrow_is_told_by_connection() -> None:
    queue = pod(Component.NATS, NAMED)
    ways = {
        Try(STRANGER, queue, Door(4222)): True,
        Try(pod(Component.SENDER, NAMED), queue, Door(4222)): False,
        Try(WEB, queue, Door(4222)): False,
    }
    assert wrong(ways) == [
        "stranger → mail nats 0 4222: made, and is no flow",
        "mail sender 0 → mail nats 0 4222: denied, and should be made",
    ]
    shown = list(matrix(ways))
    assert "3 tried, 1 made; 1 of 3 pairs have no way at all" in shown
    assert any(line.split() == ["stranger", "mail", "nats", "0", "4222"] for line in shown)
