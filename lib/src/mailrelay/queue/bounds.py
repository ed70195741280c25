"""What the numbers in a record may be, and what a submission may be called.

MessagePack knows numbers that no database takes and times that no calendar has. Nothing of ours
writes them; whoever read such a record would fail on it, and fail again at each start. A
submission's name becomes a file's name and part of a subject that is purged, so it is a queue id.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mailrelay.mail.event import Attempted, Discarded, Event
from mailrelay.mail.ids import is_queue_id
from mailrelay.mail.job import Job

MAX_NUMBER: Final = 2**63 - 1  # of an SQLite column
MAX_SECONDS: Final = 253_402_300_799.0  # the last second of the year 9999


def fault_of_job(job: Job) -> str:
    """Say what is wrong with a job's numbers, or nothing."""
    numbers = [job.batch, job.batches, job.total_recipients, job.size_bytes, job.attempt]
    numbers += [job.faults, job.hop, job.resend_of]
    times = [job.accepted_at, job.due]
    if job.release is not None:
        times.append(job.release.at)
    for recipient in job.recipients:
        numbers.append(recipient.number)
        for one in recipient.tries:
            numbers += (one.attempt, one.reply.code)
            times.append(one.at)
    if not job.recipients:
        return "a job without a recipient"
    return _fault_of_name(job.submission) or fault_of(numbers, times)


def fault_of_event(event: Event) -> str:
    """Say what is wrong with an event's numbers, or nothing."""
    summary = event.summary
    numbers = [summary.size_bytes, summary.total_recipients]
    if isinstance(event, Attempted):
        numbers += [event.batch, event.batches, event.attempt]
        for outcome in event.outcomes:
            numbers += (outcome.recipient, outcome.reply.code)
    if isinstance(event, Discarded):
        numbers.append(event.recipient)
    times = (summary.accepted_at, event.at)
    return _fault_of_name(summary.submission) or fault_of(numbers, times)


def _fault_of_name(submission: str) -> str:
    return "" if is_queue_id(submission) else f"the submission {submission[:40]!r} is no queue id"


def fault_of(numbers: Iterable[int], times: Iterable[float]) -> str:
    """Say which number or time (seconds since the epoch) cannot be, or nothing."""
    for number in numbers:
        if not 0 <= number <= MAX_NUMBER:
            return f"the number {number} is not from 0 to {MAX_NUMBER}"
    for at in times:
        if not 0 <= at <= MAX_SECONDS:  # which is no number is refused, too
            return f"the time {at} is not from 0 to {MAX_SECONDS:.0f}"
    return ""
