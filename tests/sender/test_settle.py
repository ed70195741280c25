"""Settling while the queue refuses: nothing is acked, and nothing that waits goes stale."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from pathlib import Path
from typing import cast

import structlog
from structlog.testing import LogCapture

from mailrelay.mail.disposition import Disposition, Outcome
from mailrelay.mail.ids import new_queue_id
from mailrelay.mail.job import Job, Recipient
from mailrelay.mail.reply import Reply
from mailrelay.mail.retry import RetrySchedule
from mailrelay.queue.bodies import BodyStore
from mailrelay.queue.consume import Claim, PullLoop
from mailrelay.queue.errors import QueueFullError
from mailrelay.queue.events import EventWriter
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.rights import Role
from mailrelay.queue.wire import encode_jobs
from mailrelay.runtime.logging import Logger
from mailrelay_cli.nats_server import find_nats_server
from mailrelay_sender.follow_up import follow_up
from mailrelay_sender.settle import REWRITE_BODY_SECONDS, Settler
from tests.support.nats import NatsServer, limits
from tests.support.wait import wait_until

ACCEPTED_AT = 1_700_000_000.0
SCHEDULE = RetrySchedule(10, 60, 2, 3600, 86400)
LATER = Outcome(0, Disposition.DEFERRED, Reply(451, "4.2.0", "later"), "next:25")


def logger(lines: LogCapture) -> Logger:
    wrapper = structlog.make_filtering_bound_logger(logging.INFO)
    return cast("Logger", structlog.wrap_logger(None, processors=[lines], wrapper_class=wrapper))


async def test_a_follow_up_that_is_held_up_for_long_writes_its_body_anew(tmp_path: Path) -> None:
    lines = LogCapture()
    log = logger(lines)
    server = NatsServer(find_nats_server(print), tmp_path / "server")
    server.start()
    now = ACCEPTED_AT
    content = b"Subject: x\r\n\r\n" + b"y" * 100_000
    submission = new_queue_id(ACCEPTED_AT, 7)
    job = Job(
        submission=submission,
        batch=1,
        batches=1,
        total_recipients=1,
        accepted_at=ACCEPTED_AT,
        reverse_path="ada@sender.test",
        recipients=(Recipient(0, "r@reader.test"),),
        size_bytes=len(content),
        content=content,
    )
    try:
        async with contextlib.AsyncExitStack() as stack:
            await server.ensure(log, limits(store_bytes=8_000_000))
            ingress = await stack.enter_async_context(server.connected(Role.INGRESS, log))
            sender = await stack.enter_async_context(server.connected(Role.SENDER, log))
            monitor = await stack.enter_async_context(server.connected(Role.MONITOR, log))
            names = sender.names
            await Publisher(ingress).store(
                Record(names.in_subject(None), encode_jobs([job]), submission)
            )
            publisher = Publisher(sender)
            for size in (900_000, 20_000, 100):
                with contextlib.suppress(QueueFullError):
                    for number in itertools.count():
                        filler = f"filler/{size}/{number}"
                        await publisher.store(Record("mailrelay.lane.4h.-", b"x" * size, filler))
            claims: asyncio.Queue[Claim] = asyncio.Queue()
            pull = PullLoop(
                sender, names.in_stream(), names.in_consumer, room=lambda: 1, take=claims.put
            )
            events = EventWriter(sender, publisher, lambda _: None)
            bodies = BodyStore(sender, publisher)
            watching = BodyStore(monitor, Publisher(monitor))
            settler = Settler(sender, events, bodies, log, lambda: now)
            tasks = [asyncio.create_task(pull.run()), asyncio.create_task(events.run())]
            rest = follow_up(job, [LATER], SCHEDULE, now=now, chance=0.5)
            claim = await asyncio.wait_for(claims.get(), 10)
            settling = asyncio.create_task(
                settler.settle(claim, job, rest, route="smarthost", duration_seconds=0.1)
            )

            async def chunks() -> int:
                info = await monitor.api(f"STREAM.INFO.{names.body_stream}")
                return int(info["state"]["messages"])

            async def is_written() -> bool:
                return await chunks() > 0 and bool(lines.entries)

            async def is_swept() -> bool:
                return await watching.delete_unused(submission) and await chunks() == 0

            await wait_until(is_written, 10, "the body is stored and its record refused")
            # Nobody names the body yet, so the question that the sweep asks lets it go.
            await wait_until(is_swept, 10, "the body is swept")
            now += REWRITE_BODY_SECONDS
            await wait_until(is_written, 10, "the body is written anew")
            assert not settling.done()
            await server.purge(log, names.lane_stream)
            await asyncio.wait_for(settling, 20)
            assert await watching.is_in_use(submission)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        server.kill()
