"""A job: what is queued. One submission's content with at most `batchSize` of its recipients.

A job is immutable. What remains to be done after an attempt is a new job (`deferred`), a failed
record or a capture record; see `mailrelay.queue` for where each of them is stored.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

from mailrelay.mail.disposition import Disposition
from mailrelay.mail.ids import QueueId
from mailrelay.mail.reply import Reply

# The first replies tell how it began and the last how it stands; between them a bounded number.
MAX_HISTORY = 100
# Of all recipients of a job together: some 2.5 MB with the longest replies, so that a job of a
# thousand recipients that is deferred for days still fits into one record.
MAX_JOB_HISTORY = 4000
MIN_HISTORY = 2  # the first and the last


@dataclass(frozen=True, slots=True)
class Try:
    """One past attempt at one recipient, kept for the failed record and for people."""

    attempt: int
    at: float  # seconds since the epoch
    next_hop: str
    reply: Reply


@dataclass(frozen=True, slots=True)
class Recipient:
    """A forward path; `number` is its place in the submission's RCPT order, from 0."""

    number: int
    address: str
    tries: tuple[Try, ...] = ()

    def tried(self, new: Try, keep: int = MAX_HISTORY) -> Recipient:
        """Return the recipient with one more attempt in its history, of which `keep` stay."""
        tries = (*self.tries, new)
        if len(tries) > keep:
            tries = (tries[0], *tries[-(keep - 1) :])
        return replace(self, tries=tries)


@dataclass(frozen=True, slots=True)
class Body:
    """Content that lives in the body stream, under its submission's id."""

    chunks: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Release:
    """Somebody let captured recipients go. The record that was captured stays where it is."""

    id: str  # tells one release of the same recipients from another, also in message ids
    at: float  # the retry schedule's age counts from here: the mail may be old
    next_hop: str = ""  # `host:port` named by hand; empty: the relay's own route


@dataclass(frozen=True, slots=True)
class Job:
    """See the module. Times are seconds since the epoch."""

    submission: QueueId
    batch: int  # this is job `batch` of `batches`, from 1
    batches: int
    total_recipients: int  # of the submission
    accepted_at: float
    reverse_path: str  # empty for `<>`
    recipients: tuple[Recipient, ...]
    smtputf8: bool = False
    body_8bitmime: bool = False
    size_bytes: int = 0  # of the content, as it goes over the wire
    content: bytes = field(default=b"", repr=False)  # in wire form: CRLF, dots stuffed, no end mark
    body: Body | None = None  # when set, the content is in the body stream and `content` is empty
    traceparent: str = ""
    attempt: int = 1  # the number of the attempt that this job is waiting for
    faults: int = 0  # unexpected exceptions so far: a bug is no reason to bounce (queue rule 13)
    hop: int = 0  # lane moves since this attempt became due
    due: float = 0.0
    resend_of: int = 0  # sequence of the failed record that this job resends; 0: no resend
    release: Release | None = None  # set when the job was captured and let go

    @property
    def name(self) -> str:
        """The submission and job, as logs and message ids name it."""
        return f"{self.submission}.{self.batch}"

    @property
    def history_kept(self) -> int:
        """How many tries of each recipient fit."""
        share = MAX_JOB_HISTORY // max(1, len(self.recipients))
        return max(MIN_HISTORY, min(MAX_HISTORY, share))

    def deferred(self, recipients: tuple[Recipient, ...], due: float, *, fault: bool) -> Job:
        """Return the job that remains when `recipients` are to be tried again at `due`."""
        return replace(
            self,
            recipients=recipients,
            attempt=self.attempt + 1,
            faults=self.faults + 1 if fault else self.faults,
            hop=0,
            due=due,
        )


@dataclass(frozen=True, slots=True)
class ResendMark:
    """Names the one record in a lane that may resend a failed record (queue rule 8)."""

    stream: str
    sequence: int
    stored_at: float  # a stream that was made anew gives its numbers again


@dataclass(frozen=True, slots=True)
class FailedRecord:
    """One recipient that could not be delivered: everything a person or a resend needs."""

    job: Job  # with exactly this one recipient, its history complete
    disposition: Disposition  # BOUNCED, EXPIRED or NOT_TRIED
    failed_at: float
    resending: ResendMark | None = None  # set while a sender has claimed its resend

    @property
    def recipient(self) -> Recipient:
        """The one recipient."""
        return self.job.recipients[0]


@dataclass(frozen=True, slots=True)
class CaptureRecord:
    """A job kept instead of forwarded."""

    job: Job
    captured_at: float


def recipients_hash(recipients: tuple[Recipient, ...]) -> str:
    """Return a short name of a set of recipients, equal exactly when the set is equal."""
    numbers = ",".join(str(recipient.number) for recipient in recipients)
    return hashlib.sha256(numbers.encode()).hexdigest()[:16]
