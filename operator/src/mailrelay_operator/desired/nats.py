"""NATS of the relay's own: one server, or three that keep three copies of everything.

A server's name is its pod's. Of three, clients get the names of all pods and choose: the headless
Service gives out a pod's address also while it is not ready, so that servers find each other and a
client waits for one that is there. Readiness therefore only paces rolling: with three servers the
next one ends when the last one has caught up with its copies.

Of one server, clients get a Service with an address of its own. A pod's name is known for some
seconds to everybody's DNS as the address that its last pod had, where nothing answers at all; the
Service's stays, and refuses at once until the next pod is there.
"""

from __future__ import annotations

import json
from typing import Any, Final

from mailrelay.queue.names import Names
from mailrelay.queue.server_config import server_config
from mailrelay_operator.desired.inputs import Inputs
from mailrelay_operator.desired.labels import labels, selector
from mailrelay_operator.desired.manifest import Manifest, digest, manifest, without_none
from mailrelay_operator.desired.names import ChildNames, Component
from mailrelay_operator.desired.pods import Container, Probe, Volume, amounts, pod_template
from mailrelay_operator.resource.option import OPTIONS
from mailrelay_operator.resource.relay import Relay
from mailrelay_operator.resource.relay_config import store_bytes

CLIENT_PORT: Final = 4222
ROUTE_PORT: Final = 6222
PROBE_PORT: Final = 8222
CLUSTER: Final = 3  # servers; more copies cost more and mail needs none of them

# To nats-server (to Go) this is every address of both families, not only of IPv4.
_EVERY: Final = "0.0.0.0"  # noqa: S104 — NetworkPolicy says who

CONFIG_KEY: Final = "nats.conf"
ROUTES_KEY: Final = "routes.conf"  # in the Secret, beside the password that it has in it
_CONFIG_FOLDER: Final = "/etc/nats"
_DATA_FOLDER: Final = "/data"
_GRACE_SECONDS: Final = 30  # as docker-compose.split.yml; it ends in one or two

# What a claim is given that somebody removes while the operator is away: the operator makes claims
# itself, before the StatefulSet, because a StatefulSet's own cannot grow.
_TEMPLATE_SIZE: Final = "1Gi"

_REQUESTS: Final = {"cpu": "100m", "memory": "256Mi"}
_LIMITS: Final = {"memory": "1Gi"}


def nats_url(relay: Relay) -> str:
    """Return where the relay's queue is: its own servers or somebody's."""
    if relay.spec.queue.url is not None:
        return relay.spec.queue.url
    names = ChildNames(relay.name)
    if relay.spec.queue.replicas == 1:
        return f"nats://{names.nats_client}:{CLIENT_PORT}"
    numbers = range(relay.spec.queue.replicas)
    return ",".join(f"nats://{names.nats_host(number)}:{CLIENT_PORT}" for number in numbers)


def cluster_section(relay: Relay, password: str) -> dict[str, Any]:
    """Return what makes three servers one cluster; the password is in it."""
    names = ChildNames(relay.name)
    urls = [
        f"nats-route://route:{password}@{names.nats_host(number)}:{ROUTE_PORT}"
        for number in range(CLUSTER)
    ]
    return {
        "cluster": {
            "name": names.relay,
            "listen": f"{_EVERY}:{ROUTE_PORT}",
            "authorization": {"user": "route", "password": password, "timeout": 5},
            "routes": urls,
            # Clients know the pods by name; addresses change when pods do.
            "no_advertise": True,
        }
    }


def config_text(relay: Relay, inputs: Inputs) -> str:
    """Return nats-server's configuration: a JSON value for each key, and what is included.

    Public keys are in it and no secret. Each role has two slots for keys (`key_slots`).
    """
    config = {
        **server_config(
            Names(relay.spec.queue.prefix or OPTIONS["queue.prefix"].field.default),
            {role: slots.known for role, slots in inputs.keys.items()},
            listen=f"{_EVERY}:{CLIENT_PORT}",
            store_dir=_DATA_FOLDER,
            max_file_store=store_bytes(relay.spec.queue),
        ),
        "http": f"{_EVERY}:{PROBE_PORT}",
    }
    lines = [f"{json.dumps(key)}: {json.dumps(value, indent=2)}" for key, value in config.items()]
    if relay.spec.queue.replicas > 1:
        lines.append(f"include {json.dumps(ROUTES_KEY)}")
    return "\n".join(lines) + "\n"


def nats(relay: Relay, inputs: Inputs) -> tuple[Manifest, ...]:
    """Return the servers, their configuration, claims and Service; none with a NATS elsewhere."""
    if not relay.spec.queue.is_own:
        return ()
    text = config_text(relay, inputs)
    return (
        _config_map(relay, text),
        *(_claim(relay, number) for number in range(relay.spec.queue.replicas)),
        _service(relay),
        *([_client_service(relay)] if relay.spec.queue.replicas == 1 else ()),
        _stateful_set(relay, inputs, text),
    )


def _config_map(relay: Relay, text: str) -> Manifest:
    name = ChildNames(relay.name).nats_config
    return manifest(relay, "v1", "ConfigMap", name, Component.NATS, data={CONFIG_KEY: text})


def _claim(relay: Relay, number: int) -> Manifest:
    storage = relay.spec.queue.storage
    name = ChildNames(relay.name).nats_claim(number)
    return claim(relay, name, Component.NATS, storage.size, storage.class_name)


def claim(
    relay: Relay, name: str, component: Component, size: str, class_name: str | None
) -> Manifest:
    """Return the claim of a volume, which goes with the resource only when that says so."""
    return manifest(
        relay,
        "v1",
        "PersistentVolumeClaim",
        name,
        component,
        is_owned=relay.spec.deletion_policy == "Delete",
        spec=_claim_spec(size, class_name),
    )


def _claim_spec(size: str, class_name: str | None) -> Manifest:
    return without_none(
        {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": size}},
            "storageClassName": class_name,
        }
    )


def _service(relay: Relay) -> Manifest:
    ports = [{"name": "client", "port": CLIENT_PORT, "targetPort": "client"}]
    if relay.spec.queue.replicas > 1:
        ports.append({"name": "route", "port": ROUTE_PORT, "targetPort": "route"})
    return manifest(
        relay,
        "v1",
        "Service",
        ChildNames(relay.name).of(Component.NATS),
        Component.NATS,
        spec={
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": selector(relay.name, Component.NATS),
            "ports": [{**port, "protocol": "TCP"} for port in ports],
        },
    )


def _client_service(relay: Relay) -> Manifest:
    return manifest(
        relay,
        "v1",
        "Service",
        ChildNames(relay.name).nats_client,
        Component.NATS,
        spec={
            # The server is taken into use when it listens, which may be before its next probe.
            "publishNotReadyAddresses": True,
            "selector": selector(relay.name, Component.NATS),
            "ports": [
                {"name": "client", "port": CLIENT_PORT, "targetPort": "client", "protocol": "TCP"}
            ],
        },
    )


def _stateful_set(relay: Relay, inputs: Inputs, text: str) -> Manifest:
    queue = relay.spec.queue
    names = ChildNames(relay.name)
    is_cluster = queue.replicas > 1
    sources: list[Manifest] = [{"configMap": {"name": names.nats_config}}]
    ports = {"client": CLIENT_PORT, "probe": PROBE_PORT}
    config = digest(text)
    if is_cluster:
        items = [{"key": ROUTES_KEY, "path": ROUTES_KEY}]
        sources.append({"secret": {"name": names.route_secret, "items": items}})
        ports["route"] = ROUTE_PORT
        config = digest([text, inputs.digests.get(names.route_secret, "")])
    container = Container(
        component=Component.NATS,
        image=relay.spec.images.nats or inputs.images.nats,
        args=("-c", f"{_CONFIG_FOLDER}/{CONFIG_KEY}", "--name", "$(POD_NAME)"),
        fields={"POD_NAME": "metadata.name"},
        ports=ports,
        resources=amounts(queue.pods, _REQUESTS, _LIMITS),
        probes=_probes(is_cluster=is_cluster),
    )
    template = pod_template(
        relay,
        queue.pods,
        container,
        (
            Volume.projected("config", _CONFIG_FOLDER, sources),
            Volume("data", _DATA_FOLDER, None),
        ),
        grace_seconds=_GRACE_SECONDS,
        annotations={"mailrelay.dev/nats-config": config},
        revision_label="controller-revision-hash",
    )
    storage_class = queue.storage.class_name
    return manifest(
        relay,
        "apps/v1",
        "StatefulSet",
        names.of(Component.NATS),
        Component.NATS,
        spec={
            "replicas": queue.replicas,
            "serviceName": names.of(Component.NATS),
            # All at once: a cluster's servers are ready only together.
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "RollingUpdate"},
            "persistentVolumeClaimRetentionPolicy": {
                "whenDeleted": "Retain",
                "whenScaled": "Retain",
            },
            "selector": {"matchLabels": selector(relay.name, Component.NATS)},
            "template": template,
            "volumeClaimTemplates": [
                {
                    "apiVersion": "v1",
                    "kind": "PersistentVolumeClaim",
                    "metadata": {"name": "data", "labels": labels(relay.name, Component.NATS)},
                    "spec": _claim_spec(_TEMPLATE_SIZE, storage_class),
                }
            ],
        },
    )


def _probes(*, is_cluster: bool) -> dict[str, Probe]:
    """Return the probes of a server, which says itself how it is (`/healthz` of nats-server).

    A stream to which a write failed takes nothing more until the server is started again, and only
    the whole `/healthz` tells: so that is what liveness asks. Alone, a server is well or broken; of
    a cluster one that catches up, or has no majority to follow, is not broken, so it gets time.
    """
    whole = "/healthz"
    return {
        # Recovering a large store takes a while: 15 minutes.
        "startupProbe": Probe("probe", "/healthz?js-enabled-only=true", 5, 180, timeout=5),
        "readinessProbe": Probe(
            "probe", whole if is_cluster else "/healthz?js-enabled-only=true", 5, 3, timeout=5
        ),
        "livenessProbe": Probe("probe", whole, 30, 60 if is_cluster else 3, timeout=10),
    }
