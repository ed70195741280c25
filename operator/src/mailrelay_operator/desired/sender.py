"""Senders: deliver. Any number of pods, none of which keeps anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mailrelay_operator.desired.inputs import Inputs
from mailrelay_operator.desired.labels import selector
from mailrelay_operator.desired.manifest import Manifest, manifest, without_none
from mailrelay_operator.desired.names import ChildNames, Component
from mailrelay_operator.desired.pods import (
    Container,
    Volume,
    amounts,
    pod_template,
    secret_source,
)
from mailrelay_operator.desired.services import (
    DATA_FOLDER,
    PROBES,
    config_volume,
    key_annotation,
    scratch_volume,
    seed_volume,
    service_environment,
)
from mailrelay_operator.resource import paths
from mailrelay_operator.resource.relay import Relay

# Of the end: 10 s for attempts under way, then those whose final dot is out may go on for
# `processingTimeout`, then 5 s to settle; and some for a slow node.
_MORE_SECONDS: Final = 60
_LEAST_GRACE_SECONDS: Final = 360  # for the default of 300 s; a shorter time-out rolls nobody
_REQUESTS: Final = {"cpu": "100m", "memory": "256Mi"}
_LIMITS: Final = {"memory": "512Mi"}


def sender(relay: Relay, inputs: Inputs, config: Mapping[str, Any]) -> tuple[Manifest, ...]:
    """Return the Deployment."""
    wanted = relay.spec.sender
    component = Component.SENDER
    container = Container(
        component=component,
        image=relay.spec.images.sender or inputs.images.sender,
        environment=service_environment(relay, config, component),
        ports={"probe": paths.PROBE_PORT},
        resources=amounts(wanted.pods, _REQUESTS, _LIMITS),
        probes=PROBES,
    )
    template = pod_template(
        relay,
        wanted.pods,
        container,
        (
            config_volume(relay),
            seed_volume(relay, inputs, component),
            *_upstream_volumes(relay),
            Volume.scratch("data", DATA_FOLDER, "16Mi"),  # nothing is kept there
            scratch_volume(),
        ),
        grace_seconds=max(_LEAST_GRACE_SECONDS, wanted.processing_timeout + _MORE_SECONDS),
        annotations=key_annotation(relay, inputs, component),
        revision_label="pod-template-hash",
    )
    fixed = wanted.fixed_replicas
    deployment = manifest(
        relay,
        "apps/v1",
        "Deployment",
        ChildNames(relay.name).of(component),
        component,
        spec=without_none(
            {
                "replicas": inputs.sender_replicas if fixed is None else fixed,
                "strategy": {
                    "type": "RollingUpdate",
                    "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
                },
                "selector": {"matchLabels": selector(relay.name, component)},
                "template": template,
            }
        ),
    )
    return (deployment,)


def _upstream_volumes(relay: Relay) -> tuple[Volume, ...]:
    """Return what smart hosts need, a folder for each Secret, all in one volume.

    Secrets that change are seen without a restart; one more of them is another volume, and rolls.
    """
    files: dict[str, dict[str, str]] = {}
    for route in relay.spec.routes:
        for host in route.smart_hosts:
            for secret, keys in (
                (host.ca_secret_name, (paths.AUTHORITIES_KEY,)),
                (host.credentials_secret_name, (paths.USERNAME_KEY, paths.PASSWORD_KEY)),
            ):
                if secret is not None:
                    folder = paths.upstream_folder(secret)
                    found = files.setdefault(secret, {})
                    found.update({key: f"{folder.name}/{key}" for key in keys})
    if not files:
        return ()
    ordered = sorted(files)
    sources = [secret_source(secret, files[secret]) for secret in ordered]
    return (Volume.projected("upstream", str(paths.upstream_folder(ordered[0]).parent), sources),)
