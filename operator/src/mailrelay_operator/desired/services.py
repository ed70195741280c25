"""What the pods of the relay's own processes have in common: ingress, sender, monitor, the Job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mailrelay.queue.rights import Role
from mailrelay.runtime.addresses import EVERY
from mailrelay_operator.desired.flows import TRACED
from mailrelay_operator.desired.inputs import Inputs
from mailrelay_operator.desired.manifest import digest
from mailrelay_operator.desired.names import ChildNames, Component
from mailrelay_operator.desired.nats import nats_url
from mailrelay_operator.desired.pods import Probe, Volume
from mailrelay_operator.desired.restarts import environment
from mailrelay_operator.resource import paths
from mailrelay_operator.resource.relay import Relay

DATA_FOLDER: Final = "/app/data"  # the images' own
EMAILS_FOLDER: Final = "/app/emails"
_SCRATCH: Final = "64Mi"
# What a pod was started with, and does not look at again: its key at NATS.
KEY_ANNOTATION: Final = "mailrelay.dev/nats-key"

_ROLES: Final = {
    Component.INGRESS: Role.INGRESS,
    Component.SENDER: Role.SENDER,
    Component.MONITOR: Role.MONITOR,
    Component.STREAMS: Role.ADMIN,
}

# A process answers its probes only once it has found the queue, so the start gets ten minutes:
# a volume may have to be made first. Then liveness asks whether the event loop runs, readiness
# whether the queue is there.
PROBES: Final = {
    "startupProbe": Probe("probe", "/healthz", 5, 120),
    "readinessProbe": Probe("probe", "/readyz", 5, 2),
    "livenessProbe": Probe("probe", "/healthz", 10, 3),
}


def service_environment(
    relay: Relay, config: Mapping[str, Any], component: Component
) -> dict[str, str]:
    """Return what the environment of a process says: where things are, and what rolls it."""
    return {
        "MAILRELAY_CONFIG": str(paths.CONFIG_FILE),
        "MAILRELAY_NATS_URL": nats_url(relay),
        "MAILRELAY_NATS_SEED_FILE": str(paths.QUEUE_FOLDER / paths.SEED_KEY),
        "MAILRELAY_PROBE_ADDRESS": f"{EVERY}:{paths.PROBE_PORT}",
        **environment(config, component),
        **(_tracing(relay) if component in TRACED else {}),
    }


def _tracing(relay: Relay) -> dict[str, str]:
    """Return OpenTelemetry's own variables, which a process reads at its start."""
    tracing = relay.spec.tracing
    if tracing is None:
        return {}
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": tracing.endpoint,
        # What a client decided in its `traceparent` holds.
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": str(tracing.sample_percent / 100),
        # Names of Kubernetes: nothing in them needs to be escaped.
        "OTEL_RESOURCE_ATTRIBUTES": (
            f"k8s.namespace.name={relay.namespace},mailrelay.relay={relay.name}"
        ),
    }


def config_volume(relay: Relay) -> Volume:
    """Return the folder of config.json, which follows the ConfigMap."""
    return Volume.config_map("config", str(paths.CONFIG_FOLDER), ChildNames(relay.name).config)


def seed_volume(relay: Relay, inputs: Inputs, component: Component) -> Volume:
    """Return the folder of the role's seed: the slot in use, or somebody's Secret."""
    role = _ROLES[component]
    key, name = paths.SEED_KEY, ChildNames(relay.name).key_secret(role)
    if relay.spec.queue.is_own:
        key = inputs.keys[role].in_use.seed_key
    else:
        name = _given_secret(relay, role)
    return Volume.secret("queue", str(paths.QUEUE_FOLDER), name, {key: paths.SEED_KEY})


def key_annotation(relay: Relay, inputs: Inputs, component: Component) -> dict[str, str]:
    """Return which key a pod starts with: another key is another pod."""
    role = _ROLES[component]
    if relay.spec.queue.is_own:
        return {KEY_ANNOTATION: inputs.keys[role].current}
    return {KEY_ANNOTATION: digest(inputs.digests.get(_given_secret(relay, role), ""))}


def scratch_volume() -> Volume:
    """Return a /tmp, which a read-only root has not."""
    return Volume.scratch("tmp", "/tmp", _SCRATCH)  # noqa: S108 — the pod's own


def kept_content_volumes(relay: Relay) -> tuple[Volume, ...]:
    """Return the volume that ingress and monitor share, when the content of all mail is kept."""
    claim = relay.spec.emails.claim_name
    if not relay.spec.security.log_all_emails or claim is None:
        return ()
    return (Volume.claim("emails", EMAILS_FOLDER, claim),)


def _given_secret(relay: Relay, role: Role) -> str:
    """Return the Secret of a role's seed for a NATS that is there already."""
    credentials = relay.spec.queue.credentials
    if credentials is None:  # the API server takes no url without credentials
        raise ValueError("queue.url needs queue.credentials")
    return {
        Role.ADMIN: credentials.admin_secret_name,
        Role.INGRESS: credentials.ingress_secret_name,
        Role.SENDER: credentials.sender_secret_name,
        Role.MONITOR: credentials.monitor_secret_name,
    }[role]
