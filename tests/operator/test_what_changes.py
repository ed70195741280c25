"""A change of one field changes what it must, rolls what it must, and nothing else."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from mailrelay.queue.rights import Role
from mailrelay_operator.desired.children import desired
from mailrelay_operator.desired.inputs import Inputs
from mailrelay_operator.desired.manifest import Manifest
from mailrelay_operator.key_slots import KeySlots, Slot
from tests.operator.relays import ROUTES, inputs, public_key, relay

CONFIG = "ConfigMap mail-config"
NATS_CONFIG = "ConfigMap mail-nats-conf"
INGRESS = "Deployment mail-ingress"
SENDER = "Deployment mail-sender"
MONITOR = "StatefulSet mail-monitor"
NATS = "StatefulSet mail-nats"
STREAMS = "Job mail-streams"
SERVICE = "Service mail-ingress"
POLICY = "NetworkPolicy mail-"
BASE: dict[str, Any] = {
    "routes": [{"name": "r", "smartHosts": [{"host": "a", "credentialsSecretName": "s"}]}]
}


def titled(children: tuple[Manifest, ...]) -> dict[str, Manifest]:
    """Children by kind and name; that of the Job without its digest, and without its body.

    Kubernetes changes no Job: another one is another name.
    """
    found = {}
    for each in children:
        title = f"{each['kind']} {each['metadata']['name']}"
        if each["kind"] == "Job":
            title = title.rpartition("-")[0]
        found[title] = each
    return found


def changed(before: tuple[Manifest, ...], after: tuple[Manifest, ...]) -> tuple[set[str], set[str]]:
    """What is another, gone or new; and of that, what rolls its pods (or runs again)."""
    old, new = titled(before), titled(after)
    differing = {title for title in old.keys() | new.keys() if old.get(title) != new.get(title)}
    rolls = {
        title
        for title in differing
        if old.get(title, {}).get("spec", {}).get("template")
        != new.get(title, {}).get("spec", {}).get("template")
    }
    return differing, rolls


def merged(spec: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    found = copy.deepcopy(spec)
    *above, last = path.split(".")
    node = found
    for key in above:
        node = node.setdefault(key, {})
    node[last] = value
    return found


# field, value -> what changes without rolling anything, and what rolls
FIELDS: list[tuple[str, object, set[str], set[str]]] = [
    # Taken over while the processes run: the file changes, and nothing rolls.
    ("heloName", "out.example", {CONFIG}, set()),
    ("security.allowPlaintextAuth", True, {CONFIG}, set()),
    ("security.allowedNetworks", ["192.0.2.0/24"], {CONFIG}, set()),
    ("sender.processingTimeout", 30, {CONFIG}, set()),
    ("sender.batchSize", 50, {CONFIG}, set()),
    ("sender.batchDelay", 0, {CONFIG}, set()),
    ("sender.continueOnError", False, {CONFIG}, set()),
    ("sender.retry.maxAttempts", 3, {CONFIG}, set()),
    ("limits.enabled", True, {CONFIG}, set()),
    ("limits.maxPerHour", 7, {CONFIG}, set()),
    ("monitor.allowedNetworks", ["192.0.2.0/24"], {CONFIG}, set()),
    # Taken only at the start, each by the processes that read it.
    ("hostName", "relay.example", {CONFIG}, {INGRESS, SENDER}),
    ("ingress.maxMessageBytes", 2048, {CONFIG}, {INGRESS}),
    ("ingress.maxConnections", 7, {CONFIG}, {INGRESS}),
    ("sender.workerCount", 7, {CONFIG}, {SENDER}),
    # Said in the environment of those that make spans, and in the policies of what they reach.
    (
        "tracing",
        {"endpoint": "http://collector.example:4318"},
        {f"{POLICY}ingress", f"{POLICY}sender"},
        {INGRESS, SENDER},
    ),
    ("failed.maxRecords", 7, {CONFIG}, {MONITOR}),
    ("failed.resendIntervalSeconds", 7, {CONFIG}, {MONITOR}),
    ("emails.keepSeconds", 7, {CONFIG}, {MONITOR}),
    ("capture.maxMessages", 7, {CONFIG}, {STREAMS}),
    ("capture.whenFull", "DropOldest", {CONFIG}, {STREAMS}),
    ("queue.queueSize", 7, {CONFIG}, {STREAMS}),
    ("queue.ackWaitSeconds", 7, {CONFIG}, {SENDER, STREAMS}),
    # A time-out beyond the grace period needs a longer one, which only a new pod has.
    ("sender.processingTimeout", 600, {CONFIG}, {SENDER}),
    # More room: nats-server is told, and then the streams.
    (
        "queue.storage.size",
        "20Gi",
        {CONFIG, NATS_CONFIG, "PersistentVolumeClaim data-mail-nats-0"},
        {NATS, STREAMS},
    ),
    ("monitor.storage.size", "3Gi", {"PersistentVolumeClaim mail-monitor"}, set()),
    # Around the pods.
    ("ingress.replicas", 5, {INGRESS}, set()),
    ("sender.replicas", 5, {SENDER}, set()),
    ("ingress.service.type", "LoadBalancer", {SERVICE}, set()),
    ("ingress.service.annotations", {"a": "b"}, {SERVICE}, set()),
    ("ingress.port", 2587, {SERVICE}, {MONITOR}),  # which asks there
    ("ingress.smtpsPort", 465, {CONFIG, SERVICE, f"{POLICY}ingress"}, {INGRESS}),
    ("networkPolicy.clientNamespaces", ["web"], {f"{POLICY}ingress"}, set()),
    ("networkPolicy.upstreamNetworks", ["192.0.2.0/24"], {f"{POLICY}sender"}, set()),
    (
        "networkPolicy.monitorNamespaces",
        ["monitoring"],
        {f"{POLICY}{name}" for name in ("ingress", "sender", "monitor")},
        set(),
    ),
    (
        "networkPolicy.enabled",
        False,
        {f"{POLICY}{name}" for name in ("ingress", "sender", "monitor", "nats", "streams")},
        set(),
    ),
    ("monitor.podMonitor.enabled", False, {"PodMonitor mail-pods"}, set()),
    ("monitor.podMonitor.labels", {"a": "b"}, {"PodMonitor mail-pods"}, set()),
    ("ingress.pods.annotations", {"a": "b"}, set(), {INGRESS}),
    ("sender.pods.priorityClassName", "mail", set(), {SENDER}),
    ("monitor.pods.nodeSelector", {"a": "b"}, set(), {MONITOR}),
    ("queue.pods.resources", {"limits": {"memory": "4Gi"}}, set(), {NATS}),
    ("queue.pods.nodeSelector", {"a": "b"}, set(), {NATS, STREAMS}),
    ("images.ingress", "own/ingress:1", set(), {INGRESS}),
    ("images.nats", "own/nats:1", set(), {NATS}),
    ("images.tools", "own/tools:1", set(), {STREAMS}),
    ("imagePullSecrets", [{"name": "r"}], set(), {INGRESS, SENDER, MONITOR, NATS, STREAMS}),
    # Secrets: another one is another volume; what changes in one is seen where it is.
    ("security.usersSecretName", "people", set(), {INGRESS}),
    ("ingress.tls.secretName", "own-tls", set(), {INGRESS}),
    ("ingress.tls.issuerRef", {"name": "i"}, {"Certificate mail-ingress"}, {INGRESS}),
    ("monitor.tokenSecretName", "own-token", set(), {MONITOR}),
    # Routes: only a Secret that no smart host named before is another volume.
    (
        "routes",
        [{"name": "r", "smartHosts": [{"host": "b", "credentialsSecretName": "s"}]}],
        {CONFIG},
        set(),
    ),
    (
        "routes",
        [{"name": "r", "smartHosts": [{"host": "a", "credentialsSecretName": "t"}]}],
        {CONFIG},
        {SENDER},
    ),
    (
        "routes",
        [{"name": "r", "smartHosts": [{"host": "a", "port": 25, "credentialsSecretName": "s"}]}],
        {CONFIG, f"{POLICY}sender"},
        set(),
    ),
    # What is the operator's to do, and no child's to show.
    ("paused", True, set(), set()),
]


@pytest.mark.parametrize(
    ("path", "value", "in_place", "rolled"),
    FIELDS,
    ids=[f"{path}={value}" for path, value, *_ in FIELDS],
)
def test_a_field_changes_what_it_must_and_rolls_what_it_must(
    path: str, value: object, in_place: set[str], rolled: set[str]
) -> None:
    before = desired(relay(BASE), inputs())
    after = desired(relay(merged(BASE, path, value)), inputs())
    assert changed(before, after) == (in_place | rolled, rolled)


def rotated(role: Role, *slots: Slot, in_use: Slot) -> Inputs:
    keys = {
        **inputs().keys,
        role: KeySlots(in_use, {slot: public_key(role, slot) for slot in slots}),
    }
    return inputs(keys=keys)


ROLLED_BY = {
    Role.INGRESS: INGRESS,
    Role.SENDER: SENDER,
    Role.MONITOR: MONITOR,
    Role.ADMIN: STREAMS,
}


@pytest.mark.parametrize("role", ROLLED_BY)
def test_a_key_is_replaced_by_rolling_nats_then_the_role_then_nats_again(role: Role) -> None:
    steps = [
        desired(relay(), each)
        for each in (
            rotated(role, Slot.A, in_use=Slot.A),
            rotated(role, Slot.A, Slot.B, in_use=Slot.A),
            rotated(role, Slot.A, Slot.B, in_use=Slot.B),
            rotated(role, Slot.B, in_use=Slot.B),
        )
    ]
    rolls = [changed(one, other)[1] for one, other in itertools.pairwise(steps)]
    assert rolls == [{NATS}, {ROLLED_BY[role]}, {NATS}]


EXTERNAL: dict[str, Any] = {
    "queue": {
        "url": "nats://nats.example:4222",
        "prefix": "mail",
        "storeBytes": 10**9,
        "credentials": {f"{role.value}SecretName": f"queue-{role.value}" for role in ROLLED_BY},
    }
}


@pytest.mark.parametrize("role", ROLLED_BY)
def test_another_seed_for_a_nats_elsewhere_rolls_the_role_alone(role: Role) -> None:
    digests = {f"queue-{each.value}": "1" for each in ROLLED_BY}
    before = desired(relay(EXTERNAL), inputs(digests=digests))
    after = desired(relay(EXTERNAL), inputs(digests={**digests, f"queue-{role.value}": "2"}))
    assert changed(before, after) == ({ROLLED_BY[role]}, {ROLLED_BY[role]})


def input_changes() -> Iterator[tuple[str, Inputs, set[str], set[str]]]:
    yield "streams_run", inputs(streams_run="2"), {STREAMS}, {STREAMS}
    yield "has_pod_monitors", inputs(has_pod_monitors=False), {"PodMonitor mail-pods"}, set()
    yield "operator_namespace", inputs(operator_namespace="other"), {f"{POLICY}monitor"}, set()
    route = inputs(digests={"mail-nats-route": "2"})
    yield "the route's password, with one server", route, set(), set()


@pytest.mark.parametrize(
    ("given", "in_place_or_rolled", "rolled"),
    [pytest.param(*rest, id=name) for name, *rest in input_changes()],
)
def test_an_input_changes_what_it_must(
    given: Inputs, in_place_or_rolled: set[str], rolled: set[str]
) -> None:
    assert changed(desired(relay(), inputs()), desired(relay(), given)) == (
        in_place_or_rolled,
        rolled,
    )


def test_the_servers_of_a_cluster_roll_when_what_they_show_each_other_changes() -> None:
    spec = {"queue": {"replicas": 3}}
    before = desired(relay(spec), inputs())
    after = desired(relay(spec), inputs(digests={"mail-nats-route": "another"}))
    assert changed(before, after) == ({NATS}, {NATS})


def test_a_rewritten_resource_that_says_the_same_changes_nothing() -> None:
    explicit = {"routes": copy.deepcopy(ROUTES), "ingress": {"replicas": 2, "port": 587}}
    assert desired(relay(explicit), inputs()) == desired(relay(), inputs())
