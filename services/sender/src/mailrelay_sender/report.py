"""What people are told of an attempt: log lines for job and recipients, counters, an event."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Iterable

from prometheus_client import Counter, Histogram

from mailrelay.mail.disposition import Disposition, Outcome
from mailrelay.mail.event import Attempted, Summary
from mailrelay.mail.job import Job
from mailrelay.runtime.logging import Logger
from mailrelay_sender.follow_up import FollowUp

_recipients = Counter(
    "mailrelay_recipients_total",
    "Recipients by what an attempt made of them.",
    # disposition: see mailrelay.mail.disposition; route: capture, smarthost, named, or of `routes`
    ["disposition", "route"],
)
attempt_seconds = Histogram(
    "mailrelay_attempt_seconds",
    "How long an attempt took.",
    # capture, smarthost: of the forward options, named: by hand, with a release; or of `routes`
    ["route"],
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 30, 120, 600),
)
_latency = Histogram(
    "mailrelay_delivery_latency_seconds",
    "From acceptance to a recipient's delivery.",
    ["route"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 3600, 14400, 86400),
)


def begin_counting(routes: Iterable[str]) -> None:
    """Have routes begin at 0: what happens there first is no increase to Prometheus otherwise."""
    for route in routes:
        attempt_seconds.labels(route)
        _latency.labels(route)
        for disposition in Disposition:
            _recipients.labels(disposition.value, route)


def report(
    log: Logger, job: Job, rest: FollowUp, *, route: str, now: float, duration_seconds: float
) -> None:
    """Write one log line for the job and one for each recipient, and count."""
    by_number = {recipient.number: recipient for recipient in job.recipients}
    counts = Counts(outcome.disposition.value for outcome in rest.outcomes)
    log.info(
        "mail.batch",
        id=job.submission,
        batch=f"{job.batch}/{job.batches}",
        attempt=job.attempt,
        recipients=len(job.recipients),
        seconds=round(duration_seconds, 4),
        **counts,
    )
    for outcome in rest.outcomes:
        disposition = outcome.disposition
        _recipients.labels(disposition.value, route).inc()
        if disposition is Disposition.SENT:
            _latency.labels(route).observe(max(0.0, now - job.accepted_at))
        event = f"mail.{disposition.value}"
        log.info(
            event,
            id=job.submission,
            batch=f"{job.batch}/{job.batches}",
            recipient=by_number[outcome.recipient].address,
            attempt=job.attempt,
            next_hop=outcome.next_hop,
            reply=str(outcome.reply),
            seconds=round(duration_seconds, 4),
            **_retry_fields(rest, outcome, now),
        )


def _retry_fields(rest: FollowUp, outcome: Outcome, now: float) -> dict[str, float]:
    if outcome.disposition is Disposition.DEFERRED and rest.deferred is not None:
        return {"retry_in_seconds": round(rest.deferred.due - now, 1)}
    return {}


def attempted(
    job: Job, stored: Job, rest: FollowUp, now: float, duration_seconds: float
) -> Attempted:
    """Return the event; `stored` is what remains of the job, or the job when nothing does."""
    by_number = {recipient.number: recipient for recipient in job.recipients}
    return Attempted(
        # Whether a body is stored is said of what remains: its deletion is prompted by this.
        Summary.of(stored if stored.body else job),
        now,
        batch=job.batch,
        batches=job.batches,
        attempt=job.attempt,
        duration_seconds=duration_seconds,
        addresses=tuple(by_number[outcome.recipient].address for outcome in rest.outcomes),
        outcomes=rest.outcomes,
    )
