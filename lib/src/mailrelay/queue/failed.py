"""The failed store: what could not be delivered, one record a recipient (queue rule 8).

A record has one place (`….failed.<submission>.<recipient no.>`), so storing it again changes
nothing. Once its recipient was resent with success a `done` tombstone (an empty record that goes
after an hour) takes its place, before the resend's own record is acked.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass

from mailrelay.mail.ids import QueueId
from mailrelay.mail.job import FailedRecord, Job
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.errors import QueueRefusedError
from mailrelay.queue.events import BatchReader
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.wire import RecordError, decode_failed, encode_failed

_NOT_FOUND = 10037
_TOMBSTONE_TTL = "1h"  # longer than any resend of the same record may still be under way
_PAGE = 64


@dataclass(frozen=True, slots=True)
class StoredFailure:
    """A failed record and its place; `record` is None when it cannot be read."""

    sequence: int
    record: FailedRecord | None


class FailedStore:
    """Reads and writes the failed store over one connection."""

    def __init__(self, connection: QueueConnection, publisher: Publisher) -> None:
        self._connection = connection
        self._publisher = publisher
        self._names = connection.names
        self._reader = BatchReader(
            connection, self._names.failed_stream, f"{self._names.prefix}.failed.>"
        )

    async def store(self, record: FailedRecord, message_id: str) -> None:
        """Store a failure, idempotently. Raises as Publisher.store does."""
        subject = self._names.failed_subject(record.job.submission, record.recipient.number)
        await self._publisher.store(Record(subject, encode_failed(record), message_id))

    async def store_done(self, job: Job, message_id: str) -> None:
        """Put the tombstone in place of a record whose resend succeeded."""
        subject = self._names.failed_subject(job.submission, job.recipients[0].number)
        tombstone = Record(subject, b"", message_id, {"Nats-TTL": _TOMBSTONE_TTL})
        await self._publisher.store(tombstone)

    async def last_sequence(self, submission: QueueId, recipient: int) -> int:
        """Return the sequence of the recipient's record, 0 when it is gone or done.

        Asked of the stream's leader. Raises QueueError.
        """
        subject = self._names.failed_subject(submission, recipient)
        try:
            answer = await self._connection.api(
                f"STREAM.MSG.GET.{self._names.failed_stream}", {"last_by_subj": subject}
            )
        except QueueRefusedError as error:
            if error.err_code == _NOT_FOUND:
                return 0
            raise
        message = answer["message"]
        return int(message["seq"]) if base64.b64decode(message.get("data", "")) else 0

    async def last_of(self, submission: QueueId) -> FailedRecord | None:
        """Return the submission's record that was stored last; None when there is none.

        None too when a tombstone is the last or it cannot be read. Raises QueueError.
        """
        subject = f"{self._names.prefix}.failed.{submission}.*"
        try:
            answer = await self._connection.api(
                f"STREAM.MSG.GET.{self._names.failed_stream}", {"last_by_subj": subject}
            )
        except QueueRefusedError as error:
            if error.err_code == _NOT_FOUND:
                return None
            raise
        payload = base64.b64decode(answer["message"].get("data", ""))
        return _readable(payload) if payload else None

    async def walk(self) -> AsyncIterator[StoredFailure]:
        """Yield every failure, oldest first, in pages. Raises QueueUnavailableError."""
        after = 0
        while True:
            page = await self._reader.read(after + 1, _PAGE)
            if not page:
                return
            for message in page:
                after = message.sequence
                if message.payload:
                    yield StoredFailure(message.sequence, _readable(message.payload))


def _readable(payload: bytes) -> FailedRecord | None:
    try:
        return decode_failed(payload)
    except RecordError:
        return None
