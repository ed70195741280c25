"""Large content, stored once in chunks and read back in pieces (queue rules 3 and 10).

A chunk has one place (`….body.<submission>.<n>`), and writing it again changes nothing; so it
needs no message id, and a body can be written anew after it was deleted.
"""

from __future__ import annotations

import base64
import enum
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from mailrelay.mail.ids import QueueId
from mailrelay.mail.job import Body, Job
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.epoch import Epoch
from mailrelay.queue.errors import QueueError, QueueRefusedError, QueueUnavailableError
from mailrelay.queue.leader import is_replicated, stream_info
from mailrelay.queue.publish import DEADLINE_SECONDS, Publisher, Record, repeat_while_away
from mailrelay.runtime.steps import passed

CHUNK_BYTES = 512 * 1024  # measured: 7.5 MB in 12 ms with four in flight
MAX_INLINE_BYTES = 1024 * 1024  # larger content always lives in the body stream
# Content above this goes to the body stream the first time it would be written twice.
MAX_COPIED_BYTES = 64 * 1024
# Until a record names them, chunks are kept by their age alone: half of what the monitor gives them
# (UNSPOKEN_AGE_SECONDS there).
MAX_UNNAMED_SECONDS = 30 * 60
_NOT_FOUND = 10037


def body_token(job: Job) -> QueueId | None:
    """Return what a job's subject names: the body that it has, or that its settling may write.

    A sender writes large inline content to the body stream before it stores the record that names
    it. Meanwhile only the job's own record keeps that body from being deleted (queue rule 10).
    """
    return job.submission if job.body or len(job.content) > MAX_COPIED_BYTES else None


@dataclass(frozen=True, slots=True)
class Writing:
    """When a body's chunks began to be written, and to which life of the stream."""

    epoch: str
    at: float  # seconds since the epoch, by the wall: a machine may sleep meanwhile


class Deletion(enum.Enum):
    """What became of a body that was to be deleted."""

    DONE = "done"
    IN_USE = "in use"
    UNCONFIRMED = "unconfirmed"  # nothing names it, as far as is known: look again


class BodyLostError(QueueError):
    """Chunks that were written and that no record names yet may be gone: write them anew."""


class BodyUnreadableError(QueueError):
    """A chunk is missing or not what was written. For a sender that is a temporary failure."""


class BodyStore:
    """Writes and reads bodies over one connection."""

    def __init__(
        self,
        connection: QueueConnection,
        publisher: Publisher,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        self._names = connection.names
        self._clock = clock
        self._epoch = Epoch.of_stream(connection, connection.names.body_stream)

    async def begin(self) -> Writing:
        """Note that chunks are about to be written.

        As patient as storing is: a queue that restarts is waited for. Raises QueueError.
        """
        return Writing(await repeat_while_away(self._epoch.current), self._clock())

    async def check(self, writing: Writing) -> None:
        """Look whether a record may name chunks that were written.

        Raises BodyLostError when they may be gone, QueueError when that cannot be told.
        """
        if await self._epoch.current() != writing.epoch:
            raise BodyLostError("the queue lost its data since the content was stored")
        if self._clock() - writing.at >= MAX_UNNAMED_SECONDS:
            raise BodyLostError("the content was stored too long ago")

    async def store_chunk(
        self,
        submission: QueueId,
        chunk: int,
        payload: bytes,
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> None:
        """Write one chunk. Raises as Publisher.store does."""
        record = Record(self._names.body_subject(submission, chunk), payload, "")
        await self._publisher.store(record, deadline_seconds=deadline_seconds)
        passed("body.chunk_stored")

    async def store_content(self, submission: QueueId, content: bytes) -> Body:
        """Write content that is in memory already. Raises as Publisher.store does."""
        pieces = range(0, len(content), CHUNK_BYTES)
        for chunk, start in enumerate(pieces):
            await self.store_chunk(submission, chunk, content[start : start + CHUNK_BYTES])
        return Body(len(pieces), len(content), hashlib.sha256(content).hexdigest())

    async def pieces(self, job: Job) -> AsyncIterator[bytes]:
        """Yield a job's content in order, from wherever it lives, checked against its hash.

        Raises BodyUnreadableError, before the last piece when the hash is wrong.
        """
        if job.body is None:
            yield job.content
            return
        digest = hashlib.sha256()
        for chunk in range(job.body.chunks):
            piece = await self._read(self._names.body_subject(job.submission, chunk))
            digest.update(piece)
            if chunk == job.body.chunks - 1 and digest.hexdigest() != job.body.sha256:
                msg = f"the body of {job.submission} is not what was written"
                raise BodyUnreadableError(msg)
            yield piece

    async def is_in_use(self, submission: QueueId) -> bool:
        """Ask the stream leaders whether any record may still name the body.

        A `done` tombstone in the failed store names nothing. Raises QueueError, also when an answer
        may not be the leader's: then nothing is known.
        """
        for stream, subject in self._names.records_with_body(submission):
            info = await stream_info(self._connection, stream, subjects=subject)
            if not info["state"].get("subjects"):
                continue
            if stream != self._names.failed_stream or await self._any_failed(submission):
                return True
        return False

    async def delete_unused(self, submission: QueueId, *, confirms: bool = False) -> Deletion:
        """Remove all chunks unless a record may name them.

        Where there are several servers one look deletes nothing: in the moment in which a leader
        that stood still goes on, it believes that it was heard just now (`mailrelay.queue.leader`).
        `confirms`: a look at least `leader.SPOKEN_SECONDS` ago gave UNCONFIRMED.

        Only chunks stored before the question are removed: a repeated job may write them anew
        meanwhile. Raises QueueError: no look before it counts any more.
        """
        stream = self._names.body_stream
        info = await stream_info(self._connection, stream)
        in_use = await self.is_in_use(submission)
        passed("body.asked")
        if in_use:
            return Deletion.IN_USE
        if is_replicated(info) and not confirms:
            return Deletion.UNCONFIRMED
        await self._connection.api(
            f"STREAM.PURGE.{stream}",
            {
                "filter": f"{self._names.prefix}.body.{submission}.>",
                "seq": int(info["state"]["last_seq"]) + 1,
            },
        )
        passed("body.purged")
        return Deletion.DONE

    async def _any_failed(self, submission: QueueId) -> bool:
        """Look whether any failed record is more than a tombstone."""
        sequence = 0
        stream = self._names.failed_stream
        subject = f"{self._names.prefix}.failed.{submission}.*"
        while True:
            try:
                answer = await self._connection.api(
                    f"STREAM.MSG.GET.{stream}", {"seq": sequence + 1, "next_by_subj": subject}
                )
            except QueueRefusedError as error:
                if error.err_code == _NOT_FOUND:
                    return False
                raise
            if not _is_empty(answer):
                return True
            sequence = int(answer["message"]["seq"])

    async def _read(self, subject: str) -> bytes:
        stream = self._names.body_stream
        try:
            answer = await self._connection.request(f"$JS.API.DIRECT.GET.{stream}.{subject}")
        except QueueUnavailableError as error:
            msg = f"{subject}: {error}"
            raise BodyUnreadableError(msg) from error
        if "Status" not in (answer.headers or {}):
            return answer.data
        # A replica may lag behind; only the leader's word counts.
        try:
            found = await self._connection.api(
                f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject}
            )
        except QueueError as error:
            msg = f"{subject}: {error}"
            raise BodyUnreadableError(msg) from error
        return base64.b64decode(found["message"].get("data", ""))


def _is_empty(answer: dict[str, Any]) -> bool:
    return not answer["message"].get("data")
