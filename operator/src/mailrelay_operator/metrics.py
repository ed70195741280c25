"""The operator's metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from mailrelay_operator.child_kinds import BY_KIND, Kind


class OperatorMetrics:
    """What Prometheus reads at /metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.reconciles = Counter(
            "mailrelay_operator_reconciles",
            "Passes over a relay.",
            ["result"],  # ok: as its spec says; stopped: something is missing or refused; failed
            registry=registry,
        )
        for result in ("ok", "stopped", "failed"):
            self.reconciles.labels(result)  # 0: the first one is an increase, too
        self.seconds = Histogram(
            "mailrelay_operator_reconcile_seconds",
            "How long a pass over a relay took.",
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
            registry=registry,
        )
        self.drift = Counter(
            "mailrelay_operator_drift_undone",
            "Changes by others to a relay's objects that were undone.",
            ["kind", "how"],  # Deployment …; edited, deleted, added
            registry=registry,
        )
        for kind in BY_KIND:
            for how in ("edited", "deleted", "added"):
                self.drift.labels(kind, how)
        self.watch_restarts = Counter(
            "mailrelay_operator_watch_restarts",
            "Watches that had to begin anew.",
            ["kind", "why"],  # as above; gone: too old to go on; failed: no connection, or silent
            registry=registry,
        )
        self.missed = Counter(
            "mailrelay_operator_watch_missed",
            "Changes of relays that a list showed and the watch had not told.",
            registry=registry,
        )
        self.queued = Gauge(
            "mailrelay_operator_queue_depth",
            "Relays that wait for a pass.",
            registry=registry,
        )
        self.waiting = Gauge(
            "mailrelay_operator_queue_wait_seconds",
            "How long the relay waits for its pass that waits longest.",
            registry=registry,
        )
        self.relays = Gauge(
            "mailrelay_operator_relays", "Relays that there are.", registry=registry
        )
        self.leads = Gauge(
            "mailrelay_operator_leads",
            "Whether this process acts: 1, or 0 while another one does.",
            registry=registry,
        )
        self.requests = Gauge(
            "mailrelay_operator_api_requests",
            "Requests sent to the API server since the start.",
            registry=registry,
        )

    def undone(self, kind: Kind, how: str) -> None:
        """Count drift that was undone."""
        self.drift.labels(kind.kind, how).inc()

    def restarted(self, kind: Kind, why: str) -> None:
        """Count a watch that began anew."""
        self.watch_restarts.labels(kind.kind, why).inc()
