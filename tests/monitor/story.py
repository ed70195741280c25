"""Events and records as ingress and senders would write them."""

from __future__ import annotations

import itertools
import time

from mailrelay.mail.disposition import Disposition, Outcome
from mailrelay.mail.event import Accepted, Attempted, Summary
from mailrelay.mail.ids import QueueId, new_queue_id
from mailrelay.mail.job import Body, FailedRecord, Job, Recipient, Try
from mailrelay.mail.reply import Reply
from mailrelay.queue.events import EventRecord

SENT, DEFERRED = Disposition.SENT, Disposition.DEFERRED
BOUNCED, EXPIRED, CAPTURED = Disposition.BOUNCED, Disposition.EXPIRED, Disposition.CAPTURED

_numbers = itertools.count(1)
_REPLIES = {
    SENT: Reply(250, "2.0.0", "taken"),
    DEFERRED: Reply(451, "4.3.0", "later"),
    BOUNCED: Reply(550, "5.1.1", "nobody <here>"),
    EXPIRED: Reply(451, "4.3.0", "still later"),
    CAPTURED: Reply(250, "2.0.0", "captured"),
}


def queue_id(at: float | None = None) -> QueueId:
    return new_queue_id(time.time() if at is None else at, next(_numbers))


def summary(
    submission: QueueId, recipients: int = 1, *, at: float = 1000.0, stored_body: bool = False
) -> Summary:
    return Summary(submission, "a@from.example", 1234, recipients, at, stored_body)


def accepted(about: Summary) -> Accepted:
    addresses = tuple(f"r{number}@to.example" for number in range(about.total_recipients))
    return Accepted(about, about.accepted_at, addresses)


def attempted(
    about: Summary,
    outcomes: dict[int, Disposition],
    *,
    attempt: int = 1,
    after: float = 1.0,
) -> Attempted:
    return Attempted(
        about,
        about.accepted_at + after,
        1,
        1,
        attempt,
        0.1,
        tuple(f"r{number}@to.example" for number in outcomes),
        tuple(
            Outcome(number, disposition, _REPLIES[disposition], "mx.to.example:25")
            for number, disposition in outcomes.items()
        ),
    )


def record(sequence: int, *events: Accepted | Attempted, stored_at: float = 1000.0) -> EventRecord:
    return EventRecord(sequence, stored_at, list(events))


def job(submission: QueueId, *, body: Body | None = None, content: bytes = b"Hi\r\n") -> Job:
    tries = (Try(7, 2000.0, "mx", _REPLIES[BOUNCED]),)
    return Job(
        submission=submission,
        batch=1,
        batches=1,
        total_recipients=3,
        accepted_at=1000.0,
        reverse_path="a@from.example",
        recipients=(Recipient(2, "r2@to.example", tries),),
        content=b"" if body else content,
        body=body,
        attempt=7,
        faults=1,
        hop=2,
        due=1500.0,
    )


def failed(of: Job) -> FailedRecord:
    return FailedRecord(of, BOUNCED, 2000.0)
