"""All children of a relay, in the order in which they are to be applied: what others need first."""

from __future__ import annotations

from mailrelay_operator.desired.add_ons import certificate, pod_monitor
from mailrelay_operator.desired.config import config_map, service_account
from mailrelay_operator.desired.disruption import budgets
from mailrelay_operator.desired.ingress import ingress
from mailrelay_operator.desired.inputs import Inputs
from mailrelay_operator.desired.manifest import Manifest
from mailrelay_operator.desired.monitor import monitor
from mailrelay_operator.desired.nats import nats
from mailrelay_operator.desired.network import network_policies
from mailrelay_operator.desired.sender import sender
from mailrelay_operator.desired.streams_job import streams_job
from mailrelay_operator.resource.relay import Relay
from mailrelay_operator.resource.relay_config import relay_config


def desired(relay: Relay, inputs: Inputs) -> tuple[Manifest, ...]:
    """Return what a relay's objects shall be. Pure: the same for the same values.

    Secrets are not among them: they are made once (`mailrelay_operator.generate`), and here only
    named. Raises ResourceError when a value cannot be used, and KeyError when `inputs.keys` lacks
    a role's key for a NATS of the relay's own.
    """
    config = relay_config(relay)
    return (
        service_account(relay),
        *network_policies(relay, inputs),
        config_map(relay, config),
        *certificate(relay, inputs),
        *nats(relay, inputs),
        streams_job(relay, inputs, config),
        *monitor(relay, inputs, config),
        *ingress(relay, inputs, config),
        *sender(relay, inputs, config),
        *budgets(relay),
        *pod_monitor(relay, inputs),
    )
