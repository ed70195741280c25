"""Resends and releases against each other, against crashes at each step, on real processes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import structlog

from mailrelay.mail.disposition import Disposition
from mailrelay.mail.event import Attempted
from mailrelay.mail.ids import new_queue_id
from mailrelay.mail.job import FailedRecord, Job, Recipient, Release, Try
from mailrelay.mail.reply import Reply as StoredReply
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.events import BatchReader
from mailrelay.queue.failed import FailedStore
from mailrelay.queue.lanes import NOW
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.rights import Role
from mailrelay.queue.wire import decode_events, encode_jobs
from mailrelay.runtime.logging import Logger
from mailrelay_cli.nats_server import find_nats_server
from tests.sender.sender_process import running_sender
from tests.support.extensions import Extensions
from tests.support.nats import LIMITS, NatsServer
from tests.support.relay import QUICK_RETRY, forwarding_to
from tests.support.replies import Reply
from tests.support.scripting import Accept, Delay, Stage
from tests.support.scripts import fail_at, per_recipient
from tests.support.upstream import ScriptedUpstream
from tests.support.wait import wait_until

TO = "r@reader.test"
REFUSED = Reply(550, "5.1.1 no such user")
SHORT = {"queue": {"ackWaitSeconds": 1}}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(find_nats_server(print), tmp_path / "server")
    server.start()
    yield server
    server.kill()


class Rig:
    """What the monitor and a failed attempt stored, and what is left of it."""

    def __init__(self, sender: QueueConnection, monitor: QueueConnection) -> None:
        self.failed = FailedStore(sender, Publisher(sender))
        self.publisher = Publisher(monitor)
        self.monitor = monitor
        content = b"Subject: x\r\n\r\nhi\r\n"
        now = time.time()
        tried = Try(1, now, "next:25", StoredReply(451, "4.2.0", "later"))
        self.job = Job(
            submission=new_queue_id(now, 7),
            batch=1,
            batches=1,
            total_recipients=1,
            accepted_at=now - 1,
            reverse_path="ada@sender.test",
            recipients=(Recipient(0, TO, (tried,)),),
            size_bytes=len(content),
            content=content,
        )

    async def fail(self) -> int:
        await self.failed.store(FailedRecord(self.job, Disposition.EXPIRED, time.time()))
        last = await self.failed.last(self.job.submission, 0)
        assert last is not None
        return last.sequence

    async def queue(self, job: Job, message_id: str) -> None:
        subject = self.monitor.names.lane_subject(NOW, None)
        await self.publisher.store(Record(subject, encode_jobs([job]), message_id))

    async def wait_lane_empty(self) -> None:
        async def is_empty() -> bool:
            info = await self.monitor.api(f"STREAM.INFO.{self.monitor.names.lane_stream}")
            return int(info["state"]["messages"]) == 0

        await wait_until(is_empty, 30, "the lane is empty")

    async def told(self) -> list[Disposition]:
        """What the events say of the recipient, in order."""
        names = self.monitor.names
        reader = BatchReader(self.monitor, names.event_stream, f"{names.prefix}.event.>")
        events = [
            event for record in await reader.read(1, 100) for event in decode_events(record.payload)
        ]
        return [
            outcome.disposition
            for event in events
            if isinstance(event, Attempted) and event.summary.submission == self.job.submission
            for outcome in event.outcomes
        ]

    async def is_done(self) -> bool:
        last = await self.failed.last(self.job.submission, 0)
        return last is not None and last.is_done


@pytest.fixture
async def rig(server: NatsServer) -> AsyncIterator[Rig]:
    log = cast("Logger", structlog.get_logger())
    await server.ensure(log, replace(LIMITS, ack_wait_seconds=1))
    async with contextlib.AsyncExitStack() as stack:
        sender = await stack.enter_async_context(server.connected(Role.SENDER, log))
        monitor = await stack.enter_async_context(server.connected(Role.MONITOR, log))
        yield Rig(sender, monitor)


@pytest.mark.timeout(120)
async def test_two_resends_beyond_the_duplicate_window_at_two_senders_are_one_delivery(
    rig: Rig, server: NatsServer, tmp_path: Path
) -> None:
    # Two at once of each of five records; other ids are what the end of the window comes to.
    async with ScriptedUpstream(fail_at(Stage.RCPT, Delay(0.5))) as upstream:
        jobs = []
        for number in range(5):
            rig.job = replace(rig.job, submission=new_queue_id(time.time(), number))
            jobs.append(replace(rig.job, resend_of=await rig.fail()))
        for number, job in enumerate(jobs):
            for turn in ("early", "late"):
                await rig.queue(job, f"{number}/{turn}")
        options = {**forwarding_to(upstream.port), **SHORT, "workerCount": 10}
        with (
            running_sender(tmp_path / "one", server, **options),
            running_sender(tmp_path / "two", server, **options),
        ):
            await rig.wait_lane_empty()
        assert len(upstream.received) == 5
        assert upstream.attempts[TO] == 5
        for job in jobs:
            rig.job = job
            assert await rig.is_done()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("good", [True, False], ids=["delivered", "refused"])
@pytest.mark.parametrize(
    ("kill_at", "deliveries"),
    [
        ("resend.claimed", {1}),
        # Behind the delivery and before the tombstone: what may be repeated (decision 0004).
        ("settle.failed_stored", {1}),
        ("settle.done_stored", {1}),
    ],
)
async def test_a_sender_killed_at_a_step_of_a_resend_leaves_one_end(
    rig: Rig,
    server: NatsServer,
    tmp_path: Path,
    kill_at: str,
    deliveries: set[int],
    good: bool,
) -> None:
    script = per_recipient({TO: Accept() if good else REFUSED})
    async with ScriptedUpstream(script) as upstream:
        options = {**forwarding_to(upstream.port), **SHORT}
        await rig.queue(replace(rig.job, resend_of=await rig.fail()), "early")
        await rig.queue(replace(rig.job, resend_of=1), "late")
        with running_sender(tmp_path / "one", server, kill_at=kill_at, **options) as first:
            reached = {True: "settle.failed_stored", False: "settle.done_stored"}[good] != kill_at
            if reached:
                await asyncio.to_thread(first.wait, 30)
            with running_sender(tmp_path / "two", server, **options):
                await rig.wait_lane_empty()
        assert await rig.is_done() == good
        last = await rig.failed.last(rig.job.submission, 0)
        assert last is not None
        if good:
            assert len(upstream.received) in deliveries
            assert await rig.told() == [Disposition.SENT], (
                "and a death in between keeps it from nobody"
            )
        else:
            assert last.record is not None
            assert last.record.resending is None
            assert len(last.record.recipient.tries) == 2, "the second resend was dropped untried"


@pytest.mark.timeout(120)
async def test_a_release_goes_to_its_hop_by_schedule_and_shows_it_no_credentials(
    rig: Rig, server: NatsServer, tmp_path: Path
) -> None:
    offers_auth = Extensions(auth=("PLAIN", "LOGIN"))
    later = per_recipient({TO: [Reply(450, "4.2.0 later"), Accept()]})
    async with (
        ScriptedUpstream(extensions=offers_auth) as upstream,
        ScriptedUpstream(later, extensions=offers_auth) as named,
    ):
        options = {
            **forwarding_to(upstream.port),
            "forwardUsername": "relay",
            "forwardPassword": "secret-word",
            "retry": QUICK_RETRY,
        }
        hop = f"127.0.0.1:{named.port}"
        old = replace(rig.job, accepted_at=time.time() - 30 * 24 * 3600)  # captured long ago
        for number in range(2):
            release = Release(str(number), time.time(), hop)
            await rig.queue(replace(old, release=release), f"named/{number}")
        await rig.queue(replace(old, release=Release("2", time.time())), "upstream")
        with running_sender(tmp_path / "one", server, **options):
            await named.wait_received(2, timeout=40)
            await upstream.wait_received(1, timeout=40)
            await rig.wait_lane_empty()
        assert [delivery.auth for delivery in named.received] == [None, None]
        assert [delivery.auth for delivery in upstream.received] == ["relay"]
        taken = Counter(to for each in named.received for to in each.rcpt_tos)
        assert taken == {TO: 2}, "releasing twice is two deliveries"
        assert "secret-word" not in (tmp_path / "one" / "log").read_text()
