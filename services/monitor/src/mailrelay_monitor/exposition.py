"""The numbers for Prometheus, and whether somebody asked for that form."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from mailrelay_monitor.totals import Ledger


class LedgerMetrics(Collector):
    """The totals, read at the moment of asking."""

    def __init__(self, ledger: Callable[[], Ledger], registry: CollectorRegistry) -> None:
        self._ledger = ledger
        registry.register(self)

    def describe(self) -> Iterator[Metric]:
        """Name the metrics."""
        yield from self.collect()

    def collect(self) -> Iterator[Metric]:
        """Return the metrics."""
        ledger = self._ledger()
        totals = ledger.totals
        yield CounterMetricFamily(
            "mailrelay_emails_accepted", "Accepted submissions.", totals.total_emails
        )
        yield CounterMetricFamily(
            "mailrelay_recipients_accepted",
            "Recipients of accepted submissions.",
            totals.total_recipients,
        )
        # No counters: a resend takes one from failed to successful.
        emails = GaugeMetricFamily(
            "mailrelay_emails", "Accepted submissions by how they stand.", labels=["state"]
        )
        emails.add_metric(["successful"], totals.successful_emails)  # each recipient sent, captured
        emails.add_metric(["failed"], totals.failed_emails)  # finished, a recipient was not
        emails.add_metric(["queued"], totals.queued_emails)  # not finished
        emails.add_metric(["lost"], totals.lost_emails)  # open when the queue lost its data
        yield emails
        yield CounterMetricFamily(
            "mailrelay_processing_seconds",
            "From acceptance to the last final disposition, summed over finished submissions.",
            totals.processing_ms / 1000,
        )
        yield CounterMetricFamily(
            "mailrelay_event_records_missed",
            "Event records that aged out before they were counted.",
            ledger.missed_events,
        )
        yield CounterMetricFamily(
            "mailrelay_event_records_unreadable",
            "Event records that this version cannot read.",
            ledger.unreadable_records,
        )
        yield CounterMetricFamily(
            "mailrelay_queue_losses",
            "Times that the queue was found to have lost its data.",
            ledger.queue_losses,
        )


def wants_exposition(accept: str) -> bool:
    """Tell whether an Accept header asks for Prometheus' text rather than for JSON."""
    kinds = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    asked = "text/plain" in kinds or "application/openmetrics-text" in kinds
    return asked and "application/json" not in kinds


def expose(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """Return the text and its content type."""
    encoder, content_type = choose_encoder(accept)
    return encoder(registry), content_type
