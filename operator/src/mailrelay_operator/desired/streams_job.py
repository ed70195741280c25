"""The Job that makes the queue's streams: `mailrelay queue ensure`, the only one with admin's key.

Its name has a digest of all that it is started with, so that it runs again when any of that is
another. What it needs to know stands in its environment, and it reads no file of configuration:
options that do not concern the streams do not run it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mailrelay_operator.desired.inputs import Inputs
from mailrelay_operator.desired.manifest import Manifest, digest, manifest
from mailrelay_operator.desired.names import ChildNames, Component
from mailrelay_operator.desired.nats import nats_url
from mailrelay_operator.desired.pods import Container, amounts, pod_template
from mailrelay_operator.desired.restarts import environment
from mailrelay_operator.desired.services import key_annotation, scratch_volume, seed_volume
from mailrelay_operator.resource import paths
from mailrelay_operator.resource.pods import Pods
from mailrelay_operator.resource.relay import Relay

# Each try waits a minute for the queue, and NATS may have to wait for its volume: hours, all told.
_TRIES: Final = 100
_GRACE_SECONDS: Final = 10
_REQUESTS: Final = {"cpu": "50m", "memory": "64Mi"}
# A limit for the processor, too: nobody can set one here, and a quota may ask for it.
_LIMITS: Final = {"cpu": "1", "memory": "256Mi"}


def streams_job(relay: Relay, inputs: Inputs, config: Mapping[str, Any]) -> Manifest:
    """Return the Job."""
    component = Component.STREAMS
    container = Container(
        component=component,
        image=relay.spec.images.tools or inputs.images.tools,
        args=("queue", "ensure"),
        environment={
            "MAILRELAY_NATS_URL": nats_url(relay),
            "MAILRELAY_NATS_SEED_FILE": str(paths.QUEUE_FOLDER / paths.SEED_KEY),
            **environment(config, component),
        },
        resources=amounts(Pods(), _REQUESTS, _LIMITS),
    )
    annotations = key_annotation(relay, inputs, component)
    if inputs.streams_run:
        annotations["mailrelay.dev/streams-run"] = inputs.streams_run
    template = pod_template(
        relay,
        _placement(relay),
        container,
        (seed_volume(relay, inputs, component), scratch_volume()),
        grace_seconds=_GRACE_SECONDS,
        annotations=annotations,
        restart_policy="OnFailure",
    )
    return manifest(
        relay,
        "batch/v1",
        "Job",
        ChildNames(relay.name).streams_job(digest(template)),
        component,
        spec={"backoffLimit": _TRIES, "template": template},
    )


def _placement(relay: Relay) -> Pods:
    """Return where it runs: where NATS does, or the senders when NATS is elsewhere."""
    pods = relay.spec.queue.pods if relay.spec.queue.is_own else relay.spec.sender.pods
    return Pods(
        node_selector=pods.node_selector,
        tolerations=pods.tolerations,
        priority_class_name=pods.priority_class_name,
    )
