"""The operator, as a process, with the account, rights and environment that Helm has installed."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chart.helm import CHART, Helm, Values
from tests.chart.left import wait_served
from tests.chart.modes import SPEC
from tests.operator.operators import RELAY, SOON, played_node, wait_condition
from tests.operator.running import RunningOperator
from tests.support.kubernetes.client import Client, Manifest
from tests.support.kubernetes.cluster import ApiServer
from tests.support.wait import wait_until

pytestmark = pytest.mark.operator

PREFIX = "MAILRELAY_OPERATOR_"
UPSTREAM: Manifest = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "upstream"},
    "stringData": {"username": "relay", "password": "secret"},
}


@contextlib.asynccontextmanager
async def installed_operator(
    api_server: ApiServer, helm: Helm, admin: Client, folder: Path, values: Values
) -> AsyncIterator[RunningOperator]:
    """Install the chart and run what its Deployment would run."""
    await helm.did(
        "install", "mailrelay", str(CHART), "--namespace", admin.namespace, values=values
    )
    async with operator_of_the_deployment(api_server, admin, folder) as running:
        yield running


@contextlib.asynccontextmanager
async def operator_of_the_deployment(
    api_server: ApiServer, admin: Client, folder: Path
) -> AsyncIterator[RunningOperator]:
    """Run what the Deployment of the client's namespace would run."""
    found = await admin.get("apps/v1", "Deployment", "mailrelay-operator")
    pod = found["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environment = {each["name"]: each.get("value", "") for each in container["env"]}
    running = RunningOperator(
        folder,
        await api_server.kubeconfig_of(admin.namespace, pod["serviceAccountName"]),
        admin.namespace,
        watched=environment[f"{PREFIX}WATCHED"],
        workers=int(environment[f"{PREFIX}WORKERS"]),
        images={
            name: environment[f"{PREFIX}IMAGE_{name}"]
            for name in ("INGRESS", "SENDER", "MONITOR", "NATS", "TOOLS")
        },
    )
    try:
        await running.start()
        await running.wait_ready()
        await wait_served(admin)
        yield running
    finally:
        await running.kill()


@pytest.mark.parametrize("mode", ["cluster", "namespace"])
async def test_with_the_installed_rights_a_relay_gets_ready(
    mode: str, api_server: ApiServer, helm: Helm, admin: Client, namespace: str, tmp_path: Path
) -> None:
    watched = [namespace] if mode == "namespace" else []
    values = {"operator": {"watchNamespaces": watched}}
    await admin.apply(UPSTREAM)
    relay = {
        "apiVersion": RELAY[0],
        "kind": RELAY[1],
        "metadata": {"name": "relay"},
        "spec": SPEC,
    }
    running = installed_operator(api_server, helm, admin, tmp_path / "operator", values)
    async with running, played_node(admin):
        await admin.apply(relay)
        await wait_condition(admin, "Ready", "True", "Ready")
        sender = await admin.get("apps/v1", "Deployment", "relay-sender")
    (container,) = sender["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "mailrelay-sender:0.1.0"
    asked = api_server.requests_of(namespace, "mailrelay-operator")
    assert [each for each in asked if each.status == 403] == []


async def test_an_operator_without_rights_says_what_it_may_not_do(
    api_server: ApiServer, helm: Helm, namespace: str, tmp_path: Path
) -> None:
    values = {"rbac": {"create": False}}
    said = await helm.did(
        "install", "mailrelay", str(CHART), "--namespace", namespace, values=values
    )
    assert f"ServiceAccount mailrelay-operator in namespace {namespace}" in said
    kubeconfig = await api_server.kubeconfig_of(namespace, "mailrelay-operator")
    running = RunningOperator(tmp_path / "operator", kubeconfig, namespace)
    try:
        await running.start()

        def has_said_so() -> bool:
            reasons = [str(line.get("reason", "")) for line in running.lines()]
            return any("forbidden" in each and "mailrelays" in each for each in reasons)

        await wait_until(has_said_so, SOON, f"it says what it may not do\n{running.tail()}")
        status, text = await running.ask("/readyz")
    finally:
        await running.kill()
    assert status == 503
    assert "not listed yet" in text
