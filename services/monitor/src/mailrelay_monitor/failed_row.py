"""What a failed record says, as the row that is kept of it (`failed_index`). Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from mailrelay.mail.ids import QueueId, accepted_seconds, is_queue_id
from mailrelay.mail.job import FailedRecord
from mailrelay.queue.failed import StoredFailure

DONE = "done"
WAITING, QUEUED = "waiting", "queued"
# Whether its file says what the record says; without the content while the disk is nearly full.
UNFILED, FILED, WITHOUT_CONTENT = 0, 1, 2


@dataclass(frozen=True, slots=True)
class FailedRow:
    """A row. Times are seconds since the epoch."""

    submission: QueueId
    recipient: int
    sequence: int
    failed_at: float
    accepted_at: float
    disposition: str
    reverse_path: str
    address: str
    domain: str
    code: int
    enhanced: str
    reply: str
    attempts: int
    size_bytes: int
    record_bytes: int
    total_recipients: int
    stored_body: bool
    mark_sequence: int
    mark_stored_at: float
    filed: int
    removing: str
    request: int
    stage: str

    @property
    def is_readable(self) -> bool:
        """Whether this version can read the record."""
        return bool(self.disposition)

    def is_of_failure(self, other: FailedRow) -> bool:
        """Whether both are of one failure: a resend that takes it up copies its record."""
        return (self.attempts, self.failed_at) == (other.attempts, other.failed_at)


class Outcome(Enum):
    """What became of a record that a resend was asked for."""

    DELIVERED = "delivered"
    FAILED_AGAIN = "failed_again"
    GONE = "gone"  # removed meanwhile


@dataclass(frozen=True, slots=True)
class Ended:
    """A resend of request `request` came to its end."""

    request: int
    outcome: Outcome


def row_of(failure: StoredFailure, old: FailedRow | None) -> FailedRow:
    """Return the row of a failure, in the place of `old`."""
    made = _of(failure.record) if failure.record is not None else _unreadable(failure)
    mark = failure.record.resending if failure.record is not None else None
    # A claim copies the record: the file says the same, and may be large. A removal that was begun
    # means the copy too, and never another failure.
    copied = old if mark is not None and old is not None and old.is_of_failure(made) else None
    ends = old is not None and old.stage == QUEUED and mark is None
    return replace(
        made,
        submission=failure.submission,
        recipient=failure.recipient,
        sequence=failure.sequence,
        record_bytes=failure.size_bytes,
        mark_sequence=mark.sequence if mark else 0,
        mark_stored_at=mark.stored_at if mark else 0.0,
        filed=_filed(failure, copied),
        removing=copied.removing if copied is not None and copied.removing != DONE else "",
        request=old.request if old is not None and not ends else 0,
        stage=old.stage if old is not None and not ends else "",
    )


def _filed(failure: StoredFailure, copied: FailedRow | None) -> int:
    """Return what its file says already; of what cannot be read there is none."""
    if failure.record is None:
        return FILED
    return UNFILED if copied is None else copied.filed


def _unreadable(failure: StoredFailure) -> FailedRow:
    """A record that cannot be read is as old as its submission's name says."""
    at = accepted_seconds(failure.submission) if is_queue_id(failure.submission) else 0.0
    return replace(_UNREADABLE, accepted_at=at, failed_at=at)


def row_of_tombstone(failure: StoredFailure, old: FailedRow | None) -> FailedRow:
    """Return the row of a failure that was delivered; it stays until the file is gone."""
    return replace(
        old or _UNREADABLE,
        submission=failure.submission,
        recipient=failure.recipient,
        sequence=failure.sequence,
        removing=DONE,
        request=0,
        stage="",
    )


def _of(record: FailedRecord) -> FailedRow:
    job, recipient = record.job, record.recipient
    last = recipient.tries[-1] if recipient.tries else None
    return FailedRow(
        submission=job.submission,
        recipient=recipient.number,
        sequence=0,
        failed_at=record.failed_at,
        accepted_at=job.accepted_at,
        disposition=record.disposition.value,
        reverse_path=job.reverse_path,
        address=recipient.address,
        domain=recipient.address.rpartition("@")[2].lower(),
        code=last.reply.code if last else 0,
        enhanced=last.reply.enhanced if last else "",
        reply=str(last.reply) if last else "",
        attempts=len(recipient.tries),
        size_bytes=job.size_bytes,
        record_bytes=0,
        total_recipients=job.total_recipients,
        stored_body=job.body is not None,
        mark_sequence=0,
        mark_stored_at=0.0,
        filed=UNFILED,
        removing="",
        request=0,
        stage="",
    )


_UNREADABLE = FailedRow(
    submission=QueueId(""),
    recipient=0,
    sequence=0,
    failed_at=0.0,
    accepted_at=0.0,
    disposition="",
    reverse_path="",
    address="",
    domain="",
    code=0,
    enhanced="",
    reply="",
    attempts=0,
    size_bytes=0,
    record_bytes=0,
    total_recipients=0,
    stored_body=False,
    mark_sequence=0,
    mark_stored_at=0.0,
    filed=FILED,
    removing="",
    request=0,
    stage="",
)
