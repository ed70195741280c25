"""Two relays, and everybody who might want to talk to their pods: where each is, and its network.

Relay `mail` has every option that adds a flow, and names who may do what; its pods are real. Relay
`other` has a NATS elsewhere and names nobody; that NATS is not there, so pods that wait stand in
for its own, under their labels. Everybody else is a pod that waits, or one of two addresses beyond
the node.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mailrelay_operator.desired.labels import selector
from mailrelay_operator.desired.names import Component
from mailrelay_operator.resource.relay import Relay, read_relay
from tests.cluster import install
from tests.cluster.clusters import Cluster
from tests.cluster.flow_probe import Networks
from tests.cluster.flow_rules import Door, Part, Place, Try, may_send, may_take
from tests.cluster.install import namespace
from tests.cluster.names import CLIENTS, PREFIX
from tests.cluster.relays import KIND, make_relay, pods, wait_ready
from tests.cluster.sinks import PORT as SINK_PORT
from tests.cluster.sinks import WILLING, Sink, sink_host
from tests.support.kubernetes.client import Client, Manifest
from tests.support.kubernetes.control_plane import API_PORT
from tests.support.kubernetes.node_files import PAUSE_IMAGE, POD_NETWORK
from tests.support.namespaces import ADDRESS, wait
from tests.support.wait import wait_until

NAMESPACE: Final = f"{PREFIX}flows"
WATCHERS: Final = f"{PREFIX}watchers"
STRANGERS: Final = f"{PREFIX}strangers"
SECONDS: Final = 180.0
_COLLECTOR_PORT: Final = 4318
_NATS_ELSEWHERE_PORT: Final = 4333
_OWN_NETWORK: Final = Path("/proc/self/ns/net")
_GATEWAY, NAMED_OUTSIDE, STRANGER_OUTSIDE = "198.51.100.1", "198.51.100.7", "198.51.100.8"

_MAIL: Final[dict[str, Any]] = {
    "routes": [
        {
            "name": "default",
            "smartHosts": [
                {
                    "host": sink_host(WILLING),
                    "port": SINK_PORT,
                    "tls": "Opportunistic",
                },
                {"host": "second.invalid"},  # port 587
            ],
        }
    ],
    "ingress": {"smtpsPort": 465},
    "queue": {"replicas": 3},
    "tracing": {"endpoint": f"http://collector.{WATCHERS}.svc:{_COLLECTOR_PORT}"},
    "networkPolicy": {
        "clientNamespaces": [CLIENTS],
        "clientNetworks": [f"{NAMED_OUTSIDE}/32"],
        "monitorNamespaces": [WATCHERS],
        "upstreamNetworks": [POD_NETWORK],
    },
}
_ROLES: Final = ("admin", "ingress", "sender", "monitor")
_OTHER: Final[Manifest] = {
    "apiVersion": KIND[0],
    "kind": KIND[1],
    "metadata": {"name": "other", "namespace": NAMESPACE},
    "spec": {
        # Its own pods are not looked at, and beside the other ones they would fill the node.
        "ingress": {"replicas": 1},
        "sender": {"replicas": 1},
        "queue": {
            "url": f"nats://nats.{STRANGERS}.svc:{_NATS_ELSEWHERE_PORT}",
            "prefix": "other",
            "storeBytes": 2**30,
            "credentials": {f"{role}SecretName": f"elsewhere-{role}" for role in _ROLES},
        },
    },
}
# The operator makes nothing of a relay whose Secrets are missing; nobody answers to these.
_SECRETS: Final[list[Manifest]] = [
    {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": f"elsewhere-{role}", "namespace": NAMESPACE},
        "stringData": {"seed": "of nobody"},
    }
    for role in _ROLES
]
# Every port of the table and of the pods, and some that nobody speaks of.
_TCP: Final = (
    *(25, 53, 443, 465, 587, 2465, 2525, SINK_PORT, 4222, _COLLECTOR_PORT),
    *(_NATS_ELSEWHERE_PORT, 6222, API_PORT, 8025, 8026, 8080, 8222, 9999),
)
_UDP: Final = (53, 2525, 4222)
DOORS: Final = (*(Door(port) for port in _TCP), *(Door(port, "UDP") for port in _UDP))
_OPERATOR_LABELS: Final = {"app.kubernetes.io/name": install.NAME}


@dataclass(frozen=True, slots=True)
class Scene:
    """All places, and the networks of those that have one of their own."""

    places: tuple[Place, ...]
    networks: Networks

    def tries(self) -> Iterator[Try]:
        """Everybody to everybody else at every door; to the node at the API server's.

        Of two that no policy selects none is needed.
        """
        for source in self.places:
            for target in self.places:
                doors = (Door(API_PORT),) if target.is_node else DOORS
                is_judged = any(
                    each.part is not None or each.is_operator for each in (source, target)
                )
                if source != target and is_judged:
                    tries = (Try(source, target, door) for door in doors)
                    yield from (tried for tried in tries if not _is_mistaken(tried))

    def listening(self) -> list[Place]:
        """Where somebody has to listen; the API server does on the node."""
        return [place for place in self.places if not place.is_node]


def _is_mistaken(tried: Try) -> bool:
    """Whether the engine is known to let through what the policy denies.

    kube-router has both directions of a policy in one chain, so between two pods of one policy
    what either direction allows is let through.
    """
    source, target = tried.source.part, tried.target.part
    if source is None or target is None or source.of != target.of:
        return False
    return source.component is target.component and may_send(tried) != may_take(tried)


@contextlib.asynccontextmanager
async def make_scene(cluster: Cluster, client: Client, sink: Sink) -> AsyncIterator[Scene]:
    """Make all of it, and remove it at the end."""
    cluster.network_of(await _one(client, install.NAMESPACE, _OPERATOR_LABELS))  # or it is left out
    for name in (WATCHERS, STRANGERS):
        await client.apply(namespace(name))
    await make_relay(client, NAMESPACE, sink, **_MAIL)
    await client.apply([*_SECRETS, _OTHER])
    with _outside() as outside:
        relay, other = [await _read(client, name) for name in ("mail", "other")]
        stand_ins = _stand_ins(relay, other)
        await client.apply([manifest for _, manifest in stand_ins])
        await wait_ready(client, NAMESPACE)
        await _wait_policies(client, "other", 4)
        found = [await _real(client, relay, part) for part in Component if part.value != "streams"]
        real = [each for part in found for each in part]
        real += [
            ("operator", await _one(client, install.NAMESPACE, _OPERATOR_LABELS), None),
            ("name server", await _one(client, "kube-system", {"k8s-app": "kube-dns"}), None),
            ("smart host", await _one(client, CLIENTS, {"app": WILLING}), None),
        ]
        for part, manifest in stand_ins:
            metadata = manifest["metadata"]
            pod = await _running(client, metadata["namespace"], metadata["name"])
            short = metadata["namespace"].removeprefix(PREFIX)
            real.append((f"{short}/{metadata['name']}", pod, part))
        places = [_place(name, pod, part) for name, pod, part in real]
        networks = {
            pod["status"]["podIP"]: cluster.network_of(pod) for _, pod, _ in real
        } | dict.fromkeys((NAMED_OUTSIDE, STRANGER_OUTSIDE), outside)
        places += [
            Place("named network", NAMED_OUTSIDE),
            Place("other network", STRANGER_OUTSIDE),
            Place("node", ADDRESS, is_node=True),
        ]
        yield Scene(tuple(places), networks)
    for name in (NAMESPACE, WATCHERS, STRANGERS):
        await client.delete("v1", "Namespace", name)
    await client.delete("v1", "Pod", "client", namespace=CLIENTS)


async def _read(client: Client, name: str) -> Relay:
    return read_relay(await client.get(*KIND, name, namespace=NAMESPACE))


def _stand_ins(relay: Relay, other: Relay) -> list[tuple[Part | None, Manifest]]:
    """Pods that wait: the streams' Job of `mail`, which has ended, all of `other`, and others."""
    found: list[tuple[Part | None, Manifest]] = [_stand_in(relay, Component.STREAMS)]
    found += [_stand_in(other, each) for each in Component if each is not Component.NATS]
    sender = selector("mail", Component.SENDER)
    for in_namespace, name, labels in (
        (NAMESPACE, "stranger", {}),
        (CLIENTS, "client", {}),
        (WATCHERS, "watcher", {}),
        (STRANGERS, "stranger", {}),
        # Labels make nobody a part of a relay, or the operator, in another namespace.
        (STRANGERS, "as-sender", sender),
        (STRANGERS, "as-operator", _OPERATOR_LABELS),
    ):
        found.append((None, _waiting_pod(in_namespace, name, labels)))
    return found


def _stand_in(relay: Relay, component: Component) -> tuple[Part, Manifest]:
    name = f"as-{relay.name}-{component.value}"
    pod = _waiting_pod(NAMESPACE, name, selector(relay.name, component))
    return Part(relay, component), pod


def _waiting_pod(in_namespace: str, name: str, labels: dict[str, str]) -> Manifest:
    container = {
        "name": "main",
        "image": PAUSE_IMAGE,
        "imagePullPolicy": "Never",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": in_namespace, "labels": labels},
        "spec": {
            "containers": [container],
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10_001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        },
    }


async def _real(
    client: Client, relay: Relay, component: Component
) -> list[tuple[str, Manifest, Part | None]]:
    """A component's own pods, stand-ins apart; of NATS two, which talk to each other."""
    found = [
        pod
        for pod in await pods(client, NAMESPACE, component.value)
        if pod["metadata"]["labels"]["app.kubernetes.io/instance"] == relay.name
        and not pod["metadata"]["name"].startswith("as-")
    ][: 2 if component is Component.NATS else 1]
    assert found, component
    part = Part(relay, component)
    return [(f"{relay.name} {component.value} {i}", pod, part) for i, pod in enumerate(found)]


async def _one(client: Client, in_namespace: str, labels: dict[str, str]) -> Manifest:
    chosen = ",".join(f"{key}={value}" for key, value in labels.items())
    found = await client.list("v1", "Pod", namespace=in_namespace, labels=chosen)
    (pod,) = [
        pod
        for pod in found
        if pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
    ]
    return pod


async def _running(client: Client, in_namespace: str, name: str) -> Manifest:
    found: Manifest = {}

    async def runs() -> bool:
        nonlocal found
        found = await client.get("v1", "Pod", name, namespace=in_namespace)
        states = found["status"].get("containerStatuses", ())
        return any("running" in each["state"] for each in states)

    await wait_until(runs, SECONDS, f"{in_namespace}/{name} runs", 0.2)
    return found


async def _wait_policies(client: Client, relay: str, count: int) -> None:
    async def are_made() -> bool:
        labels = f"app.kubernetes.io/instance={relay}"
        kind = ("networking.k8s.io/v1", "NetworkPolicy")
        found = await client.list(*kind, namespace=NAMESPACE, labels=labels)
        assert len(found) == count, [each["metadata"]["name"] for each in found]
        return True

    await wait_until(are_made, SECONDS, f"the operator has made the policies of {relay}", 0.2)


def _place(name: str, pod: Manifest, part: Part | None) -> Place:
    return Place(
        name,
        pod["status"]["podIP"],
        pod["metadata"]["namespace"],
        part,
        is_operator=name == "operator",
    )


@contextlib.contextmanager
def _outside() -> Iterator[Path]:
    """Make a network beyond the node, with two addresses in it.

    It is a process's own and has no name: `ip netns add` mounts the folder of names over itself,
    and containerd cannot remove the networks of the pods that are there by then.
    """
    of_its_own = ("unshare", "--net", "sleep", "infinity")
    with subprocess.Popen(of_its_own) as owner:
        network = Path(f"/proc/{owner.pid}/ns/net")
        inside = ("nsenter", f"--net={network}", "ip")
        peer = ("peer", "name", "eth0", "netns", str(owner.pid))
        commands = [
            ("ip", "link", "add", "beyond", "type", "veth", *peer),
            ("ip", "address", "add", f"{_GATEWAY}/24", "dev", "beyond"),
            ("ip", "link", "set", "beyond", "up"),
            (*inside, "address", "add", f"{NAMED_OUTSIDE}/24", "dev", "eth0"),
            (*inside, "address", "add", f"{STRANGER_OUTSIDE}/24", "dev", "eth0"),
            (*inside, "link", "set", "eth0", "up"),
            (*inside, "link", "set", "lo", "up"),
            (*inside, "route", "add", "default", "via", _GATEWAY),
        ]
        try:
            wait(lambda: network.readlink() != _OWN_NETWORK.readlink(), "another network")
            for command in commands:
                subprocess.run(command, check=True)
            yield network
        finally:
            owner.kill()
