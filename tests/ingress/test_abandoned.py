"""Content that was stored of a message without a 250 is told, so that it need not wait for a sweep.

Not when a job that names it may be stored all the same: then only its age tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from mailrelay.mail.event import Abandoned
from mailrelay.mail.ids import QueueId
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.events import EventReader, EventWriter
from mailrelay.queue.publish import Publisher
from mailrelay.queue.rights import Role
from mailrelay.runtime import steps
from mailrelay.runtime.lifecycle import end_tasks
from mailrelay.runtime.logging import Logger
from mailrelay.runtime.tracing import tracing_from_environ
from mailrelay_ingress import replies
from mailrelay_ingress.accept import Submission
from mailrelay_ingress.enqueue import Enqueuer, Intake
from mailrelay_ingress.memory import MemoryBudget
from mailrelay_ingress.session import Client, Transaction
from tests.support.nats import LIMITS, NatsServer, limits
from tests.support.wait import wait_until

PIECE = (b"y" * 62 + b"\r\n") * 1024  # 64 KB
LARGE = 25  # pieces: three chunks and a bit
COPIED = 2  # pieces: stored as a body when there are several jobs


@dataclass
class Taking:
    """The part of ingress that stores, on a real server."""

    enqueuer: Enqueuer
    monitor: QueueConnection
    began_after: int

    async def begin(self, pieces: int, recipients: int = 1) -> Intake:
        # Neither 8BITMIME nor SMTPUTF8.
        transaction = Transaction("a@example.org")
        for number in range(recipients):
            transaction.add(f"r{number}@example.com")
        submission = Submission.begin(Client("127.0.0.1", is_local=True), transaction, "relay.test")
        share = MemoryBudget().share()
        intake = self.enqueuer.begin(submission, share, lambda _: None)
        await intake.add(b"Subject: x\r\n\r\n")
        for _ in range(pieces):
            await intake.add(PIECE)
        return intake

    async def told(self) -> list[QueueId]:
        """Which submissions' content was told to be left behind."""
        records = await EventReader(self.monitor).read(self.began_after)
        events = [event for record in records for event in record.events]
        return [each.summary.submission for each in events if isinstance(each, Abandoned)]

    async def chunks(self) -> int:
        info = await self.monitor.api("STREAM.INFO.mailrelay-body")
        return int(info["state"]["messages"])

    async def wait_told(self, intake: Intake) -> None:
        async def is_told() -> bool:
            return await self.told() == [intake.submission.queue_id]

        await wait_until(is_told, 10, "it is told")


@pytest.fixture
async def taking(server: NatsServer, log: Logger) -> AsyncIterator[Taking]:
    await server._reset(log, LIMITS)
    async with (
        server.connected(Role.INGRESS, log) as connection,
        server.connected(Role.MONITOR, log) as monitor,
    ):
        events = EventWriter(connection, Publisher(connection), lambda _: None)
        enqueuer = Enqueuer(connection, events, tracing_from_environ("ingress", {}), log, 20)
        info = await monitor.api("STREAM.INFO.mailrelay-event")
        running = asyncio.ensure_future(events.run())
        yield Taking(enqueuer, monitor, int(info["state"]["last_seq"]))
        await end_tasks([running])
    await server._reset(log, LIMITS)


@pytest.mark.parametrize(("pieces", "recipients"), [(LARGE, 1), (COPIED, 21)])
async def test_content_of_mail_that_a_full_queue_refused_is_told(
    taking: Taking, server: NatsServer, log: Logger, pieces: int, recipients: int
) -> None:
    await server.ensure(log, limits(queue_size=1))
    filling = await taking.begin(0)
    assert (await taking.enqueuer.finish(filling)).code == 250
    intake = await taking.begin(pieces, recipients)
    assert await taking.enqueuer.finish(intake) == replies.QUEUE_FULL
    await intake.abandon()
    assert await taking.chunks() > 0
    await taking.wait_told(intake)


async def test_content_of_mail_that_was_refused_for_itself_is_told(taking: Taking) -> None:
    intake = await taking.begin(LARGE)
    intake.refuse(replies.TOO_BIG)
    assert await taking.enqueuer.finish(intake) == replies.TOO_BIG
    await intake.abandon()
    await taking.wait_told(intake)


async def test_content_of_a_client_that_went_away_is_told(taking: Taking) -> None:
    intake = await taking.begin(LARGE)
    await intake.abandon()
    await taking.wait_told(intake)


async def test_of_what_was_accepted_or_never_stored_nothing_is_told(taking: Taking) -> None:
    large = await taking.begin(LARGE)
    assert (await taking.enqueuer.finish(large)).code == 250
    await large.abandon()
    small = await taking.begin(1)
    small.refuse(replies.TOO_BIG)
    await small.abandon()
    last = await taking.begin(LARGE)
    await last.abandon()
    await taking.wait_told(last)  # and nothing before it


async def test_of_mail_whose_job_may_be_stored_yet_nothing_is_told(
    taking: Taking, server: NatsServer, log: Logger
) -> None:
    """The client is told 451, and then the server goes on and stores the job."""
    intake = await taking.begin(LARGE)

    def freeze(step: str) -> None:
        if step == "enqueue.chunks_stored":
            server.freeze()

    steps.listen(freeze)
    try:
        assert await taking.enqueuer.finish(intake) == replies.QUEUE_UNREACHABLE
    finally:
        steps.listen(None)
        server.thaw()
    await intake.abandon()

    async def is_stored() -> bool:
        async with server.connected(Role.ADMIN, log) as admin:
            info = await admin.api("STREAM.INFO.mailrelay-in-0")
        return int(info["state"]["messages"]) > 0

    await wait_until(is_stored, 15, "the job is stored behind the client's 451")
    after = await taking.begin(LARGE)
    await after.abandon()

    async def is_told() -> bool:
        return after.submission.queue_id in await taking.told()

    await wait_until(is_told, 15, "what came after it is told")
    assert await taking.told() == [after.submission.queue_id]
