"""The shipped role is what the operator uses: no right is missing, none is there for nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mailrelay_operator.rights import OWN, RELAYS, Grant
from mailrelay_operator.rotation import ROTATE
from tests.operator.operators import (
    ACCOUNT,
    RELAY,
    SOON,
    operator,
    played_node,
    relay,
    wait_condition,
)
from tests.support.kubernetes.client import Client
from tests.support.kubernetes.cluster import ApiServer
from tests.support.wait import wait_until

pytestmark = pytest.mark.operator


def definition(group: str, version: str, kind: str, plural: str) -> dict[str, Any]:
    """An add-on's kind, as far as the operator meets it."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": {"status": {}},
                }
            ],
        },
    }


ADD_ONS = (
    definition("monitoring.coreos.com", "v1", "PodMonitor", "podmonitors"),
    definition("cert-manager.io", "v1", "Certificate", "certificates"),
)

# Each child is deleted by hand, so that the operator makes it again; these are removed by the
# operator itself, each by the change of a spec.
CHANGES: tuple[dict[str, Any], ...] = (
    {"ingress": {"tls": {"issuerRef": {"name": "ca"}}}},
    {"networkPolicy": {"enabled": False}, "monitor": {"podMonitor": {"enabled": False}}},
    {"queue": {"queueSize": 5000}},
)


async def test_the_role_is_exactly_what_is_used(
    api_server: ApiServer, admin: Client, namespace: str, tmp_path: Path
) -> None:
    await admin.apply(ADD_ONS)
    host = {"host": "smtp.test", "credentialsSecretName": "upstream"}
    routes = [{"name": "all", "smartHosts": [host]}]
    data = {"username": "u", "password": "p"}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "upstream"}}
    await admin.apply({**secret, "stringData": data})
    async with operator(api_server, namespace, tmp_path), played_node(admin):
        for change in (*CHANGES, {}):
            body = relay(**{"deletionPolicy": "Delete", "routes": routes, **change})
            await admin.apply(body)
            await wait_seen(admin)
            await delete_all(admin)
            await wait_seen(admin)
        await admin.patch(*RELAY, "relay", {"metadata": {"annotations": {ROTATE: "1"}}})
        await wait_rotated(admin)
        await admin.delete(*RELAY, "relay")

        async def is_gone() -> bool:
            return await admin.find(*RELAY, "relay") is None

        await wait_until(is_gone, SOON, "the relay is gone", interval=0.1)
    asked = api_server.requests_of(namespace, ACCOUNT)
    refused = {(each.verb, each.group, each.resource) for each in asked if each.status == 403}
    assert refused == set()
    used = {(each.group, each.resource, each.verb) for each in asked}
    # An apply that makes an object is a patch, for which RBAC asks for the right to create, too.
    used |= {(each.group, each.resource, "create") for each in asked if each.status == 201}
    assert granted((*RELAYS, *OWN)) - used == set()


async def wait_seen(admin: Client) -> None:
    """Wait until the operator is through with the resource's generation."""

    async def is_seen() -> bool:
        body = await admin.get(*RELAY, "relay")
        status = body.get("status") or {}
        return bool(status.get("observedGeneration") == body["metadata"]["generation"])

    await wait_until(is_seen, SOON, "the generation was seen", interval=0.1)
    await wait_condition(admin, "Degraded", "False", "AsExpected")


async def wait_rotated(admin: Client) -> None:
    """Wait until each role has one key again, a new one."""

    async def is_rotated() -> bool:
        for role in ("admin", "ingress", "sender", "monitor"):
            secret = await admin.get("v1", "Secret", f"relay-nats-{role}")
            assert "asked" in secret["data"], f"{role} is not begun"
            assert "seed-a" not in secret["data"], f"{role} has its old key"
        return True

    await wait_until(is_rotated, 2 * SOON, "all keys are new", interval=0.2)


async def delete_all(admin: Client) -> None:
    """Delete what can be made again, and edit something, as people do."""
    for api_version, kind in (
        ("apps/v1", "Deployment"),
        ("apps/v1", "StatefulSet"),
        ("batch/v1", "Job"),
        ("v1", "Service"),
        ("v1", "ConfigMap"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
        ("policy/v1", "PodDisruptionBudget"),
    ):
        for found in await admin.list(api_version, kind):
            name = found["metadata"]["name"]
            if name.startswith("relay"):
                await admin.delete(api_version, kind, name)
                await wait_back(admin, api_version, kind, name, found["metadata"]["uid"])


async def wait_back(admin: Client, api_version: str, kind: str, name: str, uid: str) -> None:
    async def is_back() -> bool:
        found = await admin.find(api_version, kind, name)
        return found is not None and found["metadata"]["uid"] != uid

    await wait_until(is_back, SOON, f"{kind} {name} is there again", interval=0.1)


def granted(grants: tuple[Grant, ...]) -> set[tuple[str, str, str]]:
    return {(grant.group, grant.resource, verb) for grant in grants for verb in grant.verbs}
