"""The monitor: one pod with a volume for its index.

A StatefulSet, because there is never a second pod of one before the first has really ended: two
would write to the same index. The claim is the operator's own and not one of the StatefulSet's, so
that it can grow. While the pod is away mail flows on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mailrelay_operator.desired.inputs import Inputs
from mailrelay_operator.desired.labels import selector
from mailrelay_operator.desired.manifest import Manifest, manifest
from mailrelay_operator.desired.names import ChildNames, Component
from mailrelay_operator.desired.nats import claim
from mailrelay_operator.desired.pods import Container, Volume, amounts, pod_template
from mailrelay_operator.desired.services import (
    DATA_FOLDER,
    PROBES,
    config_volume,
    kept_content_volumes,
    key_annotation,
    scratch_volume,
    seed_volume,
    service_environment,
)
from mailrelay_operator.resource import paths
from mailrelay_operator.resource.relay import Relay

_GRACE_SECONDS: Final = 30  # it ends in two or three
_REQUESTS: Final = {"cpu": "100m", "memory": "256Mi"}
_LIMITS: Final = {"memory": "512Mi"}


def monitor(relay: Relay, inputs: Inputs, config: Mapping[str, Any]) -> tuple[Manifest, ...]:
    """Return claim, Service and StatefulSet."""
    names = ChildNames(relay.name)
    storage = relay.spec.monitor.storage
    return (
        claim(relay, names.monitor_claim, Component.MONITOR, storage.size, storage.class_name),
        _service(relay),
        _stateful_set(relay, inputs, config),
    )


def _service(relay: Relay) -> Manifest:
    return manifest(
        relay,
        "v1",
        "Service",
        ChildNames(relay.name).of(Component.MONITOR),
        Component.MONITOR,
        spec={
            "type": "ClusterIP",
            # Asked while it says that the relay is not ready: that is when its reasons matter.
            "publishNotReadyAddresses": True,
            "selector": selector(relay.name, Component.MONITOR),
            "ports": [
                {"name": "http", "port": paths.HTTP_PORT, "targetPort": "http", "protocol": "TCP"}
            ],
        },
    )


def _stateful_set(relay: Relay, inputs: Inputs, config: Mapping[str, Any]) -> Manifest:
    component = Component.MONITOR
    names = ChildNames(relay.name)
    kept = kept_content_volumes(relay)
    environment = {
        **service_environment(relay, config, component),
        "MAILRELAY_SMTP_ADDRESS": f"{names.of(Component.INGRESS)}:{relay.spec.ingress.port}",
    }
    if not kept:  # otherwise the image says where, and the shared volume is there
        environment["MAILRELAY_EMAILS_DIR"] = f"{DATA_FOLDER}/emails"
    container = Container(
        component=component,
        image=relay.spec.images.monitor or inputs.images.monitor,
        environment=environment,
        ports={"http": paths.HTTP_PORT, "probe": paths.PROBE_PORT},
        resources=amounts(relay.spec.monitor.pods, _REQUESTS, _LIMITS),
        probes=PROBES,
    )
    token = {paths.TOKEN_KEY: paths.TOKEN_KEY}
    template = pod_template(
        relay,
        relay.spec.monitor.pods,
        container,
        (
            config_volume(relay),
            seed_volume(relay, inputs, component),
            Volume.secret("http", str(paths.HTTP_FOLDER), relay.token_secret, token),
            Volume.claim("data", DATA_FOLDER, names.monitor_claim),
            scratch_volume(),
            *kept,
        ),
        grace_seconds=_GRACE_SECONDS,
        annotations=key_annotation(relay, inputs, component),
    )
    return manifest(
        relay,
        "apps/v1",
        "StatefulSet",
        names.of(component),
        component,
        spec={
            "replicas": 1,
            "serviceName": names.of(component),
            "updateStrategy": {"type": "RollingUpdate"},
            "selector": {"matchLabels": selector(relay.name, component)},
            "template": template,
        },
    )
