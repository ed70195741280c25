"""What a relay's children are called: each name begins with the relay's.

In one kind no ending is the end of another one (`-config`, `-nats-config`), so two relays of one
namespace never want the same name, whatever they are called.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from mailrelay.queue.rights import Role


class Component(Enum):
    """A part of a relay that has pods of its own."""

    INGRESS = "ingress"
    SENDER = "sender"
    MONITOR = "monitor"
    NATS = "nats"
    STREAMS = "streams"  # the Job that makes the streams


# Endings by kind; what `ChildNames` hands out is made of them.
ENDINGS: Final = {
    "Secret": (
        *("smtp", "tls", "tls-issued", "ca", "http-token", "nats-route"),
        *(f"nats-{role.value}" for role in Role),
    ),
    "ConfigMap": ("config", "nats-conf"),
    "Service": ("ingress", "monitor", "nats", "nats-client"),
    "Deployment": ("ingress", "sender"),
    "StatefulSet": ("monitor", "nats"),
    "PodDisruptionBudget": ("ingress", "sender", "nats"),
    "NetworkPolicy": tuple(component.value for component in Component),
    "ServiceAccount": ("relay",),
    "PodMonitor": ("pods",),
    "Certificate": ("ingress",),
}


@dataclass(frozen=True, slots=True)
class ChildNames:
    """The names of one relay's children."""

    relay: str

    def of(self, component: Component) -> str:
        """The name of what runs a component, and of its Service, budget and policy."""
        return f"{self.relay}-{component.value}"

    @property
    def config(self) -> str:
        """The ConfigMap with the relay's config.json."""
        return f"{self.relay}-config"

    @property
    def nats_config(self) -> str:
        """The ConfigMap with nats-server's configuration."""
        return f"{self.relay}-nats-conf"

    @property
    def smtp_secret(self) -> str:
        """The Secret with the generated user."""
        return f"{self.relay}-smtp"

    @property
    def ca_secret(self) -> str:
        """The Secret with the generated authority."""
        return f"{self.relay}-ca"

    @property
    def tls_secret(self) -> str:
        """The Secret with the generated certificate."""
        return f"{self.relay}-tls"

    @property
    def token_secret(self) -> str:
        """The Secret with the generated token."""
        return f"{self.relay}-http-token"

    @property
    def route_secret(self) -> str:
        """The Secret with what the servers of a NATS cluster show each other."""
        return f"{self.relay}-nats-route"

    def key_secret(self, role: Role) -> str:
        """The Secret with a role's NKey seeds."""
        return f"{self.relay}-nats-{role.value}"

    @property
    def service_account(self) -> str:
        """The ServiceAccount of all pods. It has no rights at all."""
        return f"{self.relay}-relay"

    @property
    def pod_monitor(self) -> str:
        """The PodMonitor of all pods that have metrics."""
        return f"{self.relay}-pods"

    @property
    def monitor_claim(self) -> str:
        """The claim of the monitor's volume."""
        return f"{self.relay}-monitor"

    def nats_claim(self, number: int) -> str:
        """The claim of a NATS server's volume, as its StatefulSet names it."""
        return f"data-{self.nats_pod(number)}"

    def nats_pod(self, number: int) -> str:
        """The pod of a NATS server, from 0 on."""
        return f"{self.of(Component.NATS)}-{number}"

    @property
    def nats_client(self) -> str:
        """The Service by which clients reach a NATS server that is the only one."""
        return f"{self.of(Component.NATS)}-client"

    def nats_host(self, number: int) -> str:
        """The name of a NATS server for the pods of its namespace."""
        return f"{self.nats_pod(number)}.{self.of(Component.NATS)}"

    def streams_job(self, digest: str) -> str:
        """The Job that makes the streams; another one when `digest`, of its inputs, is another."""
        return f"{self.of(Component.STREAMS)}-{digest}"
