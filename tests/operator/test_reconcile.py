from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.operator.operators import (
    RELAY,
    SOON,
    conditions,
    kept_relay,
    operator,
    played_node,
    relay,
    wait_condition,
    wait_made,
)
from tests.support.kubernetes.client import Client
from tests.support.kubernetes.cluster import ApiServer
from tests.support.otlp import collector, spans_by_name
from tests.support.wait import wait_until

pytestmark = pytest.mark.operator

DEPLOYMENT = ("apps/v1", "Deployment")
SERVICE = ("v1", "Service")
CONFIG_MAP = ("v1", "ConfigMap")


async def test_ten_lines_give_a_whole_relay_that_gets_ready(
    api_server: ApiServer, admin: Client, namespace: str, tmp_path: Path
) -> None:
    async with operator(api_server, namespace, tmp_path), played_node(admin):
        await admin.apply(relay())
        await wait_condition(admin, "Ready", "True", "Ready")
        await wait_condition(admin, "Progressing", "False", "Done")
        body = await admin.get(*RELAY, "relay")
    assert body["status"]["ingress"]["summary"] == "2/2"
    assert body["status"]["sender"]["summary"] == "2/2"
    assert body["status"]["ingress"]["address"] == f"relay-ingress.{namespace}.svc:587"
    assert body["status"]["observedGeneration"] == body["metadata"]["generation"]
    # Nothing of kopf's is left on the resource.
    assert "finalizers" not in body["metadata"]
    assert "annotations" not in body["metadata"]
    told = [event["reason"] for event in await admin.list("events.k8s.io/v1", "Event")]
    assert "ReadyReady" in told


async def test_drift_is_undone(api_server: ApiServer, admin: Client, tmp_path: Path) -> None:
    async with kept_relay(api_server, admin, tmp_path) as running:
        spy = {"name": "spy", "image": "evil"}
        await admin.patch(*DEPLOYMENT, "relay-sender", {"spec": {"replicas": 7}})
        pods = (await admin.get(*DEPLOYMENT, "relay-ingress"))["spec"]["template"]["spec"]
        added = {"spec": {"template": {"spec": {"containers": [*pods["containers"], spy]}}}}
        await admin.patch(*DEPLOYMENT, "relay-ingress", added)
        await admin.patch(*CONFIG_MAP, "relay-config", {"data": {"extra": "x"}})
        await admin.delete(*SERVICE, "relay-ingress")
        await admin.patch(
            *SERVICE, "relay-monitor", {"metadata": {"labels": {"app.kubernetes.io/name": "x"}}}
        )

        async def is_undone() -> bool:
            sender = await admin.get(*DEPLOYMENT, "relay-sender")
            ingress = await admin.get(*DEPLOYMENT, "relay-ingress")
            config = await admin.get(*CONFIG_MAP, "relay-config")
            monitor = await admin.get(*SERVICE, "relay-monitor")
            assert sender["spec"]["replicas"] == 2
            assert len(ingress["spec"]["template"]["spec"]["containers"]) == 1
            assert list(config["data"]) == ["config.json"]
            assert monitor["metadata"]["labels"]["app.kubernetes.io/name"] == "mailrelay"
            return await admin.find(*SERVICE, "relay-ingress") is not None

        await wait_until(is_undone, SOON, "all of it is undone", interval=0.1)
        assert await running.metric("mailrelay_operator_drift_undone_total") >= 4


async def test_what_belongs_to_others_is_left_alone(
    api_server: ApiServer, admin: Client, tmp_path: Path
) -> None:
    async with kept_relay(api_server, admin, tmp_path):
        mark = {"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}
        restart = {"spec": {"template": {"metadata": {"annotations": mark}}}}
        await admin.patch(*DEPLOYMENT, "relay-sender", restart)
        await admin.patch(*DEPLOYMENT, "relay-sender", {"metadata": {"annotations": {"team": "a"}}})
        # What comes after them is undone, so they were seen.
        await admin.patch(*DEPLOYMENT, "relay-sender", {"spec": {"replicas": 9}})

        async def is_undone() -> bool:
            return bool((await admin.get(*DEPLOYMENT, "relay-sender"))["spec"]["replicas"] == 2)

        await wait_until(is_undone, SOON, "the replicas are undone", interval=0.1)
        found = await admin.get(*DEPLOYMENT, "relay-sender")
    assert found["metadata"]["annotations"]["team"] == "a"
    assert mark.items() <= found["spec"]["template"]["metadata"]["annotations"].items()


async def test_what_a_changed_spec_no_longer_wants_goes(
    api_server: ApiServer, admin: Client, tmp_path: Path
) -> None:
    policies = ("networking.k8s.io/v1", "NetworkPolicy")
    async with kept_relay(api_server, admin, tmp_path):
        assert await admin.list(*policies)
        await admin.apply(relay(networkPolicy={"enabled": False}))

        async def are_gone() -> bool:
            return not await admin.list(*policies)

        await wait_until(are_gone, SOON, "the policies are gone", interval=0.1)
        assert await admin.find(*SERVICE, "relay-ingress")


async def test_nothing_is_changed_while_a_relay_is_paused(
    api_server: ApiServer, admin: Client, tmp_path: Path
) -> None:
    async with kept_relay(api_server, admin, tmp_path):
        await admin.apply(relay(paused=True, sender={"replicas": 5}))
        await wait_condition(admin, "Paused", "True", "Asked")
        await admin.patch(*DEPLOYMENT, "relay-ingress", {"spec": {"replicas": 4}})

        async def is_told() -> bool:
            body = await admin.get(*RELAY, "relay")
            return bool(body["status"]["ingress"]["replicas"] == 4)

        await wait_until(is_told, SOON, "the edit was seen", interval=0.1)
        assert (await admin.get(*DEPLOYMENT, "relay-ingress"))["spec"]["replicas"] == 4
        assert (await admin.get(*DEPLOYMENT, "relay-sender"))["spec"]["replicas"] == 2
        await admin.apply(relay(sender={"replicas": 5}))

        async def is_right() -> bool:
            ingress = await admin.get(*DEPLOYMENT, "relay-ingress")
            sender = await admin.get(*DEPLOYMENT, "relay-sender")
            return (ingress["spec"]["replicas"], sender["spec"]["replicas"]) == (2, 5)

        await wait_until(is_right, SOON, "it is as the spec says", interval=0.1)


async def test_a_missing_secret_stops_a_change_and_its_arrival_lets_it_go_on(
    api_server: ApiServer, admin: Client, tmp_path: Path
) -> None:
    host = {"host": "smtp.test", "credentialsSecretName": "upstream"}
    changed = relay(routes=[{"name": "all", "smartHosts": [host]}], sender={"replicas": 3})
    async with kept_relay(api_server, admin, tmp_path):
        await admin.apply(changed)
        said = await wait_condition(admin, "SecretsResolved", "False", "SecretMissing")
        assert said == (
            "Secret upstream (spec.routes[0].smartHosts[0].credentialsSecretName) does not exist: "
            "create it"
        )
        await wait_condition(admin, "Degraded", "True", "SecretMissing")
        assert (await admin.get(*DEPLOYMENT, "relay-sender"))["spec"]["replicas"] == 2
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "upstream"},
            "stringData": {"username": "u"},
        }
        await admin.apply(secret)

        async def names_the_key() -> bool:
            message = (await conditions(admin))["SecretsResolved"][2]
            return message.endswith("has no key password: add it")

        await wait_until(names_the_key, SOON, "the missing key is named", interval=0.1)
        await admin.apply({**secret, "stringData": {"username": "u", "password": "p"}})
        await wait_condition(admin, "SecretsResolved", "True", "Resolved")

        async def is_changed() -> bool:
            return bool((await admin.get(*DEPLOYMENT, "relay-sender"))["spec"]["replicas"] == 3)

        await wait_until(is_changed, SOON, "the change is made", interval=0.1)


async def test_the_address_is_the_load_balancers_when_there_is_one(
    api_server: ApiServer, admin: Client, namespace: str, tmp_path: Path
) -> None:
    async def wait_address(address: str) -> None:
        async def is_told() -> bool:
            body = await admin.get(*RELAY, "relay")
            found = body["status"]["ingress"]["address"]
            assert found == address, found
            return True

        await wait_until(is_told, SOON, f"the address is {address}", interval=0.1)

    async with kept_relay(
        api_server, admin, tmp_path, {"ingress": {"service": {"type": "LoadBalancer"}}}
    ):
        await wait_address(f"relay-ingress.{namespace}.svc:587")
        # What a cloud's controller says, in the order in which clouds do.
        for point, address in (
            ({"ip": "192.0.2.25"}, "192.0.2.25:587"),
            ({"ip": "2001:db8::25"}, "[2001:db8::25]:587"),
            ({"hostname": "lb.example.net"}, "lb.example.net:587"),
        ):
            status = {"status": {"loadBalancer": {"ingress": [point]}}}
            await admin.patch(*SERVICE, "relay-ingress", status, subresource="status")
            await wait_address(address)
        await admin.apply(relay())
        await wait_address(f"relay-ingress.{namespace}.svc:587")


async def test_an_object_that_is_somebody_elses_is_never_taken_over(
    api_server: ApiServer, admin: Client, namespace: str, tmp_path: Path
) -> None:
    theirs = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "relay-ingress"},
        "spec": {"ports": [{"port": 1}], "selector": {"app": "theirs"}},
    }
    await admin.create(theirs)
    async with operator(api_server, namespace, tmp_path):
        await admin.apply(relay())
        said = await wait_condition(admin, "Degraded", "True", "NameTaken")
        assert "Service relay-ingress" in said
        assert (await admin.get(*SERVICE, "relay-ingress"))["spec"]["selector"] == {"app": "theirs"}
        await admin.delete(*SERVICE, "relay-ingress")
        # Somebody else's object tells the operator nothing: the next change does, or a minute.
        await admin.apply(relay(sender={"replicas": 1}))
        await wait_condition(admin, "Degraded", "False", "AsExpected")


async def test_a_secret_that_is_somebody_elses_is_never_taken_over(
    api_server: ApiServer, admin: Client, namespace: str, tmp_path: Path
) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "relay-smtp"}}
    await admin.create({**secret, "stringData": {"theirs": "1"}})
    async with operator(api_server, namespace, tmp_path):
        await admin.apply(relay())
        said = await wait_condition(admin, "Ready", "False", "NameTaken")
        assert "Secret relay-smtp" in said
        found = await admin.get("v1", "Secret", "relay-smtp")
        assert list(found["data"]) == ["theirs"]


async def test_generated_secrets_are_made_once_and_again_when_they_are_gone(
    api_server: ApiServer, admin: Client, tmp_path: Path
) -> None:
    async with kept_relay(api_server, admin, tmp_path) as running:
        before = {each["metadata"]["name"]: each for each in await admin.list("v1", "Secret")}
        await admin.apply(relay(sender={"replicas": 4}))
        await admin.delete("v1", "Secret", "relay-smtp")

        async def is_back() -> bool:
            return await admin.find("v1", "Secret", "relay-smtp") is not None

        await wait_until(is_back, SOON, "the Secret is there again", interval=0.1)
        after = {each["metadata"]["name"]: each for each in await admin.list("v1", "Secret")}
        changed = [name for name, each in after.items() if each["data"] != before[name]["data"]]
        assert changed == ["relay-smtp"]
        log = running.log_file.read_text()
        for secret in (*before.values(), *after.values()):
            for name, value in secret["data"].items():
                assert value not in log, f"{name} of {secret['metadata']['name']} is in the log"


async def test_a_deleted_relay_goes_at_once_while_no_operator_is_there_and_its_volumes_stay(
    api_server: ApiServer, admin: Client, tmp_path: Path
) -> None:
    claims = ("v1", "PersistentVolumeClaim")
    async with kept_relay(api_server, admin, tmp_path) as running:
        await running.kill()
        await admin.delete(*RELAY, "relay")

        async def is_gone() -> bool:
            left = [await admin.find(*RELAY, "relay"), *await admin.list(*DEPLOYMENT)]
            return not any(left)

        await wait_until(is_gone, SOON, "relay and children are gone", interval=0.1)
    assert {each["metadata"]["name"] for each in await admin.list(*claims)} == {
        "data-relay-nats-0",
        "relay-monitor",
    }


async def test_the_volumes_go_with_a_relay_that_asks_for_it(
    api_server: ApiServer, admin: Client, tmp_path: Path
) -> None:
    async with kept_relay(api_server, admin, tmp_path, {"deletionPolicy": "Delete"}):
        await admin.delete(*RELAY, "relay")

        async def is_gone() -> bool:
            claims = await admin.list("v1", "PersistentVolumeClaim")
            return not claims and await admin.find(*RELAY, "relay") is None

        await wait_until(is_gone, SOON, "relay and claims are gone", interval=0.1)


async def test_a_policy_that_changes_its_mind_keeps_the_volumes(
    api_server: ApiServer, admin: Client, namespace: str, tmp_path: Path
) -> None:
    claims = ("v1", "PersistentVolumeClaim")

    async def are_owned(*, wanted: bool) -> bool:
        found = await admin.list(*claims)
        return len(found) == 2 and all(
            bool(each["metadata"].get("ownerReferences")) == wanted for each in found
        )

    async with operator(api_server, namespace, tmp_path):
        await admin.apply(relay(deletionPolicy="Delete"))
        await wait_until(lambda: are_owned(wanted=True), SOON, "they would go", interval=0.1)
        await admin.apply(relay())
        await wait_until(lambda: are_owned(wanted=False), SOON, "they would stay", interval=0.1)


async def test_a_relay_that_is_made_again_at_once_gets_children_of_its_own(
    api_server: ApiServer, admin: Client, tmp_path: Path
) -> None:
    async with kept_relay(api_server, admin, tmp_path):
        await admin.delete(*RELAY, "relay")
        await admin.apply(relay())

        async def is_new() -> bool:
            uid = (await admin.get(*RELAY, "relay"))["metadata"]["uid"]
            found = await admin.find(*DEPLOYMENT, "relay-sender")
            assert found is not None
            return bool(found["metadata"]["ownerReferences"][0]["uid"] == uid)

        await wait_until(is_new, SOON, "the children are the new relay's", interval=0.1)


async def test_relays_of_one_namespace_do_not_disturb_each_other(
    api_server: ApiServer, admin: Client, namespace: str, tmp_path: Path
) -> None:
    async with operator(api_server, namespace, tmp_path):
        await admin.apply([relay("a"), relay("a-nats"), relay("b", queue={"replicas": 3})])
        for name in ("a", "a-nats", "b"):
            await wait_made(admin, name)
        await admin.delete(*RELAY, "a")

        async def is_gone() -> bool:
            return await admin.find(*DEPLOYMENT, "a-sender") is None

        await wait_until(is_gone, SOON, "a's children are gone", interval=0.1)
        assert await admin.find(*DEPLOYMENT, "a-nats-sender")
        assert (await admin.get("apps/v1", "StatefulSet", "b-nats"))["spec"]["replicas"] == 3


async def test_each_pass_is_a_span_at_a_collector(
    api_server: ApiServer, admin: Client, namespace: str, tmp_path: Path
) -> None:
    with collector() as (endpoint, arrived, _):
        async with operator(api_server, namespace, tmp_path, traces_to=endpoint) as running:
            await admin.apply(relay())
            await wait_made(admin)
            assert await running.stop() == 0  # which sends what was not sent yet
    spans = spans_by_name(arrived)["reconcile"]
    told = {
        (attribute.key, attribute.value.string_value)
        for span in spans
        for attribute in span.attributes
    }
    assert told == {("mailrelay.namespace", namespace), ("mailrelay.relay", "relay")}
    services = {
        attribute.value.string_value
        for request in arrived
        for each in request.resource_spans
        for attribute in each.resource.attributes
        if attribute.key == "service.name"
    }
    assert services == {"mailrelay-operator"}


async def test_an_operator_that_has_nothing_to_do_asks_for_next_to_nothing(
    api_server: ApiServer, admin: Client, namespace: str, tmp_path: Path
) -> None:
    async with operator(api_server, namespace, tmp_path) as running, played_node(admin):
        await admin.apply(relay())
        await wait_condition(admin, "Ready", "True", "Ready")
        await wait_condition(admin, "Progressing", "False", "Done")
        before = api_server.requests_of(namespace, "mailrelay-operator")
        await asyncio.sleep(10)  # the time that is measured, not one that is waited for
        asked = api_server.requests_of(namespace, "mailrelay-operator")[len(before) :]
        writes = [each for each in asked if each.verb not in {"get", "list", "watch"}]
        assert {(each.resource, each.verb) for each in writes} <= {("leases", "update")}
        assert len([each for each in asked if each.resource != "leases"]) <= 5
        assert not running.has_ended
