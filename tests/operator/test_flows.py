"""The table of flows, the policies that are made of it, and the document that shows it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mailrelay_operator.desired.children import desired
from mailrelay_operator.desired.flows import FLOWS, HEADER, rows
from mailrelay_operator.desired.manifest import Manifest
from mailrelay_operator.desired.names import Component
from tests.architecture.repository import ROOT
from tests.operator.relays import CASES, case, child, inputs, pod_specs, relay


def policies(children: tuple[Manifest, ...]) -> dict[str, Manifest]:
    return {
        each["metadata"]["labels"]["app.kubernetes.io/component"]: each["spec"]
        for each in children
        if each["kind"] == "NetworkPolicy"
    }


def test_the_document_has_the_table() -> None:
    text = (ROOT / "docs" / "flow.md").read_text()
    section = text.partition("\n## Flows in a cluster\n")[2].partition("\n## ")[0]
    found = [
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for line in section.splitlines()
        if line.startswith("|") and not re.fullmatch(r"[|\s-]+", line)
    ]
    assert found == [HEADER, *rows()]


@pytest.mark.parametrize("name", CASES)
def test_every_pod_has_a_policy_that_denies_what_is_in_no_flow(name: str) -> None:
    children = desired(case(name), inputs())
    found = policies(children)
    if not case(name).spec.network_policy.enabled:
        assert found == {}
        return
    assert found.keys() == pod_specs(children).keys()
    for policy in found.values():
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        for rule in (*policy.get("ingress", ()), *policy["egress"]):
            assert rule["ports"], "a rule without ports is one for all ports"
            for peers in (rule.get("from"), rule.get("to")):
                assert peers != [], "a rule of no peers is one for all peers"


@pytest.mark.parametrize("name", [name for name in CASES if case(name).spec.network_policy.enabled])
def test_what_one_component_may_send_another_may_take(name: str) -> None:
    """A flow between two components needs a rule on both sides."""
    found = policies(desired(case(name), inputs()))

    def links(direction: str, key: str) -> set[tuple[str, str, int]]:
        return {
            (
                component,
                peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"],
                port["port"],
            )
            for component, policy in found.items()
            for rule in policy.get(direction, ())
            for peer in rule.get(key, ())
            if set(peer) == {"podSelector"}
            for port in rule["ports"]
        }

    sent = links("egress", "to")
    assert sent == {(source, target, port) for target, source, port in links("ingress", "from")}
    assert sent


@pytest.mark.parametrize("name", CASES)
def test_ports_of_flows_are_those_that_the_pods_have(name: str) -> None:
    resource = case(name)
    specs = pod_specs(desired(resource, inputs()))
    for flow in FLOWS:
        if flow.holds(resource):
            for target in flow.targets:
                if isinstance(target, Component) and flow.ports(resource):
                    (container,) = specs[target.value]["containers"]
                    ports = {port["containerPort"] for port in container["ports"]}
                    assert set(flow.ports(resource)) <= ports


def peers(spec: dict[str, Any], component: str, port: int) -> list[Any]:
    """Who may reach a component at a port; None stands for everybody."""
    policy = child(desired(relay(spec), inputs()), "NetworkPolicy", f"mail-{component}")["spec"]
    return [
        peer
        for rule in policy["ingress"]
        if {"protocol": "TCP", "port": port} in rule["ports"]
        for peer in rule.get("from", [None])
    ]


def test_everybody_may_send_mail_until_somebody_is_named() -> None:
    assert None in peers({}, "ingress", 2525)
    named = {"networkPolicy": {"clientNamespaces": ["web"], "clientNetworks": ["192.0.2.0/24"]}}
    found = peers(named, "ingress", 2525)
    assert None not in found
    assert {"ipBlock": {"cidr": "192.0.2.0/24"}} in found
    web = {"matchLabels": {"kubernetes.io/metadata.name": "web"}}
    assert {"namespaceSelector": web} in found


def test_nobody_but_the_relays_own_pods_reaches_the_queue() -> None:
    for port in (4222, 6222):
        for peer in peers({"queue": {"replicas": 3}}, "nats", port):
            labels = peer["podSelector"]["matchLabels"]
            assert labels["app.kubernetes.io/instance"] == "mail"
            assert set(peer) == {"podSelector"}


def test_nobody_from_outside_the_cluster_reaches_the_monitor() -> None:
    assert all(peer and "ipBlock" not in peer for peer in peers({}, "monitor", 8025))


def test_the_operator_reads_the_monitor_whoever_else_may() -> None:
    named = {"networkPolicy": {"monitorNamespaces": ["monitoring"]}}
    found = peers(named, "monitor", 8025)
    operator = {"matchLabels": {"app.kubernetes.io/name": "mailrelay-operator"}}
    assert operator in [peer.get("podSelector") for peer in found]


def test_senders_reach_the_ports_of_smart_hosts_and_no_others() -> None:
    hosts = [{"host": "a"}, {"host": "b", "tls": "Implicit"}, {"host": "c", "port": 2526}]
    spec = {"routes": [{"name": "r", "smartHosts": hosts}]}
    policy = child(desired(relay(spec), inputs()), "NetworkPolicy", "mail-sender")["spec"]
    open_rules = [rule for rule in policy["egress"] if "to" not in rule]
    ports = {port["port"] for rule in open_rules for port in rule["ports"]}
    assert ports == {53, 465, 587, 2526}
