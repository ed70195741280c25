"""What happened to a message, as the event stream tells it.

Any event of a submission carries enough of its envelope to create its row in an index, so that a
lost event leaves a gap and not a hole.
"""

from __future__ import annotations

from dataclasses import dataclass

from mailrelay.mail.disposition import Outcome
from mailrelay.mail.ids import QueueId
from mailrelay.mail.job import Job


@dataclass(frozen=True, slots=True)
class Summary:
    """The envelope of a submission in brief. Times are seconds since the epoch."""

    submission: QueueId
    reverse_path: str
    size_bytes: int
    total_recipients: int
    accepted_at: float
    stored_body: bool  # whether content lives in the body stream

    @classmethod
    def of(cls, job: Job) -> Summary:
        """Sum up the submission of `job`."""
        return cls(
            job.submission,
            job.reverse_path,
            job.size_bytes,
            job.total_recipients,
            job.accepted_at,
            job.body is not None,
        )


@dataclass(frozen=True, slots=True)
class Event:
    """Base of the events: who says it, when, about which submission."""

    summary: Summary
    at: float


@dataclass(frozen=True, slots=True)
class Accepted(Event):
    """A submission is queued. `recipients` are the addresses in the envelope's order."""

    recipients: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Discarded(Event):
    """A failed record is gone without having been delivered: by hand, or past a limit."""

    recipient: int  # the recipient's number in its submission
    address: str
    reason: str  # by_hand, max_age, max_records, max_bytes; dropped_by_stream: nobody removed it


@dataclass(frozen=True, slots=True)
class Abandoned(Event):
    """Content was stored of a submission that is not queued, and never will be.

    `summary.size_bytes` is how much of it was sent off to be stored.
    """


@dataclass(frozen=True, slots=True)
class Attempted(Event):
    """One job had one attempt. `addresses` go with `outcomes`, one for one."""

    batch: int
    batches: int
    attempt: int
    duration_seconds: float
    addresses: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
