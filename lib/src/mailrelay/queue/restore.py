"""Put what a back-up has into a queue, which may be another one than it was read from.

Jobs go into the lanes by when they are due, also those that had no attempt yet: the sender's
rights are enough. Sequence numbers are others then, so no resend is under way any more, and the
jobs of one message do not wait for each other. What is in the failed store or captured already
stays as it is.

Senders and the monitor may be at work. Content is stored before the record that names it, as
everywhere; where another record of the message came before, which may be done, once more behind it:
a monitor that asked in between deletes what was stored before it asked, and nothing later
(`BodyStore.delete_unused`).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from mailrelay.mail.ids import QueueId
from mailrelay.mail.job import CaptureRecord, Job
from mailrelay.queue import leader
from mailrelay.queue.backup_file import Checked, Chunk, Kept, Kind, read_backup
from mailrelay.queue.bodies import BodyStore, body_token
from mailrelay.queue.captured import ONLY_IF_FREE
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.errors import QueueError, QueueMovedOnError
from mailrelay.queue.failed import FailedStore
from mailrelay.queue.lanes import NOW, lane_for
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.wire import (
    RecordError,
    decode_capture,
    decode_failed,
    decode_jobs,
    encode_capture,
    encode_jobs,
)

_TOLD_EVERY = 100  # records


class NotEmptyError(Exception):
    """There is mail in the queue already: restored twice, mail would be sent twice."""


class RestoreBrokenError(Exception):
    """It ended half-way; `restored` records of the file are in the queue."""

    def __init__(self, restored: int, why: str) -> None:
        super().__init__(why)
        self.restored = restored


@dataclass(frozen=True, slots=True)
class Restore:
    """What to restore, and how."""

    path: Path
    checked: Checked  # what `check_backup` says of it
    skip: int = 0  # the first records of the file, which are in the queue already
    adds: bool = False  # whether the queue may hold mail


async def restore(
    connection: QueueConnection,
    what: Restore,
    clock: Callable[[], float],
    told: Callable[[int, int], None],
) -> None:
    """Store what is in the file; `told` hears now and then how many records of how many are in.

    Raises NotEmptyError before anything is stored, later RestoreBrokenError.
    """
    if not what.adds and not what.skip:
        await _check_empty(connection)
    writing = _Writing(connection, what, clock)
    position = 0
    try:
        for frame in read_backup(what.path):
            if isinstance(frame, Chunk) and position >= what.skip:
                await writing.store_chunk(frame)
            elif isinstance(frame, Kept):
                if position >= what.skip:
                    await writing.store(frame, position + 1)
                position += 1
                if position % _TOLD_EVERY == 0 and position > what.skip:
                    told(position, what.checked.records)
    except QueueError as error:
        raise RestoreBrokenError(position, str(error)) from error


async def _check_empty(connection: QueueConnection) -> None:
    names = connection.names
    for stream in (names.in_stream(), names.lane_stream, names.failed_stream):
        info = await leader.stream_info(connection, stream)
        if records := int(info["state"]["messages"]):
            raise NotEmptyError(f"{stream} holds {records} records")


class _Writing:
    def __init__(
        self, connection: QueueConnection, what: Restore, clock: Callable[[], float]
    ) -> None:
        self._names = connection.names
        self._publisher = Publisher(connection)
        self._bodies = BodyStore(connection, self._publisher)
        self._failed = FailedStore(connection, self._publisher)
        self._late = what.checked.late
        # Of what the queue holds already nobody knows what becomes of it.
        self._is_again = what.adds or what.skip > 0
        self._again: list[Chunk] = []  # of one message: of the record that comes next
        self._clock = clock
        self._id = secrets.token_hex(8)

    async def store_chunk(self, chunk: Chunk) -> None:
        """Store a piece of the next record's content. Raises as Publisher.store does."""
        await self._store_chunk(chunk)
        if chunk.is_again or self._is_again:
            self._again.append(chunk)

    async def _store_chunk(self, chunk: Chunk) -> None:
        await self._bodies.store_chunk(QueueId(chunk.submission), chunk.number, chunk.content)

    async def store(self, kept: Kept, position: int) -> None:
        """Store a record. Raises as Publisher.store does."""
        await self._store_record(kept, position)
        for chunk in self._again:
            await self._store_chunk(chunk)
        self._again.clear()

    async def _store_record(self, kept: Kept, position: int) -> None:
        try:
            match kept.kind:
                case Kind.FAILED:
                    await self._store_failed(kept, position)
                case Kind.CAPTURED:
                    await self._store_captured(kept, position)
                case _:
                    jobs = [self._left(job, position) for job in decode_jobs(kept.payload)]
                    for number, job in enumerate(filter(None, jobs)):
                        await self._store_job(job, f"{position}.{number}")
        except RecordError:
            await self._store_unreadable(kept, position)

    def _left(self, job: Job, position: int) -> Job | None:
        """Return a job with the recipients of which no later record is in the file."""
        release = job.release.id if job.release else ""
        left = tuple(
            recipient
            for recipient in job.recipients
            if self._late.get((job.submission, recipient.number, release), 0) <= position
        )
        return replace(job, recipients=left) if left else None

    async def _store_job(self, job: Job, number: str) -> None:
        if job.resend_of:
            return
        lane = lane_for(job.due - self._clock())
        subject = self._names.lane_subject(lane, body_token(job))
        await self._publish(subject, encode_jobs([job]), number)

    async def _store_failed(self, kept: Kept, position: int) -> None:
        record = decode_failed(kept.payload)
        if self._left(record.job, position):
            await self._failed.store(replace(record, resending=None))

    async def _store_captured(self, kept: Kept, position: int) -> None:
        record = decode_capture(kept.payload)
        job = self._left(record.job, position)
        if job is None:
            return
        payload = encode_capture(CaptureRecord(job, record.captured_at))
        subject = f"{self._names.prefix}.capture.{kept.place}"
        await self._publish_if_free(Record(subject, payload, "", ONLY_IF_FREE))

    async def _store_unreadable(self, kept: Kept, position: int) -> None:
        """Put a record as it is where it is told apart: a sender sets it aside with its reason."""
        if kept.kind is Kind.FAILED:
            subject = f"{self._names.prefix}.failed.{kept.place}"
            headers = ONLY_IF_FREE | kept.headers
            await self._publish_if_free(Record(subject, kept.payload, "", headers))
        elif kept.kind is Kind.CAPTURED:
            subject = f"{self._names.prefix}.capture.{kept.place}"
            await self._publish_if_free(Record(subject, kept.payload, "", ONLY_IF_FREE))
        else:
            subject = f"{self._names.lane_subject(NOW, None)[:-1]}{kept.place}"
            await self._publish(subject, kept.payload, f"{position}")

    async def _publish(self, subject: str, payload: bytes, number: str) -> None:
        message_id = f"restore/{self._id}/{number}"
        await self._publisher.store(Record(subject, payload, message_id))

    async def _publish_if_free(self, record: Record) -> None:
        try:
            await self._publisher.store(record)
        except QueueMovedOnError:
            return
