"""One slot, and mail from everywhere at once: who is served when (queue rule 12)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from structlog.testing import LogCapture

from mailrelay.mail.job import Recipient
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.consume import Claim, PullLoop
from mailrelay.queue.lanes import LADDER
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.rights import Role
from mailrelay.queue.wire import encode_jobs
from mailrelay_cli.nats_server import find_nats_server
from mailrelay_sender.suspicion import SUSPICIOUS_DELIVERIES
from tests.lib.jobs import make_job, queue_id
from tests.sender.test_settle import logger
from tests.support.nats import LIMITS, NatsServer
from tests.support.relay import forwarding_to, relay_config
from tests.support.scripting import Delay, Stage
from tests.support.scripts import fail_at
from tests.support.upstream import ScriptedUpstream
from tests.support.wait import wait_until

NEW = "new"
LANES = {lane.name: lane for lane in LADDER}
SOURCES = (NEW, *LANES)


@dataclass
class Rig:
    """A queue, an upstream that takes its time, and the order in which it saw mail."""

    folder: Path
    server: NatsServer
    upstream: ScriptedUpstream
    ingress: QueueConnection
    sender: QueueConnection
    numbers: Iterator[int] = field(default_factory=itertools.count)
    seen: list[str] = field(default_factory=list)  # the sources of the recipients, in order

    async def store(self, source: str) -> None:
        """Put a job that is due where it waits: among the new mail or in a lane."""
        number = next(self.numbers)
        recipient = Recipient(0, f"{source}-{number}@reader.test")
        job = replace(make_job(1, submission=queue_id(number)), recipients=(recipient,))
        names = self.sender.names
        connection, subject = (
            (self.ingress, names.in_subject(None))
            if source == NEW
            else (self.sender, names.lane_subject(LANES[source], None))
        )
        record = Record(subject, encode_jobs([job]), f"{source}/{number}")
        await Publisher(connection).store(record)

    def note(self, address: str, _nth: int, _connection: int, _transaction: int) -> None:
        """Note a RCPT."""
        self.seen.append(address.partition("-")[0])

    @contextlib.asynccontextmanager
    async def one_slot(self, **options: object) -> AsyncIterator[Path]:
        """A sender process with one slot; its log."""
        config = relay_config(workerCount=1, **options, **forwarding_to(self.upstream.port))
        config_file = self.folder / "config.json"
        config_file.write_text(json.dumps(config))
        log_file = self.folder / "sender.log"
        with log_file.open("wb") as console:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "mailrelay_sender"),
                stdout=console,
                stderr=console,
                env={
                    **os.environ,
                    "MAILRELAY_CONFIG": str(config_file),
                    "MAILRELAY_NATS_URL": self.server.url,
                    "MAILRELAY_NATS_SEED_FILE": str(self.server.seed_file(Role.SENDER)),
                },
            )
        try:
            yield log_file
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 30) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


@contextlib.asynccontextmanager
async def rig(folder: Path, delivery_seconds: float) -> AsyncIterator[Rig]:
    log = logger(LogCapture())
    server = NatsServer(find_nats_server(print), folder / "server")
    server.start()
    upstream = ScriptedUpstream(fail_at(Stage.FINAL_DOT, Delay(delivery_seconds)))
    try:
        async with contextlib.AsyncExitStack() as stack:
            await server.ensure(log, LIMITS)
            ingress = await stack.enter_async_context(server.connected(Role.INGRESS, log))
            sender = await stack.enter_async_context(server.connected(Role.SENDER, log))
            await stack.enter_async_context(upstream)
            made = Rig(folder, server, upstream, ingress, sender)
            upstream.on_rcpt = made.note
            yield made
    finally:
        server.kill()


async def test_with_one_slot_everybody_who_waits_is_served_in_turn(tmp_path: Path) -> None:
    async with rig(tmp_path, 0.01) as made:
        for source in SOURCES:
            for _ in range(60 if source == NEW else 8):
                await made.store(source)
        async with made.one_slot():
            await wait_until(lambda: len(made.seen) == 60 + 56, 60, "all are delivered")
        loaded = made.seen[:80]  # until here everybody has some left
        assert loaded.count(NEW) in range(58, 61)
        for lane in LANES:
            places = [place for place, source in enumerate(loaded) if source == lane]
            gaps = [later - sooner for sooner, later in itertools.pairwise([0, *places, 80])]
            assert max(gaps) <= 4 * len(LANES) + 2, (lane, places)
        assert made.upstream.max_in_flight == 1


@pytest.mark.parametrize(
    ("busy", "comes"), [(NEW, "now"), (NEW, "5s"), (NEW, "4h"), ("now", NEW), ("30s", NEW)]
)
async def test_with_one_slot_what_comes_alone_waits_for_one_delivery_only(
    tmp_path: Path, busy: str, comes: str
) -> None:
    delivery_seconds = 0.25
    async with rig(tmp_path, delivery_seconds) as made:
        for _ in range(30):
            await made.store(busy)
        async with made.one_slot():
            for _ in range(2):
                begun = len(made.seen)
                # Between the two there is enough else for its source to have been idle.
                await wait_until(lambda b=begun: len(made.seen) >= b + 5, 30, "mail flows")
                before, stored_at = len(made.seen), time.monotonic()
                await made.store(comes)
                await wait_until(lambda b=before: comes in made.seen[b:], 30, "it is on its way")
                assert time.monotonic() - stored_at < delivery_seconds + 2
                # One may have been taken while it was being stored.
                assert made.seen[before:].index(comes) <= 1


@pytest.mark.parametrize(("batches", "is_suspected"), [(2, False), (1, True)])
async def test_a_job_that_came_and_went_for_its_turn_is_not_suspected_of_killing(
    tmp_path: Path,
    batches: int,
    is_suspected: bool,  # noqa: FBT001
) -> None:
    async with rig(tmp_path, 0.0) as made:
        names = made.sender.names
        jobs = [
            make_job(1, submission=queue_id(1), batch=k, batches=batches)
            for k in range(1, batches + 1)
        ]
        await Publisher(made.ingress).store_together(
            [Record(names.in_subject(None), encode_jobs([job]), job.name) for job in jobs]
        )
        claims: asyncio.Queue[Claim] = asyncio.Queue()
        pull = PullLoop(
            made.sender, names.in_stream(), names.in_consumer, room=lambda: 9, take=claims.put
        )
        another = asyncio.create_task(pull.run())  # a sender that gives it back, and is gone
        for _ in range(batches * (SUSPICIOUS_DELIVERIES + 2)):
            await (await asyncio.wait_for(claims.get(), 10)).give_back()
        await pull.stop()
        another.cancel()
        async with made.one_slot(batchDelay=100, queue={"ackWaitSeconds": 20}) as log_file:
            await made.upstream.wait_received(batches, 40)
            assert ("record.quarantined" in log_file.read_text()) == is_suspected
