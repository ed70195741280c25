"""The children of a relay at a real API server: taken as they are, and when a field changes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml

from mailrelay_operator.desired.children import desired
from mailrelay_operator.desired.manifest import Manifest
from mailrelay_operator.resource.relay import Relay, read_relay
from tests.operator.relays import CASES, GOLDEN, inputs, pod_specs
from tests.operator.test_what_changes import BASE, FIELDS, merged
from tests.support.kubernetes.client import ApiRefusedError, Client

pytestmark = [pytest.mark.operator, pytest.mark.timeout(300)]
OF_ADD_ONS = {"Certificate", "PodMonitor"}  # served where their add-on is


async def stored(admin: Client, spec: dict[str, Any]) -> Relay:
    """Create the resource, which owns the children: the garbage collector looks for it."""
    body = {
        "apiVersion": "mailrelay.dev/v1alpha1",
        "kind": "MailRelay",
        "metadata": {"name": "mail"},
        "spec": spec,
    }
    (found,) = await admin.apply(body)
    return read_relay(found)


def children_of(relay: Relay) -> list[Manifest]:
    return [each for each in desired(relay, inputs()) if each["kind"] not in OF_ADD_ONS]


def spec_of(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((GOLDEN / f"{name}.relay.yaml").read_text())["spec"]
    return found


@pytest.mark.parametrize("name", CASES)
async def test_the_server_takes_every_child_without_a_warning_and_a_second_time_changes_nothing(
    admin: Client, name: str
) -> None:
    children = children_of(await stored(admin, spec_of(name)))
    first = await admin.apply(children)
    second = await admin.apply(children)
    assert admin.warnings == []
    for one, other in zip(first, second, strict=True):
        # Its status may have been written between; `generation` counts changes of the rest.
        title = f"{one['kind']} {one['metadata']['name']}"
        assert one["metadata"].get("generation") == other["metadata"].get("generation"), title
        for key in ("spec", "data"):
            assert one.get(key) == other.get(key), title


@pytest.mark.parametrize("name", CASES)
async def test_every_pod_is_let_into_a_namespace_that_enforces_restricted(
    admin: Client, namespace: str, name: str
) -> None:
    label = {"pod-security.kubernetes.io/enforce": "restricted"}
    await admin.patch("v1", "Namespace", namespace, {"metadata": {"labels": label}})
    children = children_of(await stored(admin, spec_of(name)))
    await admin.apply([each for each in children if each["kind"] == "ServiceAccount"])
    for component, spec in pod_specs(tuple(children)).items():
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": component},
            # A class of the cluster's, which this one has not.
            "spec": {key: value for key, value in spec.items() if key != "priorityClassName"},
        }
        await admin.create(with_claims(pod, spec), dry_run=True)
    assert admin.warnings == []


def with_claims(pod: Manifest, spec: Manifest) -> Manifest:
    """Name a claim for each mount whose volume comes from a StatefulSet's template."""
    (container,) = spec["containers"]
    names = {volume["name"] for volume in spec["volumes"]}
    templates = [
        {"name": mount["name"], "persistentVolumeClaim": {"claimName": "data-mail-nats-0"}}
        for mount in container["volumeMounts"]
        if mount["name"] not in names
    ]
    made = copy.deepcopy(pod)
    made["spec"]["volumes"] += templates
    return made


async def test_the_namespace_would_refuse_a_pod_that_is_less_careful(
    admin: Client, namespace: str
) -> None:
    label = {"pod-security.kubernetes.io/enforce": "restricted"}
    await admin.patch("v1", "Namespace", namespace, {"metadata": {"labels": label}})
    children = children_of(await stored(admin, BASE))
    await admin.apply([each for each in children if each["kind"] == "ServiceAccount"])
    spec = copy.deepcopy(pod_specs(tuple(children))["sender"])
    del spec["containers"][0]["securityContext"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "sender"}, "spec": spec}
    with pytest.raises(ApiRefusedError, match="restricted"):
        await admin.create(pod, dry_run=True)


async def test_no_change_of_a_field_meets_what_cannot_be_changed(admin: Client) -> None:
    """StatefulSets, Jobs, Services and claims have parts that the server keeps as they are."""
    relay = await stored(admin, BASE)
    before = children_of(relay)
    await admin.apply(before)
    known = {(each["kind"], each["metadata"]["name"]): each for each in before}
    for path, value, *_ in FIELDS:
        if path.endswith("storage.size"):
            continue  # a claim grows once its volume is there: the next test
        changed = children_of(with_spec(relay, merged(BASE, path, value)))
        for each in changed:
            if known.get((each["kind"], each["metadata"]["name"])) != each:
                try:
                    await admin.apply(each, dry_run=True)
                except ApiRefusedError as error:
                    pytest.fail(f"{path}={value}: {each['kind']}: {error}")


def with_spec(relay: Relay, spec: dict[str, Any]) -> Relay:
    metadata = {
        "name": relay.name,
        "namespace": relay.namespace,
        "uid": relay.uid,
        "generation": relay.generation + 1,
    }
    return read_relay({"metadata": metadata, "spec": spec})


async def test_a_larger_volume_changes_its_stateful_set_only_where_that_can_be(
    admin: Client,
) -> None:
    relay = await stored(admin, BASE)
    await admin.apply(children_of(relay))
    larger = with_spec(relay, merged(BASE, "queue.storage.size", "20Gi"))
    for each in children_of(larger):
        if each["kind"] != "PersistentVolumeClaim":
            await admin.apply(each, dry_run=True)
        elif each["metadata"]["name"] == "data-mail-nats-0":
            # Only a bound claim of a class that lets it may grow: that it was asked for is seen.
            with pytest.raises(ApiRefusedError, match=r"bound|resize|expan"):
                await admin.apply(each, dry_run=True)
