"""Real Helm on a real API server: install, upgrade, roll back, uninstall."""

from __future__ import annotations

import pytest

from tests.chart.helm import CHART, Helm, Values
from tests.chart.left import CRD, cluster_objects, objects, wait_served
from tests.support.kubernetes.client import Client, Manifest

pytestmark = pytest.mark.operator

INSTALLED = {
    "deployments/mailrelay-operator",
    "networkpolicies/mailrelay-operator",
    "rolebindings/mailrelay-operator-lease",
    "roles/mailrelay-operator-lease",
    "serviceaccounts/mailrelay-operator",
}
OF_CLUSTER = {
    "clusterrolebindings/mailrelay-operator",
    "clusterroles/mailrelay-edit",
    "clusterroles/mailrelay-operator",
    "clusterroles/mailrelay-view",
    "customresourcedefinitions/mailrelays.mailrelay.dev",
}
# The API server makes it of the definition.
KEPT = {
    "customresourcedefinitions/mailrelays.mailrelay.dev",
    "apiservices/v1alpha1.mailrelay.dev",
}
# Deployments' controllers and Helm keep records of their own.
RECORDS = ("replicasets/", "pods/", "secrets/sh.helm.release")


async def chart(helm: Helm, what: str, namespace: str, values: Values | None = None) -> str:
    return await helm.did(what, "mailrelay", str(CHART), "--namespace", namespace, values=values)


async def made(admin: Client, namespace: str) -> set[str]:
    found = await objects(admin, namespace)
    return {each for each in found if not each.startswith(RECORDS)}


async def operator_of(admin: Client) -> Manifest:
    return await admin.get("apps/v1", "Deployment", "mailrelay-operator")


async def test_it_installs_with_no_value_set_and_makes_these_objects_and_no_others(
    helm: Helm, admin: Client, namespace: str
) -> None:
    said = await chart(helm, "install", namespace)
    assert await made(admin, namespace) == INSTALLED
    assert await cluster_objects(admin) == OF_CLUSTER | KEPT
    assert f"kubectl rollout status --namespace {namespace} deployment/mailrelay-operator" in said
    assert f"helm test mailrelay --namespace {namespace}" in said
    assert "kind: MailRelay" in said


async def test_what_is_left_after_it_is_uninstalled_is_the_definition_alone(
    helm: Helm, admin: Client, namespace: str
) -> None:
    before = await objects(admin, namespace)
    every = {"podMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}}
    values = {
        "operator": {"replicas": 2},
        "monitoring": {**every, "dashboards": {"enabled": True}},
    }
    await chart(helm, "install", namespace, values)
    await helm.did("uninstall", "mailrelay", "--namespace", namespace, "--wait")
    assert await objects(admin, namespace) == before
    assert await cluster_objects(admin) == KEPT


async def test_relays_stay_when_it_is_uninstalled_and_are_there_for_the_next_one(
    helm: Helm, admin: Client, namespace: str
) -> None:
    await chart(helm, "install", namespace)
    relay = {
        "apiVersion": "mailrelay.dev/v1alpha1",
        "kind": "MailRelay",
        "metadata": {"name": "relay"},
        "spec": {"deletionPolicy": "Delete"},
    }
    await wait_served(admin)
    (stored,) = await admin.apply(relay)
    await helm.did("uninstall", "mailrelay", "--namespace", namespace, "--wait")
    found = await admin.get("mailrelay.dev/v1alpha1", "MailRelay", "relay")
    assert found["metadata"]["uid"] == stored["metadata"]["uid"]
    await chart(helm, "install", namespace)
    found = await admin.get("mailrelay.dev/v1alpha1", "MailRelay", "relay")
    assert found["metadata"]["uid"] == stored["metadata"]["uid"]


async def test_without_keep_the_definition_goes_too(
    helm: Helm, admin: Client, namespace: str
) -> None:
    await chart(helm, "install", namespace, {"crds": {"keep": False}})
    await helm.did("uninstall", "mailrelay", "--namespace", namespace, "--wait")
    assert await cluster_objects(admin) == set()


async def test_an_upgrade_changes_what_it_says_and_a_rollback_undoes_it(
    helm: Helm, admin: Client, namespace: str
) -> None:
    await chart(helm, "install", namespace)
    first = await operator_of(admin)
    values = {
        "operator": {"replicas": 2, "watchNamespaces": [namespace]},
        "images": {"tag": "9.9.9"},
    }
    await chart(helm, "upgrade", namespace, values)
    second = await operator_of(admin)
    assert second["spec"]["replicas"] == 2
    (container,) = second["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "mailrelay-operator:9.9.9"
    # It needs no rights in other namespaces any more, and has none.
    assert await cluster_objects(admin) == KEPT
    assert await made(admin, namespace) == INSTALLED | {
        "poddisruptionbudgets/mailrelay-operator",
        "roles/mailrelay-operator",
        "rolebindings/mailrelay-operator",
    }
    await helm.did("rollback", "mailrelay", "1", "--namespace", namespace)
    third = await operator_of(admin)
    assert third["spec"] == first["spec"]
    assert await made(admin, namespace) == INSTALLED
    assert await cluster_objects(admin) == OF_CLUSTER | KEPT


async def test_an_upgrade_brings_the_definition_up_to_date(
    helm: Helm, admin: Client, namespace: str
) -> None:
    await chart(helm, "install", namespace)
    old = await admin.get(*CRD)
    schema = old["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    del schema["properties"]["spec"]["properties"]["paused"]
    old["metadata"]["annotations"]["mailrelay.dev/definition"] = "sha256:old"
    # As an older chart would have: Helm's own field manager.
    for field in ("managedFields", "resourceVersion", "uid", "creationTimestamp", "generation"):
        old["metadata"].pop(field, None)
    old.pop("status", None)
    await admin.apply(old, manager="helm")
    await chart(helm, "upgrade", namespace)
    new = await admin.get(*CRD)
    assert new["metadata"]["annotations"]["mailrelay.dev/definition"] != "sha256:old"
    spec = new["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert "paused" in spec["properties"]


async def test_installing_it_again_after_it_was_uninstalled_takes_the_definition_over(
    helm: Helm, admin: Client, namespace: str
) -> None:
    await chart(helm, "install", namespace)
    await helm.did("uninstall", "mailrelay", "--namespace", namespace, "--wait")
    await chart(helm, "install", namespace)
    assert await made(admin, namespace) == INSTALLED
