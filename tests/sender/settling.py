"""A settler on a real server, with one job claimed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import structlog
from structlog.testing import LogCapture

from mailrelay.mail.ids import new_queue_id
from mailrelay.mail.job import Job, Recipient
from mailrelay.queue.bodies import BodyStore
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.consume import Claim, PullLoop
from mailrelay.queue.events import EventWriter
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.rights import Role
from mailrelay.queue.streams import QueueLimits
from mailrelay.queue.wire import encode_jobs
from mailrelay.runtime.logging import Logger
from mailrelay_cli.nats_server import find_nats_server
from mailrelay_sender.settle import Settler
from tests.support.nats import NatsServer

ACCEPTED_AT = 1_700_000_000.0


def logger(lines: LogCapture) -> Logger:
    wrapper = structlog.make_filtering_bound_logger(logging.INFO)
    return cast("Logger", structlog.wrap_logger(None, processors=[lines], wrapper_class=wrapper))


@dataclass
class Rig:
    """A settler on a real server, with one job claimed."""

    server: NatsServer
    lines: LogCapture
    log: Logger
    sender: QueueConnection
    monitor: QueueConnection
    settler: Settler
    job: Job
    claims: asyncio.Queue[Claim]
    pull: PullLoop
    now: float = ACCEPTED_AT
    room: int = 1

    async def claim(self) -> Claim:
        return await asyncio.wait_for(self.claims.get(), 15)


@contextlib.asynccontextmanager
async def rig(folder: Path, queue_limits: QueueLimits) -> AsyncIterator[Rig]:
    lines = LogCapture()
    log = logger(lines)
    server = NatsServer(find_nats_server(print), folder / "server")
    server.start()
    content = b"Subject: x\r\n\r\n" + b"y" * 100_000
    job = Job(
        submission=new_queue_id(ACCEPTED_AT, 7),
        batch=1,
        batches=1,
        total_recipients=1,
        accepted_at=ACCEPTED_AT,
        reverse_path="ada@sender.test",
        recipients=(Recipient(0, "r@reader.test"),),
        size_bytes=len(content),
        content=content,
    )
    tasks = []
    try:
        async with contextlib.AsyncExitStack() as stack:
            await server.ensure(log, queue_limits)
            ingress = await stack.enter_async_context(server.connected(Role.INGRESS, log))
            sender = await stack.enter_async_context(server.connected(Role.SENDER, log))
            monitor = await stack.enter_async_context(server.connected(Role.MONITOR, log))
            names = sender.names
            await Publisher(ingress).store(
                Record(names.in_subject(None), encode_jobs([job]), job.submission)
            )
            claims: asyncio.Queue[Claim] = asyncio.Queue()
            pull = PullLoop(
                sender,
                names.in_stream(),
                names.in_consumer,
                room=lambda: made.room,
                take=claims.put,
            )
            publisher = Publisher(sender)
            events = EventWriter(sender, publisher, lambda _: None)
            bodies = BodyStore(sender, publisher, lambda: made.now)
            settler = Settler(sender, events, bodies, log, lambda: made.now)
            made = Rig(server, lines, log, sender, monitor, settler, job, claims, pull)
            tasks = [asyncio.create_task(pull.run()), asyncio.create_task(events.run())]
            yield made
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        server.kill()
