"""The MailRelay resource at a real API server: what it takes, and with what words it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from mailrelay.config.model import RelayConfig
from mailrelay_operator.resource.crd import crd
from mailrelay_operator.resource.relay import API_VERSION, KIND, read_relay
from mailrelay_operator.resource.relay_config import relay_config
from mailrelay_operator.resource.routes import MAX_DOMAINS, MAX_ROUTES, MAX_SMART_HOSTS
from mailrelay_operator.resource.spec import Spec
from tests.operator.refused import REFUSED, Refused
from tests.operator.resources import FULL, MINIMAL, changed
from tests.support.kubernetes.client import ApiRefusedError, Client
from tests.support.kubernetes.cluster import ApiServer

pytestmark = [pytest.mark.operator, pytest.mark.timeout(300)]


def manifest(spec: dict[str, Any], name: str = "relay") -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name},
        "spec": spec,
    }


async def try_to_create(client: Client, resource: dict[str, Any]) -> None:
    """Create a resource as kubectl does (an unknown field is refused), and store nothing."""
    path = await client.path(API_VERSION, KIND)
    query = {"fieldValidation": "Strict", "dryRun": "All"}
    await client.request("POST", path, resource, query=query)


@pytest.mark.parametrize(
    "spec",
    [{}, MINIMAL, FULL, changed(MINIMAL, "ingress.tls.secretName", "certificate")],
    ids=["capture", "minimal", "full", "own certificate"],
)
async def test_a_valid_resource_is_taken_and_means_what_the_operator_reads(
    admin: Client, spec: dict[str, Any]
) -> None:
    (stored,) = await admin.apply(manifest(spec))
    relay = read_relay(stored)
    # What the server fills in is what the model does.
    assert relay.spec == Spec.model_validate(spec)
    assert RelayConfig.model_validate(relay_config(relay)).smtp_port == 2525


async def test_a_number_may_be_written_where_an_amount_is_wanted(admin: Client) -> None:
    spec = changed(MINIMAL, "ingress.pods.resources.limits", {"cpu": 2, "memory": 10**9})
    (stored,) = await admin.apply(manifest(changed(spec, "queue.storage.size", 2 * 2**30)))
    relay = read_relay(stored)
    assert relay.spec.ingress.pods.resources is not None
    assert relay.spec.ingress.pods.resources.limits == {"cpu": "2", "memory": "1000000000"}
    assert relay_config(relay)["queue"]["storeBytes"] == 2 * 2**30 * 8 // 10


async def test_as_many_routes_as_there_may_be_are_taken(admin: Client) -> None:
    routes = [
        {
            "name": f"r{number}",
            "recipientDomains": [f"d{number}-{domain}.example" for domain in range(MAX_DOMAINS)],
            "smartHosts": [
                {"host": f"mx{host}.example", "caSecretName": "ca", "credentialsSecretName": "me"}
                for host in range(MAX_SMART_HOSTS)
            ],
        }
        for number in range(MAX_ROUTES)
    ]
    (stored,) = await admin.apply(manifest({"routes": routes}))
    assert len(relay_config(read_relay(stored))["routes"]) == MAX_ROUTES


@pytest.mark.parametrize("refused", REFUSED, ids=lambda refused: refused.what)
async def test_a_resource_is_refused_with_words_that_say_what_to_do(
    api_server: ApiServer, refused: Refused
) -> None:
    client = await api_server.admin()  # nothing is stored: no namespace of its own is needed
    with pytest.raises(ApiRefusedError) as found:
        await try_to_create(client, manifest(refused.spec, refused.name))
    assert refused.words in found.value.message


def test_the_table_of_refused_resources_is_long_and_says_each_thing_once() -> None:
    assert len(REFUSED) >= 40
    assert len({refused.what for refused in REFUSED}) == len(REFUSED)


@pytest.mark.parametrize(
    ("spec", "path", "value", "words"),
    [
        (MINIMAL, "queue.replicas", 3, "replicas cannot be changed"),
        (MINIMAL, "queue.prefix", "other", "prefix cannot be changed"),
        (FULL, "queue.prefix", "other", "prefix cannot be changed"),
        (MINIMAL, "queue", FULL["queue"] | {"replicas": 1}, "url cannot be added or removed"),
        (FULL, "queue", {"replicas": 3}, "url cannot be added or removed"),
        (MINIMAL, "queue.storage.size", "9Gi", "a volume grows and never shrinks"),
        (MINIMAL, "queue.storage.className", "fast", "className cannot be changed"),
        (MINIMAL, "monitor.storage.size", "1Gi", "a volume grows and never shrinks"),
        (FULL, "monitor.storage.className", "fast", "className cannot be changed"),
    ],
)
async def test_what_would_leave_mail_behind_cannot_be_changed(
    admin: Client, spec: dict[str, Any], path: str, value: object, words: str
) -> None:
    await admin.apply(manifest(spec))
    with pytest.raises(ApiRefusedError, match=words):
        await admin.apply(manifest(changed(spec, path, value)))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("queue.storage.size", "0.02Ti"),
        ("queue.queueSize", 10),
        ("paused", True),
        ("routes.0.smartHosts.0.host", "smtp.example.net"),
        ("sender.autoscaling", {"maxReplicas": 5}),
    ],
)
async def test_everything_else_can_be_changed(admin: Client, path: str, value: object) -> None:
    await admin.apply(manifest(MINIMAL))
    (stored,) = await admin.apply(manifest(changed(MINIMAL, path, value)))
    assert read_relay(stored).spec == Spec.model_validate(changed(MINIMAL, path, value))


async def test_every_field_is_explained(admin: Client) -> None:
    answer = await admin.request("GET", f"/openapi/v3/apis/{API_VERSION}")
    schemas = answer["components"]["schemas"]
    (served,) = (schema for name, schema in schemas.items() if name.endswith(f".{KIND}"))
    wanted = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for part in ("spec", "status"):
        told = dict(descriptions(served["properties"][part], part))
        assert told == dict(descriptions(wanted["properties"][part], part))
        assert all(told.values())


def descriptions(schema: dict[str, Any], path: str) -> list[tuple[str, str]]:
    found = [(path, str(schema.get("description", "")))]
    for name, field in schema.get("properties", {}).items():
        found += descriptions(field, f"{path}.{name}")
    for name, field in schema.get("items", {}).get("properties", {}).items():
        found += descriptions(field, f"{path}[].{name}")
    return found


async def test_kubectl_explains_a_field(api_server: ApiServer) -> None:
    said = await api_server.kubectl("explain", "mrelay.spec.routes.smartHosts.tls")
    assert "it must offer STARTTLS" in " ".join(said.split())


async def test_kubectl_shows_a_relay_at_a_glance(api_server: ApiServer, admin: Client) -> None:
    await admin.apply(manifest(MINIMAL))
    status = {
        "observedGeneration": 1,
        "conditions": [
            {
                "type": "Ready",
                "status": "False",
                "reason": "SecretMissing",
                "message": "Secret upstream does not exist: create it",
                "lastTransitionTime": "2026-11-26T04:00:00Z",
            }
        ],
        "ingress": {"replicas": 2, "readyReplicas": 1, "summary": "1/2"},
        "sender": {"replicas": 3, "readyReplicas": 3, "summary": "3/3"},
        "queue": {"jobs": 17},
    }
    await admin.patch(API_VERSION, KIND, "relay", {"status": status}, subresource="status")
    said = await api_server.kubectl("get", "mailrelay", "-o", "wide", namespace=admin.namespace)
    head, row = said.splitlines()
    assert head.split() == [
        *("NAME", "READY", "REASON", "INGRESS", "SENDERS", "QUEUED", "AGE", "MESSAGE")
    ]
    assert row.split()[:6] == ["relay", "False", "SecretMissing", "1/2", "3/3", "17"]
    assert row.endswith("Secret upstream does not exist: create it")


async def test_the_status_is_written_apart_from_the_spec(admin: Client) -> None:
    await admin.apply(manifest(MINIMAL))
    patch = {"status": {"observedGeneration": 7}, "spec": {"paused": True}}
    stored = await admin.patch(API_VERSION, KIND, "relay", patch, subresource="status")
    assert not stored["spec"]["paused"]
    assert stored["status"]["observedGeneration"] == 7
    assert stored["metadata"]["generation"] == 1


async def test_kubectl_scale_is_not_offered(admin: Client) -> None:
    answer = await admin.request("GET", f"/apis/{API_VERSION}")
    assert {each["name"] for each in answer["resources"]} == {"mailrelays", "mailrelays/status"}
