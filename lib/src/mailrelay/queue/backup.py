"""Read the whole queue into a file, also while mail flows.

Streams are read one after the other, in the order in which records move on (new, lanes, failed,
captured), each from its oldest record to its newest. A record is stored before the one that it
follows is acked, and moves back by a resend or a release alone, so each recipient that is open all
the while is met at least once. One that is met twice counts once (`mailrelay.queue.backup_file`).
A job whose delivery ended behind its reading is in the file all the same.

What is left out: tombstones, resends under way (their failed record is there), releases that begin
while it is made (their captured record is there), events, totals, counters of rate limits. The
monitor's rights are enough.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field

from mailrelay.mail.job import Job
from mailrelay.queue import leader
from mailrelay.queue.backup_file import FORMAT, BackupWriter, Chunk, End, Head, Kept, Kind, Late
from mailrelay.queue.bodies import BodyStore, BodyUnreadableError, body_token
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.events import BatchReader, StoredMessage, epoch_seconds
from mailrelay.queue.publish import Publisher, repeat_while_away
from mailrelay.queue.wire import RecordError, decode_capture, decode_failed, decode_jobs

_PAGE = 64
# Clocks of several servers differ; a record that is called late and is not does no harm.
_SLACK_SECONDS = 60.0
_OWN_HEADERS = "Mailrelay-"


@dataclass(slots=True)
class Backup:
    """What became of it."""

    made_at: float
    records: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(Kind, 0))
    without_content: int = 0  # their large content was gone before


async def back_up(connection: QueueConnection, writer: BackupWriter) -> Backup:
    """Write all that is queued, failed and captured. Raises QueueError, BackupError."""
    names = connection.names
    info = await leader.stream_info(connection, names.in_stream())
    made_at = epoch_seconds(str(info.get("ts", "")))
    writer.write(Head(FORMAT, made_at, names.prefix))
    reading = _Reading(connection, writer, Backup(made_at))
    await reading.read(Kind.NEW, names.in_stream(), f"{names.prefix}.in.0.>", 1)
    await reading.read(Kind.LANE, names.lane_stream, f"{names.prefix}.lane.>", 1)
    await reading.read(Kind.FAILED, names.failed_stream, f"{names.prefix}.failed.>", 2)
    await reading.read(Kind.CAPTURED, names.capture_stream, f"{names.prefix}.capture.>", 2)
    writer.write(End(writer.records))
    return reading.done


class _Reading:
    def __init__(self, connection: QueueConnection, writer: BackupWriter, done: Backup) -> None:
        self._connection = connection
        self._writer = writer
        self._bodies = BodyStore(connection, Publisher(connection))
        # Submissions with large content of which a record was written, also of those that have it
        # inside: who settles one of them may write it, and it is deleted behind that.
        self._met: set[str] = set()
        self.done = done

    async def read(self, kind: Kind, stream: str, subjects: str, tokens: int) -> None:
        """Read a stream to its end; `tokens` of a subject are a record's place."""
        reader = BatchReader(self._connection, stream, subjects)
        after = 0
        while True:
            page = await repeat_while_away(functools.partial(reader.read, after + 1, _PAGE))
            for message in page:
                after = message.sequence
                await self._keep(kind, stream, message, tokens)
            if not page and not await self._is_more(stream, subjects, after):
                return

    async def _is_more(self, stream: str, subjects: str, after: int) -> bool:
        """Ask the stream's leader: whoever answered may be behind it."""
        which: dict[str, object] = {"seq": after + 1, "next_by_subj": subjects}
        return bool(
            await repeat_while_away(lambda: leader.message(self._connection, stream, which))
        )

    async def _keep(self, kind: Kind, stream: str, message: StoredMessage, tokens: int) -> None:
        if not message.payload:
            return  # a tombstone
        jobs = _jobs(kind, message.payload)
        if kind is Kind.LANE and jobs and all(job.resend_of for job in jobs):
            return
        if not await self._keep_content(jobs, stream, message.sequence):
            return
        place = ".".join(message.subject.split(".")[-tokens:])
        headers = {k: v for k, v in message.headers.items() if k.startswith(_OWN_HEADERS)}
        self._writer.write(Kept(kind, place, message.payload, headers))
        self.done.records[kind] += 1
        self._met.update(filter(None, map(body_token, jobs)))
        if message.stored_at >= self.done.made_at - _SLACK_SECONDS:
            for late in _late(jobs):
                self._writer.write(late)

    async def _keep_content(self, jobs: list[Job], stream: str, sequence: int) -> bool:
        """Write the large content of a record; False when the record was settled meanwhile."""
        named = [job for job in jobs if job.body is not None]
        if not named:
            return True
        job = named[0]  # a record is of one submission
        is_again = job.submission in self._met or len(named) > 1  # each is restored by itself
        number = 0
        try:
            async for piece in self._bodies.pieces(job):
                self._writer.write(Chunk(job.submission, number, piece, is_again))
                number += 1
        except BodyUnreadableError:
            if await leader.message_at(self._connection, stream, sequence) is None:
                return False
            self.done.without_content += 1
        return True


def _jobs(kind: Kind, payload: bytes) -> list[Job]:
    """Return what is in a record; nothing when it cannot be read: it is kept as it is."""
    try:
        match kind:
            case Kind.FAILED:
                return [decode_failed(payload).job]
            case Kind.CAPTURED:
                return [decode_capture(payload).job]
            case _:
                return decode_jobs(payload)
    except RecordError:
        return []


def _late(jobs: list[Job]) -> Iterator[Late]:
    for job in jobs:
        release = job.release.id if job.release else ""
        for recipient in job.recipients:
            yield Late(job.submission, recipient.number, release)
