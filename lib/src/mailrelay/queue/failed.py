"""The failed store: what could not be delivered, one record a recipient (queue rule 8).

A record has one place (`….failed.<submission>.<recipient no.>`). It is put there only when nothing
is there, so storing it again changes nothing, also after the server's duplicate window.

At most one resend of a record is alive. Whoever claims one overwrites the record, by
compare-and-set on its sequence number, with a copy that names the claimed record in the lane
(`ResendMark`). It goes on only when that succeeded, or when the last record carries this very mark
(the same record in the lane came back after a crash). Settling overwrites the copy, by
compare-and-set again: with the next failure, or with the tombstone (an empty record that goes after
an hour). Nothing of it has a message id: servers disagree on whether an id or an expected sequence
is looked at first.

What overwrites a record also removes it (`Nats-Rollup`). A stream that merely holds one record a
subject lets go of the old one without a word in its file, and nats-server 2.15.1, killed after the
new one was removed too, finds the old one there again (docs/decisions/0025).
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

from mailrelay.mail.disposition import Outcome
from mailrelay.mail.ids import QueueId, is_queue_id, new_queue_id
from mailrelay.mail.job import FailedRecord, Job, ResendMark
from mailrelay.queue import leader
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.errors import QueueMovedOnError
from mailrelay.queue.events import BatchReader, StoredMessage, epoch_seconds
from mailrelay.queue.publish import Guard, Publisher, Record
from mailrelay.queue.wire import (
    RecordError,
    decode_failed,
    decode_outcome,
    encode_failed,
    encode_outcome,
)
from mailrelay.runtime.steps import passed

_TOMBSTONE_TTL = "1h"  # longer than any resend of the same record may still be under way
_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
# On a tombstone, see `Delivery`.
_DELIVERED_BY, _OUTCOME = "Mailrelay-Resend", "Mailrelay-Outcome"
_REMOVES_OLDER = {"Nats-Rollup": "sub"}
_SAME_TIME_SECONDS = 0.001  # a float of seconds holds microseconds, the server tells nanoseconds
_PAGE = 64
_BEHIND_RECIPIENTS = 1_000_000  # no message has so many
_SAID = 500  # characters of an error that are kept


@dataclass(frozen=True, slots=True)
class StoredFailure:
    """A record of the stream and its place; `record` is None when it cannot be read."""

    submission: QueueId
    recipient: int
    sequence: int
    size_bytes: int
    is_done: bool  # a tombstone
    record: FailedRecord | None


@dataclass(frozen=True, slots=True)
class UnreadablePlace:
    """Where a record goes that cannot be read: a place that no recipient has.

    `was` is its subject. `submission` is that of the body that the subject names, so that the body
    stays; a record that names none gets an id of its own.
    """

    submission: QueueId
    number: int
    was: str

    @classmethod
    def of(cls, subject: str, sequence: int, stored_at: float) -> UnreadablePlace:
        """Find the place of a record by where it was."""
        body = subject.rpartition(".")[2]
        own = new_queue_id(stored_at, zlib.crc32(subject.encode()) << 32 | sequence)
        submission = QueueId(body) if is_queue_id(body) else own
        return cls(submission, _BEHIND_RECIPIENTS + sequence, subject)


@dataclass(frozen=True, slots=True)
class ResendClaim:
    """The failed record is ours to settle: the copy that carries our mark is `sequence`."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """Which resend delivered, and how: for when its sender dies before it tells."""

    by: ResendMark
    outcome: Outcome


class FailedStore:
    """Reads and writes the failed store over one connection."""

    def __init__(self, connection: QueueConnection, publisher: Publisher) -> None:
        self._connection = connection
        self._publisher = publisher
        self._names = connection.names
        self._reader = BatchReader(
            connection, self._names.failed_stream, f"{self._names.prefix}.failed.>"
        )

    # What a sender does.
    # `guard` is asked before each try to store, and what it raises ends it (Publisher.store).
    async def store(self, record: FailedRecord, guard: Guard | None = None) -> None:
        """Store a recipient's failure unless its place is taken. Raises as Publisher.store does.

        Taken means that this failure was stored before, or that a resend of it is on its way or
        done: the repeat of a crashed attempt says nothing new then.
        """
        await self._replace(record, 0, guard)

    async def store_again(
        self, record: FailedRecord, claim: ResendClaim, guard: Guard | None = None
    ) -> None:
        """Put the failure of a resend in the place of the claimed copy.

        When that is gone, somebody removed it, or this was stored before: nothing is to be done.
        """
        await self._replace(record, claim.sequence, guard)

    async def store_unreadable(
        self, place: UnreadablePlace, payload: bytes, error: str, guard: Guard | None = None
    ) -> None:
        """Keep a record of the queue that cannot be read, as it is, with where it was and why.

        Raises as Publisher.store does.
        """
        subject = self._names.failed_subject(place.submission, place.number)
        headers = {_EXPECTED: "0", "Mailrelay-Was": place.was, "Mailrelay-Error": error[:_SAID]}
        # An empty record would be a tombstone.
        await self._compare_and_set(Record(subject, payload or b"\0", "", headers), guard)

    async def store_released(self, record: FailedRecord, guard: Guard | None = None) -> None:
        """Store the failure of a release, over an older failure of the same recipient.

        A failure whose resend is alive stays: what becomes of that is told in its own time.
        """
        while True:
            last = await self.last(record.job.submission, record.recipient.number)
            if last is not None and await self._has_live_resend(last):
                return
            if await self._replace(record, last.sequence if last is not None else 0, guard):
                return

    async def store_done(
        self,
        job: Job,
        claim: ResendClaim,
        guard: Guard | None = None,
        *,
        delivery: Delivery | None = None,
    ) -> None:
        """Put the tombstone in place of a claimed record whose resend succeeded."""
        subject = self._names.failed_subject(job.submission, job.recipients[0].number)
        headers = {"Nats-TTL": _TOMBSTONE_TTL, _EXPECTED: str(claim.sequence), **_REMOVES_OLDER}
        if delivery is not None:
            headers[_DELIVERED_BY] = _written(delivery.by)
            headers[_OUTCOME] = base64.b64encode(encode_outcome(delivery.outcome)).decode()
        await self._compare_and_set(Record(subject, b"", "", headers), guard)

    async def delivered_by(self, job: Job, mark: ResendMark) -> Outcome | None:
        """Return how the resend in `mark` was delivered, when the tombstone is its own.

        Raises QueueError.
        """
        subject = self._names.failed_subject(job.submission, job.recipients[0].number)
        stream = self._names.failed_stream
        message = await leader.last_message(self._connection, stream, subject)
        if message is None or message.get("data"):
            return None
        headers = _headers(base64.b64decode(message.get("hdrs", "")))
        if headers.get(_DELIVERED_BY) != _written(mark):
            return None
        try:
            return decode_outcome(base64.b64decode(headers.get(_OUTCOME, "")))
        except (RecordError, ValueError):  # another version's: it is display that suffers
            return None

    async def claim_resend(self, job: Job, mark: ResendMark) -> ResendClaim | None:
        """Make the resend in `mark` the one that may go on; None when it may not.

        Raises QueueError, RecordError.
        """
        recipient = job.recipients[0].number
        while True:
            last = await self.last(job.submission, recipient)
            if last is None or last.is_done:
                return None
            if last.record is not None and last.record.resending == mark:
                return ResendClaim(last.sequence)
            if last.sequence != job.resend_of or await self._has_live_resend(last):
                return None
            if last.record is None:
                msg = f"the failed record {last.sequence} cannot be read by this version"
                raise RecordError(msg)
            # Whatever the outcome, the next look tells it.
            await self._replace(replace(last.record, resending=mark), last.sequence)
            passed("resend.claimed")

    # What both ask.
    async def last(self, submission: QueueId, recipient: int) -> StoredFailure | None:
        """Return a recipient's last record; None when the stream's one leader has none.

        Raises QueueError, also while it is not known who leads.
        """
        subject = self._names.failed_subject(submission, recipient)
        stream = self._names.failed_stream
        return _found(await leader.last_message(self._connection, stream, subject))

    async def at(self, sequence: int) -> StoredFailure | None:
        """Return the record of a sequence number while it is there. Raises QueueError."""
        return await self._get({"seq": sequence})

    async def is_in_lane(self, mark: ResendMark) -> bool:
        """Tell whether the record in a lane that `mark` names is still there.

        Once it is gone it never comes back. Raises QueueError, also while it is not known who
        leads.
        """
        if mark.stream != self._names.lane_stream:
            return False
        found = await leader.message_at(self._connection, mark.stream, mark.sequence)
        if found is None:
            return False
        stored_at = epoch_seconds(found.get("time", ""))
        return abs(stored_at - mark.stored_at) < _SAME_TIME_SECONDS

    # What the monitor does.
    async def read(self, after: int, batch: int = _PAGE) -> list[StoredFailure]:
        """Return the records that follow sequence `after`, tombstones among them.

        Raises QueueUnavailableError.
        """
        return [_failure(message) for message in await self._reader.read(after + 1, batch)]

    async def last_of(self, submission: QueueId) -> FailedRecord | None:
        """Return the submission's record that was stored last; None when there is none.

        None too when a tombstone is the last or it cannot be read. Raises QueueError.
        """
        last = await self._get({"last_by_subj": f"{self._names.prefix}.failed.{submission}.*"})
        return last.record if last is not None else None

    async def walk(self) -> AsyncIterator[StoredFailure]:
        """Yield every failure, oldest first, in pages. Raises QueueUnavailableError."""
        after = 0
        while page := await self.read(after):
            for failure in page:
                after = failure.sequence
                if not failure.is_done:
                    yield failure

    async def remove_up_to(self, submission: QueueId, recipient: int, sequence: int) -> bool:
        """Remove the record `sequence` and what was in its place before; False when nothing was.

        What was stored there since stays. Raises QueueError.
        """
        subject = self._names.failed_subject(submission, recipient)
        answer = await self._connection.api(
            f"STREAM.PURGE.{self._names.failed_stream}", {"filter": subject, "seq": sequence + 1}
        )
        passed("failed.removed")
        return int(answer.get("purged", 0)) > 0

    async def keep_last(self, submission: QueueId, recipient: int) -> None:
        """Remove what was left beside a recipient's last record. Raises QueueError."""
        subject = self._names.failed_subject(submission, recipient)
        await self._connection.api(
            f"STREAM.PURGE.{self._names.failed_stream}", {"filter": subject, "keep": 1}
        )

    async def places(self) -> dict[tuple[QueueId, int], int]:
        """Return every place that is taken, by submission and recipient, and by how many records.

        More than one only while one is being overwritten, or when that was broken off. Raises
        QueueError.
        """
        prefix = f"{self._names.prefix}.failed."
        found: dict[str, int] = {}
        while True:
            info = await self._connection.api(
                f"STREAM.INFO.{self._names.failed_stream}",
                {"subjects_filter": f"{prefix}>", "offset": len(found)},
            )
            subjects = info["state"].get("subjects") or {}
            found.update(subjects)
            if not subjects or len(found) >= int(info.get("total", 0)):
                return {_place(subject): records for subject, records in found.items()}

    async def _has_live_resend(self, last: StoredFailure) -> bool:
        mark = last.record.resending if last.record is not None else None
        return mark is not None and await self.is_in_lane(mark)

    async def _replace(
        self, record: FailedRecord, sequence: int, guard: Guard | None = None
    ) -> bool:
        """Store a record when `sequence` is the last of its subject; 0 means none is there."""
        subject = self._names.failed_subject(record.job.submission, record.recipient.number)
        headers = {_EXPECTED: str(sequence), **(_REMOVES_OLDER if sequence else {})}
        return await self._compare_and_set(
            Record(subject, encode_failed(record), "", headers), guard
        )

    async def _compare_and_set(self, record: Record, guard: Guard | None) -> bool:
        try:
            await self._publisher.store(record, guard=guard)
        except QueueMovedOnError:
            return False
        return True

    async def _get(self, which: dict[str, object]) -> StoredFailure | None:
        return _found(await leader.message(self._connection, self._names.failed_stream, which))


def _written(mark: ResendMark) -> str:
    return f"{mark.stream} {mark.sequence} {mark.stored_at:.6f}"


def _headers(octets: bytes) -> dict[str, str]:
    """Read headers as NATS stores them: a line of version, then one `name: value` a line."""
    lines = octets.decode("utf-8", "replace").split("\r\n")[1:]
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _readable(payload: bytes) -> FailedRecord | None:
    """Return the record, None for a tombstone and for one that cannot be read."""
    if not payload:
        return None
    try:
        return decode_failed(payload)
    except RecordError:
        return None


def _found(message: dict[str, Any] | None) -> StoredFailure | None:
    if message is None:
        return None
    payload = base64.b64decode(message.get("data", ""))
    return _failure(StoredMessage(message["subject"], int(message["seq"]), 0.0, payload))


def _place(subject: str) -> tuple[QueueId, int]:
    submission, _, recipient = subject.rpartition(".")
    number = int(recipient) if recipient.isdigit() else -1
    return QueueId(submission.rpartition(".")[2]), number


def _failure(message: StoredMessage) -> StoredFailure:
    return StoredFailure(
        *_place(message.subject),
        message.sequence,
        len(message.payload),
        not message.payload,
        _readable(message.payload),
    )
