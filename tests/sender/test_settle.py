"""Settling while the queue refuses: nothing is acked, and nothing that waits goes stale."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import structlog
from structlog.testing import LogCapture

from mailrelay.mail.disposition import Disposition, Outcome
from mailrelay.mail.ids import new_queue_id
from mailrelay.mail.job import Job, Recipient
from mailrelay.mail.reply import Reply
from mailrelay.mail.retry import RetrySchedule
from mailrelay.queue.bodies import MAX_UNNAMED_SECONDS, BodyStore
from mailrelay.queue.captured import CaptureStore
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.consume import Claim, PullLoop
from mailrelay.queue.errors import QueueFullError
from mailrelay.queue.events import EventWriter
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.rights import Role
from mailrelay.queue.streams import QueueLimits
from mailrelay.queue.wire import encode_jobs
from mailrelay.runtime.logging import Logger
from mailrelay_cli.nats_server import find_nats_server
from mailrelay_sender.follow_up import follow_up
from mailrelay_sender.settle import Settler
from tests.support.nats import LIMITS, NatsServer, limits
from tests.support.wait import wait_until

ACCEPTED_AT = 1_700_000_000.0
SCHEDULE = RetrySchedule(10, 60, 2, 3600, 86400)
SENT = Outcome(0, Disposition.SENT, Reply(250, "2.0.0", "ok"), "next:25")
LATER = Outcome(0, Disposition.DEFERRED, Reply(451, "4.2.0", "later"), "next:25")


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


async def test_a_delivery_that_a_killed_server_forgot_holds_no_slot(tmp_path: Path) -> None:
    async with rig(tmp_path, LIMITS) as made:
        claim = await made.claim()
        made.room = 0  # as when all slots wait for acks: nothing can come again
        made.server.kill()  # within the 100 ms in which it writes down what it delivered
        made.server.start()
        rest = follow_up(made.job, [SENT], SCHEDULE, now=made.now, chance=0.5)
        settling = made.settler.settle(
            claim, made.job, rest, route="smarthost", duration_seconds=0.1
        )
        await asyncio.wait_for(settling, 20)
        made.room = 1
        made.pull.wake()

        async def is_gone() -> bool:
            while not made.claims.empty():  # it came again: now the server knows its ack
                await made.claims.get_nowait().ack()
            info = await made.monitor.api(f"STREAM.INFO.{made.sender.names.in_stream()}")
            return int(info["state"]["messages"]) == 0

        await wait_until(is_gone, 20, "the record is gone")


async def test_a_follow_up_that_is_held_up_for_long_writes_its_body_anew(tmp_path: Path) -> None:
    async with rig(tmp_path, limits(store_bytes=8_000_000)) as made:
        names, job = made.sender.names, made.job
        publisher, watching = (
            Publisher(made.sender),
            BodyStore(made.monitor, Publisher(made.monitor)),
        )
        for size in (900_000, 20_000, 100):
            with contextlib.suppress(QueueFullError):
                for number in itertools.count():
                    filler = f"filler/{size}/{number}"
                    await publisher.store(Record("mailrelay.lane.4h.-", b"x" * size, filler))
        rest = follow_up(job, [LATER], SCHEDULE, now=made.now, chance=0.5)
        claim = await made.claim()

        async def settle() -> None:
            while True:  # as the sender does with a job that was sent in part
                with contextlib.suppress(QueueFullError):
                    await made.settler.settle(
                        claim, job, rest, route="smarthost", duration_seconds=0.1
                    )
                    return
                await asyncio.sleep(0.05)

        settling = asyncio.create_task(settle())

        async def chunks() -> int:
            info = await made.monitor.api(f"STREAM.INFO.{names.body_stream}")
            return int(info["state"]["messages"])

        async def is_written() -> bool:
            return await chunks() > 0 and bool(made.lines.entries)

        async def is_swept() -> bool:
            return await watching.delete_unused(job.submission) and await chunks() == 0

        await wait_until(is_written, 10, "the body is stored and its record refused")
        # Nobody names the body yet, so the question that the sweep asks lets it go.
        await wait_until(is_swept, 10, "the body is swept")
        made.now += MAX_UNNAMED_SECONDS
        await wait_until(is_written, 10, "the body is written anew")
        assert not settling.done()
        await made.server.purge(made.log, names.lane_stream)
        await asyncio.wait_for(settling, 20)
        assert await watching.is_in_use(job.submission)


async def test_a_body_that_the_server_lost_is_written_anew_before_a_record_names_it(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path, LIMITS) as made:
        names, job = made.sender.names, made.job
        rest = follow_up(job, [LATER], SCHEDULE, now=made.now, chance=0.5)
        claim = await made.claim()
        body = await made.settler._remains._store_body(claim, job)
        generation = made.sender.generation
        await made.server.lose_data(made.log)
        await wait_until(
            lambda: made.sender.generation > generation and made.sender.is_connected,
            10,
            "the connection broke and is back",
        )
        await made.settler.settle(claim, job, rest, route="smarthost", duration_seconds=0.1)
        info = await made.monitor.api(f"STREAM.INFO.{names.lane_stream}")
        assert int(info["state"]["messages"]) == 1
        stored = BodyStore(made.sender, Publisher(made.sender))
        whole = replace(job, content=b"", body=body)
        assert b"".join([piece async for piece in stored.pieces(whole)]) == job.content


async def test_what_another_sender_has_settled_is_not_stored_a_second_time(tmp_path: Path) -> None:
    async with rig(tmp_path, LIMITS) as made:
        names, job = made.sender.names, made.job
        rest = follow_up(job, [LATER], SCHEDULE, now=made.now, chance=0.5)
        claim = await made.claim()
        made.room = 0
        generation = made.sender.generation
        made.server.stop()
        made.server.start()
        await wait_until(
            lambda: made.sender.generation > generation and made.sender.is_connected,
            10,
            "the connection broke and is back",
        )
        # As the ack of another sender, which was given the record meanwhile, does.
        await made.server.purge(made.log, names.in_stream())
        await made.settler.settle(claim, job, rest, route="smarthost", duration_seconds=0.1)
        info = await made.monitor.api(f"STREAM.INFO.{names.lane_stream}")
        assert int(info["state"]["messages"]) == 0
        assert "settle.elsewhere" in [entry["event"] for entry in made.lines.entries]


async def test_a_sure_claim_whose_record_an_earlier_holder_acked_stores_nothing(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path, LIMITS) as made:
        names, job = made.sender.names, made.job
        rest = follow_up(job, [LATER], SCHEDULE, now=made.now, chance=0.5)
        claim = await made.claim()
        # As the ack of a sender does that was stopped with the record, and goes on now.
        await made.server.purge(made.log, names.in_stream())
        assert claim.is_surely_ours
        await made.settler.settle(claim, job, rest, route="smarthost", duration_seconds=0.1)
        info = await made.monitor.api(f"STREAM.INFO.{names.lane_stream}")
        assert int(info["state"]["messages"]) == 0
        assert "settle.elsewhere" in [entry["event"] for entry in made.lines.entries]


async def test_a_move_whose_record_an_earlier_holder_acked_stores_nothing(tmp_path: Path) -> None:
    async with rig(tmp_path, LIMITS) as made:
        names = made.sender.names
        claim = await made.claim()
        await made.server.purge(made.log, names.in_stream())
        await made.settler.move(claim, made.job)
        info = await made.monitor.api(f"STREAM.INFO.{names.lane_stream}")
        assert int(info["state"]["messages"]) == 0


async def test_what_is_captured_twice_and_then_deleted_is_still_gone_after_kill_9(
    tmp_path: Path,
) -> None:
    captured = Outcome(0, Disposition.CAPTURED, Reply(250, "2.0.0", "captured"), "capture")
    async with rig(tmp_path, LIMITS) as made:
        names = made.sender.names
        # A job may be repeated long after its capture: then no message id is known any more.
        repeated = replace(made.job, attempt=2)
        async with made.server.connected(Role.INGRESS, made.log) as ingress:
            await Publisher(ingress).store(
                Record(names.in_subject(None), encode_jobs([repeated]), "")
            )
        for job in (made.job, repeated):
            rest = follow_up(job, [captured], SCHEDULE, now=made.now, chance=0.5)
            await made.settler.settle(
                await made.claim(), job, rest, route="capture", duration_seconds=0.1
            )
            made.pull.wake()
        other = names.capture_subject(new_queue_id(ACCEPTED_AT, 8), 1, "hash")
        await Publisher(made.sender).store(Record(other, b"x", ""))
        assert await CaptureStore(made.monitor).delete(made.job.submission) == 1
        made.server.kill()
        made.server.start()
        async with made.server.connected(Role.MONITOR, made.log) as monitor:
            assert await CaptureStore(monitor).count() == 1
