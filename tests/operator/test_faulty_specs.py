"""Specs that the API server takes and the relay would not: what is told, and what runs on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.operator.operators import RELAY, SOON, kept_relay, operator, relay, wait_condition
from tests.support.kubernetes.client import Client
from tests.support.kubernetes.cluster import ApiServer
from tests.support.wait import wait_until

pytestmark = pytest.mark.operator

HOST = {"host": "smtp.test"}
# Of what several fields say together, and of what a pattern would cost too much for.
FAULTY: list[tuple[str, list[dict[str, Any]], str]] = [
    (
        "one domain in two routes",
        [
            {"name": "one", "recipientDomains": ["example.org"], "smartHosts": [HOST]},
            {"name": "two", "recipientDomains": ["example.org"], "smartHosts": [HOST]},
        ],
        "example.org is in recipientDomains of one and of two",
    ),
    (
        "one smart host twice",
        [{"name": "all", "smartHosts": [HOST, {**HOST, "port": 587}]}],
        "spec.routes[0].smartHosts: smtp.test:587 is there twice",
    ),
    (
        "an empty part in a domain",
        [{"name": "all", "recipientDomains": ["example..org"], "smartHosts": [HOST]}],
        "spec.routes[0].recipientDomains: 'example..org' is no domain",
    ),
    (
        "an empty part in a host's name",
        [{"name": "all", "smartHosts": [{"host": "smtp..test"}]}],
        "spec.routes[0].smartHosts[0].host: must be a host name or an address",
    ),
]


async def versions(admin: Client) -> dict[str, str]:
    """Everything that the relay is made of, Secrets too, in the version that it has."""
    kinds = [
        *(("apps/v1", kind) for kind in ("Deployment", "StatefulSet")),
        *(("v1", kind) for kind in ("ConfigMap", "Secret", "Service", "PersistentVolumeClaim")),
        ("batch/v1", "Job"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
        ("policy/v1", "PodDisruptionBudget"),
    ]
    return {
        f"{kind} {each['metadata']['name']}": str(
            # A generation where there is one: a controller writes the status of its own accord.
            each["metadata"].get("generation") or each["metadata"]["resourceVersion"]
        )
        for api_version, kind in kinds
        for each in await admin.list(api_version, kind)
    }


async def test_a_spec_that_only_the_relay_refuses_is_told_and_changes_nothing(
    api_server: ApiServer, admin: Client, tmp_path: Path
) -> None:
    async with kept_relay(api_server, admin, tmp_path):
        before = await versions(admin)
        for what, routes, words in FAULTY:
            # Together with what would else make a new certificate and roll every pod.
            await admin.apply(
                relay(hostName="other.example.net", sender={"replicas": 5}, routes=routes)
            )
            said = await wait_condition(admin, "Degraded", "True", "SpecInvalid", words=words)
            assert said.endswith("the relay stays as it was"), what
            await wait_condition(admin, "Progressing", "False", "SpecInvalid", words=words)
            assert await versions(admin) == before, what
        await admin.apply(relay(sender={"replicas": 5}))
        await wait_condition(admin, "Degraded", "False", "AsExpected")

        async def is_changed() -> bool:
            found = await admin.get("apps/v1", "Deployment", "relay-sender")
            return bool(found["spec"]["replicas"] == 5)

        await wait_until(is_changed, SOON, "the mended spec is followed", interval=0.1)


async def test_nothing_is_made_of_a_new_relay_with_a_faulty_spec(
    api_server: ApiServer, admin: Client, namespace: str, tmp_path: Path
) -> None:
    _, routes, words = FAULTY[0]
    async with operator(api_server, namespace, tmp_path):
        before = await versions(admin)
        await admin.apply(relay(routes=routes))
        said = await wait_condition(admin, "Ready", "False", "SpecInvalid", words=words)
        assert said in str(await admin.get(*RELAY, "relay"))
        assert await versions(admin) == before


async def test_pods_that_kubernetes_refuses_are_told_and_the_old_ones_stay(
    api_server: ApiServer, admin: Client, tmp_path: Path
) -> None:
    # An affinity is handed on as it is, and amounts are held against each other by Kubernetes.
    pods = {"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}
    async with kept_relay(api_server, admin, tmp_path):
        before = await admin.get("apps/v1", "Deployment", "relay-sender")
        await admin.apply(relay(sender={"replicas": 5, "pods": pods}))
        said = await wait_condition(admin, "Degraded", "True", "ApplyRefused")
        assert "Deployment relay-sender" in said
        assert "must be less than or equal to cpu limit" in said
        after = await admin.get("apps/v1", "Deployment", "relay-sender")
        assert after["spec"] == before["spec"]
        await admin.apply(relay(sender={"replicas": 5}))
        await wait_condition(admin, "Degraded", "False", "AsExpected")
