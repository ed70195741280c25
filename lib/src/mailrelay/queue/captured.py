"""The captured mail: jobs kept because there was no upstream (queue rule 9).

A record stays until somebody deletes it or the stream's limit pushes it out. Releasing one puts a
job into lane `now` and leaves the record where it is.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any, Final

from mailrelay.mail.ids import QueueId
from mailrelay.mail.job import CaptureRecord, Release
from mailrelay.queue import leader
from mailrelay.queue.bodies import body_token
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.events import BatchReader, StoredMessage
from mailrelay.queue.lanes import NOW
from mailrelay.queue.names import Names
from mailrelay.queue.publish import Record
from mailrelay.queue.wire import RecordError, decode_capture, encode_jobs
from mailrelay.runtime.steps import passed

# A place that is taken stays as it is. Overwritten, its record would come back after the one on top
# was deleted and nats-server killed (docs/decisions/0025).
ONLY_IF_FREE: Final = {"Nats-Expected-Last-Subject-Sequence": "0"}
_PAGE = 16  # each may carry a megabyte


@dataclass(frozen=True, slots=True)
class StoredCapture:
    """A record and its place; `record` is None when it cannot be read."""

    submission: QueueId
    place: str  # the last token of its subject: job number and hash of the recipients
    sequence: int
    size_bytes: int
    record: CaptureRecord | None


class CaptureStore:
    """Reads and deletes captured mail over one connection."""

    def __init__(self, connection: QueueConnection) -> None:
        self._connection = connection
        self._names = connection.names
        self._prefix = f"{self._names.prefix}.capture"

    async def last_sequence(self) -> int:
        """Return the sequence number of the newest record so far. Raises QueueError."""
        info = await leader.stream_info(self._connection, self._names.capture_stream)
        return int(info["state"]["last_seq"])

    async def count(self) -> int:
        """Return how many records there are. Raises QueueError."""
        info = await self._connection.api(f"STREAM.INFO.{self._names.capture_stream}")
        return int(info["state"]["messages"])

    async def read(
        self, after: int, batch: int = _PAGE, submission: QueueId | None = None
    ) -> list[StoredCapture]:
        """Return the records behind sequence `after`, of one submission or of all.

        Raises QueueUnavailableError.
        """
        which = f"{self._names.prefix}.capture.{submission or '*'}.*"
        reader = BatchReader(self._connection, self._names.capture_stream, which)
        return [_stored(message) for message in await reader.read(after + 1, batch)]

    async def walk(self, submission: QueueId | None = None) -> AsyncIterator[StoredCapture]:
        """Yield the records of one submission or of all, oldest first, in pages."""
        after = 0
        while page := await self.read(after, submission=submission):
            for captured in page:
                after = captured.sequence
                yield captured

    async def again(self, captured: StoredCapture) -> StoredCapture | None:
        """Return a record while it is there; None when the stream's one leader has it no more.

        Raises QueueError, also while it is not known who leads.
        """
        found = await self._at(f"{self._prefix}.{captured.submission}.{captured.place}")
        return found if found is not None and found.sequence == captured.sequence else None

    async def first_behind(self, after: int) -> StoredCapture | None:
        """Return the record that follows sequence `after`, as the stream's leader has it.

        Whom `read` asked may lag behind. None takes 1.5 s to tell. Raises QueueError.
        """
        which: dict[str, object] = {"seq": after + 1, "next_by_subj": f"{self._prefix}.>"}
        stream = self._names.capture_stream
        found = await leader.message(self._connection, stream, which)
        if found is None:
            await leader.wait_heard(self._connection, stream)
            found = await leader.message(self._connection, stream, which)
        return _found(found)

    async def records_of(self, submission: QueueId) -> list[StoredCapture]:
        """Return a submission's records, in order, as the stream's one leader has them.

        Raises QueueError, also while it is not known who leads.
        """
        info = await leader.stream_info(
            self._connection,
            self._names.capture_stream,
            subjects=f"{self._prefix}.{submission}.*",
        )
        found = [await self._at(subject) for subject in info["state"].get("subjects") or {}]
        return sorted((one for one in found if one is not None), key=lambda one: one.sequence)

    async def _at(self, subject: str) -> StoredCapture | None:
        stream = self._names.capture_stream
        return _found(await leader.last_message(self._connection, stream, subject))

    async def delete(self, submission: QueueId) -> int:
        """Delete a submission's records; return how many. Raises QueueError."""
        return await self._purge(f"{self._names.prefix}.capture.{submission}.*", 0)

    async def delete_all(self, up_to: int) -> int:
        """Delete every record up to a sequence number; return how many. Raises QueueError."""
        return await self._purge(f"{self._names.prefix}.capture.>", up_to + 1)

    async def _purge(self, which: str, before: int) -> int:
        body: dict[str, object] = {"filter": which}
        if before:
            body["seq"] = before
        answer = await self._connection.api(
            f"STREAM.PURGE.{self._names.capture_stream}", body, timeout_seconds=10
        )
        passed("captured.deleted")
        return int(answer.get("purged", 0))


def release_record(captured: StoredCapture, release: Release, names: Names) -> Record | None:
    """Return the record that releases a captured one; None when that cannot be read.

    Its message id is the request's id and the captured place: a request that is repeated within
    the server's duplicate window stores nothing twice.
    """
    if captured.record is None:
        return None
    of_one = hashlib.sha256(
        f"{release.id}/{captured.submission}/{captured.place}".encode()
    ).hexdigest()[:16]
    job = replace(
        captured.record.job,
        attempt=1,
        faults=0,
        hop=0,
        due=0.0,
        resend_of=0,
        release=replace(release, id=of_one),
    )
    subject = names.lane_subject(NOW, body_token(job))
    message_id = f"{job.submission}.{captured.place}.release/{of_one}"
    return Record(subject, encode_jobs([job]), message_id)


def _found(message: dict[str, Any] | None) -> StoredCapture | None:
    if message is None:
        return None
    payload = base64.b64decode(message.get("data", ""))
    return _stored(StoredMessage(message["subject"], int(message["seq"]), 0.0, payload))


def _stored(message: StoredMessage) -> StoredCapture:
    stem, _, place = message.subject.rpartition(".")
    try:
        record = decode_capture(message.payload)
    except RecordError:
        record = None
    return StoredCapture(
        QueueId(stem.rpartition(".")[2]), place, message.sequence, len(message.payload), record
    )
