"""The monitor's parts for failed and captured mail, on a real queue."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
from prometheus_client import CollectorRegistry

from mailrelay.mail.disposition import Disposition
from mailrelay.mail.event import Discarded
from mailrelay.mail.ids import QueueId
from mailrelay.mail.job import Body, CaptureRecord, FailedRecord, Job, Recipient, ResendMark, Try
from mailrelay.mail.reply import Reply
from mailrelay.queue.bodies import BodyStore
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.events import BatchReader, EventReader
from mailrelay.queue.failed import FailedStore, ResendClaim
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.wire import decode_jobs, encode_capture
from mailrelay_monitor.admin_parts import AdminParts
from mailrelay_monitor.collect import Collector
from tests.monitor.story import queue_id
from tests.support.wait import wait_until

REFUSED = Reply(550, "5.1.1", "nobody")
LATER = Reply(451, "4.7.1", "not now")


@dataclass
class Admin:
    """The monitor's parts for failed and captured mail, and a sender to store with."""

    parts: AdminParts
    client: httpx.AsyncClient
    sender: QueueConnection
    reader: QueueConnection  # the monitor's own
    store: FailedStore
    folder: Path
    registry: CollectorRegistry
    prompted: list[str]
    collector: Collector  # runs with the parts
    ahead: float = 0.0

    async def fail(self, job: Job, **changes: Any) -> FailedRecord:  # noqa: ANN401 — a field each
        made = replace(FailedRecord(job, Disposition.BOUNCED, time.time()), **changes)
        await self.store.store(made)
        return made

    async def claim(self, record: FailedRecord) -> ResendClaim:
        """Have a resend take the record up, whose job in the lane is gone by now."""
        last = await self.store.last(record.job.submission, record.recipient.number)
        assert last is not None
        mark = ResendMark("mailrelay-lane", 999_999, 1.0)
        claim = await self.store.claim_resend(replace(record.job, resend_of=last.sequence), mark)
        assert claim is not None
        return claim

    async def settle(self, record: FailedRecord, again: FailedRecord | None = None) -> None:
        """Do what a sender does with the resend of a record."""
        claim = await self.claim(record)
        if again is None:
            await self.store.store_done(record.job, claim)
        else:
            await self.store.store_again(again, claim)

    async def lane(self) -> list[Job]:
        found = await BatchReader(self.reader, "mailrelay-lane", "mailrelay.lane.>").read(1)
        return [decode_jobs(message.payload)[0] for message in found]

    def file(self, record: FailedRecord) -> Path:
        return self.parts.files.path(record.job.submission, record.recipient.number)

    async def wait_file(self, record: FailedRecord) -> dict[str, Any]:
        await wait_until(self.file(record).exists, 30, "the file is written")
        found: dict[str, Any] = json.loads(self.file(record).read_bytes())
        return found

    async def wait_gone(self, record: FailedRecord) -> None:
        await wait_until(lambda: not self.file(record).exists(), 30, "the file is gone")

    async def progress(self) -> dict[str, Any]:
        answer = (await self.client.get("/admin/retry-failed")).json()
        found: dict[str, Any] = answer["requests"][0]
        return found


def job(
    address: str = "r@to.example",
    *,
    sender: str = "a@from.example",
    reply: Reply = REFUSED,
    content: bytes = b"Subject: hi\r\n\r\ntext\r\n",
    submission: QueueId | None = None,
    **changes: Any,  # noqa: ANN401 — an option each
) -> Job:
    tries = (Try(1, time.time(), "mx.to.example:25", reply),)
    made = Job(
        submission=submission or queue_id(),
        batch=1,
        batches=1,
        total_recipients=1,
        accepted_at=time.time(),
        reverse_path=sender,
        recipients=(Recipient(0, address, tries),),
        size_bytes=len(content),
        content=content,
    )
    return replace(made, **changes)


async def discarded(admin: Admin) -> list[Discarded]:
    records = await EventReader(admin.reader).read(0)
    return [each for record in records for each in record.events if isinstance(each, Discarded)]


async def stored_body(admin: Admin, submission: QueueId) -> Body:
    store = BodyStore(admin.sender, Publisher(admin.sender))
    return await store.store_content(submission, b"Subject: b\r\n\r\n" + b"x" * 600_000)


async def captured(admin: Admin, made: Job | None = None) -> Job:
    made = made or job()
    subject = admin.sender.names.capture_subject(made.submission, made.batch, "hash")
    record = CaptureRecord(made, time.time())
    await Publisher(admin.sender).store(Record(subject, encode_capture(record), ""))
    return made


Start = Callable[..., Awaitable[Admin]]
