"""Ingress: takes mail. Any number of pods, none of which keeps anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mailrelay_operator.desired.inputs import Inputs
from mailrelay_operator.desired.labels import selector
from mailrelay_operator.desired.manifest import Manifest, manifest, without_none
from mailrelay_operator.desired.names import ChildNames, Component
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

# Clients learn of the end by then; DATA under way has 8 s more. The rest is for a slow node.
_PAUSE_SECONDS: Final = 5
_GRACE_SECONDS: Final = 60
_REQUESTS: Final = {"cpu": "100m", "memory": "256Mi"}
_LIMITS: Final = {"memory": "512Mi"}  # content in memory has a budget of 104 MB


def ingress(relay: Relay, inputs: Inputs, config: Mapping[str, Any]) -> tuple[Manifest, ...]:
    """Return Service and Deployment."""
    return (_service(relay), _deployment(relay, inputs, config))


def _service(relay: Relay) -> Manifest:
    wanted = relay.spec.ingress.service
    ports = [("submission", relay.spec.ingress.port)]
    if relay.spec.ingress.smtps_port:
        ports.append(("submissions", relay.spec.ingress.smtps_port))
    return manifest(
        relay,
        "v1",
        "Service",
        ChildNames(relay.name).of(Component.INGRESS),
        Component.INGRESS,
        annotations=wanted.annotations,
        spec=without_none(
            {
                "type": wanted.type,
                "selector": selector(relay.name, Component.INGRESS),
                "ports": [
                    {"name": name, "port": port, "targetPort": name, "protocol": "TCP"}
                    for name, port in ports
                ],
                "loadBalancerSourceRanges": _list(wanted.load_balancer_source_ranges),
                "loadBalancerClass": wanted.load_balancer_class,
                "externalTrafficPolicy": wanted.external_traffic_policy,
                "ipFamilies": _list(wanted.ip_families),
                "ipFamilyPolicy": wanted.ip_family_policy,
            }
        ),
    )


def _deployment(relay: Relay, inputs: Inputs, config: Mapping[str, Any]) -> Manifest:
    wanted = relay.spec.ingress
    component = Component.INGRESS
    ports = {"submission": paths.SMTP_PORT}
    if wanted.smtps_port:
        ports["submissions"] = paths.SMTPS_PORT
    container = Container(
        component=component,
        image=relay.spec.images.ingress or inputs.images.ingress,
        environment=service_environment(relay, config, component),
        ports={**ports, "probe": paths.PROBE_PORT},
        resources=amounts(wanted.pods, _REQUESTS, _LIMITS),
        probes=PROBES,
        pause_seconds=_PAUSE_SECONDS,
    )
    certificate = {name: name for name in (paths.CERTIFICATE_KEY, paths.PRIVATE_KEY_KEY)}
    volumes = [
        config_volume(relay),
        seed_volume(relay, inputs, component),
        Volume.secret("tls", str(paths.TLS_FOLDER), relay.tls_secret, certificate),
    ]
    if relay.users_secret is not None:
        users = {paths.USERS_KEY: paths.USERS_KEY}
        volumes.append(Volume.secret("users", str(paths.USERS_FOLDER), relay.users_secret, users))
    volumes += [
        Volume.scratch("data", DATA_FOLDER, "16Mi"),  # nothing is kept there
        scratch_volume(),
        *kept_content_volumes(relay),
    ]
    template = pod_template(
        relay,
        wanted.pods,
        container,
        volumes,
        grace_seconds=_GRACE_SECONDS,
        annotations=key_annotation(relay, inputs, component),
        revision_label="pod-template-hash",
    )
    return manifest(
        relay,
        "apps/v1",
        "Deployment",
        ChildNames(relay.name).of(component),
        component,
        spec={
            "replicas": wanted.replicas,
            # A pod more before one goes: as many clients are served at any time.
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
            },
            "minReadySeconds": 5,
            "selector": {"matchLabels": selector(relay.name, component)},
            "template": template,
        },
    )


def _list(found: tuple[str, ...] | None) -> list[str] | None:
    return list(found) if found is not None else None
