"""What `desired` needs beside the resource: all of it values, and none of it a secret."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mailrelay.queue.rights import Role
from mailrelay_operator.key_slots import KeySlots


@dataclass(frozen=True, slots=True)
class Images:
    """The images of the operator's own version, which a resource may override one by one."""

    ingress: str
    sender: str
    monitor: str
    nats: str
    tools: str


@dataclass(frozen=True, slots=True)
class Inputs:
    """What was found, made or decided."""

    images: Images
    operator_namespace: str  # where the operator's pods are; they read the monitor
    # Of a NATS of the relay's own: the keys of each role that connects.
    keys: Mapping[Role, KeySlots] = field(default_factory=dict)
    # Digests of Secrets that a process reads only when it starts, by name: the seeds for a NATS
    # that is there already, and what the servers of a NATS cluster show each other.
    digests: Mapping[str, str] = field(default_factory=dict)
    # Sender pods as the operator scales them, or as they are where somebody else does. None: the
    # Deployment says nothing of it.
    sender_replicas: int | None = None
    # Another word than the last time makes the streams' Job run again.
    streams_run: str = ""
    has_pod_monitors: bool = False  # whether the cluster has Prometheus' operator's kinds
    has_certificates: bool = False  # whether it has cert-manager's
