"""A relay's children as its conditions look at them (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mailrelay_operator.child import Child
from mailrelay_operator.conditions import Observed, StreamsJob, Workload
from mailrelay_operator.desired.names import ChildNames, Component
from mailrelay_operator.observe import CertificateState, ServiceState
from mailrelay_operator.plan import ChildKey
from mailrelay_operator.resource.relay import Relay


@dataclass(frozen=True, slots=True)
class View:
    """What runs of a relay."""

    relay: Relay | None  # None: its spec cannot be read
    ingress: Workload | None = None
    sender: Workload | None = None
    monitor: Workload | None = None
    nats: Workload | None = None
    streams: StreamsJob | None = None
    certificate: CertificateState | None = None
    address: str = ""

    @staticmethod
    def of(children: Mapping[ChildKey, Child], relay: Relay | None) -> View:
        """Look at the children; they are found by their names, whatever the spec says now."""
        workloads: dict[str, Workload] = {}
        jobs: list[tuple[bool, StreamsJob]] = []
        certificate = None
        address = ""
        for (_, name), child in children.items():
            component = name.removeprefix(f"{child.relay}-")
            match child.observed:
                case Workload() as workload:
                    workloads[component] = workload
                case StreamsJob() as job:
                    jobs.append((child.is_deleted, job))
                case CertificateState() as state:
                    certificate = state
                case ServiceState() as service if component == Component.INGRESS.value:
                    host = service.load_balancer or f"{name}.{child.namespace}.svc"
                    address = _with_port(host, 0 if relay is None else relay.spec.ingress.port)
        # While a new Job replaces an old one, the one that is not done yet is what is waited for.
        jobs.sort(key=lambda each: (each[0], each[1].done))
        return View(
            relay,
            workloads.get(Component.INGRESS.value),
            workloads.get(Component.SENDER.value),
            workloads.get(Component.MONITOR.value),
            workloads.get(Component.NATS.value),
            jobs[0][1] if jobs else None,
            certificate,
            address,
        )

    def observed(self) -> Observed:
        """Return what the conditions are made from, as far as children tell it."""
        issuer = None if self.relay is None else self.relay.spec.ingress.tls.issuer_ref
        fault = ""
        if issuer is not None:
            if self.certificate is None:
                name = ChildNames(self.relay.name).of(Component.INGRESS) if self.relay else ""
                fault = (
                    f"Certificate {name} is not there: install cert-manager, which "
                    "spec.ingress.tls.issuerRef needs, or name a Secret in its place"
                )
            else:
                fault = self.certificate.fault
        return Observed(
            needs_certificate=issuer is not None,
            certificate_fault=fault,
            has_own_queue=self.relay.spec.queue.is_own if self.relay else self.nats is not None,
            nats=self.nats,
            streams=self.streams,
            ingress=self.ingress,
            sender=self.sender,
            monitor=self.monitor,
        )


def _with_port(host: str, port: int) -> str:
    """Return `host:port`, an IPv6 address in brackets; the host alone without a port."""
    shown = f"[{host}]" if ":" in host else host
    return f"{shown}:{port}" if port else shown
