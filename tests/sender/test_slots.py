"""One slot, and mail from everywhere at once: who is served when (queue rule 12)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest
from structlog.testing import LogCapture

from mailrelay.mail.job import Recipient
from mailrelay.queue.bodies import BodyStore
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.consume import Claim, PullLoop
from mailrelay.queue.events import EventWriter
from mailrelay.queue.failed import FailedStore
from mailrelay.queue.lanes import LADDER
from mailrelay.queue.pace import PaceStore
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.rights import Role
from mailrelay.queue.wire import RecordError, encode_jobs
from mailrelay.runtime.lifecycle import end_tasks
from mailrelay.runtime.logging import Logger
from mailrelay.runtime.steps import listen
from mailrelay_cli.nats_server import find_nats_server
from mailrelay_sender.pacing import Pacing, PacingOptions
from mailrelay_sender.settle import Settler
from mailrelay_sender.slots import SlotLimits, Slots
from mailrelay_sender.suspicion import SUSPICIOUS_DELIVERIES
from tests.lib.jobs import make_job, queue_id
from tests.sender.settling import logger
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

    async def deliver_and_give_back(self, times: int) -> None:
        """Be a sender that gives back what it is given of the new mail, so often, and is gone."""
        names = self.sender.names
        claims: asyncio.Queue[Claim] = asyncio.Queue()
        pull = PullLoop(
            self.sender, names.in_stream(), names.in_consumer, room=lambda: 9, take=claims.put
        )
        running = asyncio.create_task(pull.run())
        for _ in range(times):
            await (await asyncio.wait_for(claims.get(), 10)).give_back()
        await pull.stop()
        running.cancel()
        while not claims.empty():  # what came again before it stopped
            await claims.get_nowait().give_back()

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
    async with rig(tmp_path, 0.05) as made:
        for source in SOURCES:
            for _ in range(60 if source == NEW else 8):
                await made.store(source)
        async with made.one_slot():
            await wait_until(lambda: len(made.seen) == 60 + 56, 60, "all are delivered")
        loaded = made.seen[:80]  # until here everybody has some left
        assert loaded.count(NEW) in range(54, 61)  # three of four, but for what is on its way
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
    is_suspected: bool,
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
        await made.deliver_and_give_back(batches * (SUSPICIOUS_DELIVERIES + 2))
        async with made.one_slot(batchDelay=100, queue={"ackWaitSeconds": 20}) as log_file:
            await made.upstream.wait_received(batches, 40)
            assert ("record.quarantined" in log_file.read_text()) == is_suspected


async def stored(made: Rig, stream: str) -> int:
    async with made.server.connected(Role.ADMIN, logger(LogCapture())) as admin:
        return int((await admin.api(f"STREAM.INFO.{stream}"))["state"]["messages"])


@pytest.mark.timeout(120)
async def test_a_stop_waits_for_the_answer_to_the_final_dot_of_what_is_tried_alone(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path, 13.0) as made:  # longer than attempts get at a stop otherwise
        await made.store(NEW)
        await made.store(NEW)  # and one that waits for its turn to be tried alone
        await made.deliver_and_give_back(2 * (SUSPICIOUS_DELIVERIES + 2))
        async with made.one_slot() as log_file:
            # Longer than a claim lasts: the server may have sent one to who was just leaving.
            await wait_until(lambda: len(made.seen) == 1, 40, "one is on its way")
            assert "record.quarantined" in log_file.read_text()
        assert len(made.upstream.received) == 1
        assert len(made.seen) == 1, "the other one was not begun any more"
        assert await stored(made, made.sender.names.in_stream()) == 1


def slots_here(
    sender: QueueConnection,
    log: Logger,
    ack_wait_seconds: float = 30,
    made_by: type[Settler] = Settler,
) -> Slots:
    """A sender's slots in this process."""
    publisher = Publisher(sender)
    events = EventWriter(sender, publisher, lambda _: None)
    settler = made_by(sender, events, BodyStore(sender, publisher), log, time.time)
    options = PacingOptions(0, continue_on_error=True, patience_seconds=1, overdue_seconds=1)
    failed = FailedStore(sender, publisher)
    return Slots(
        sender,
        SlotLimits(1, ack_wait_seconds),
        settler,
        log,
        time.time,
        takes_new=lambda: True,
        pacing=Pacing(PaceStore(sender, publisher), failed, options, time.time, log),
    )


async def test_a_stop_breaks_off_no_move_between_its_copy_and_its_ack(tmp_path: Path) -> None:
    async with rig(tmp_path, 0.0) as made:
        server, sender, log = made.server, made.sender, logger(LogCapture())
        job = replace(make_job(1, submission=queue_id(1)), due=time.time() + 3000)
        subject = sender.names.lane_subject(LANES["now"], None)
        await Publisher(sender).store(Record(subject, encode_jobs([job]), "one"))
        slots = slots_here(sender, log)
        steps: list[str] = []

        def listener(step: str) -> None:
            if step == "publish.sent" and step not in steps:
                server.freeze()  # the copy is on its way, and not answered
            steps.append(step)

        listen(listener)
        running = [asyncio.ensure_future(part) for part in slots.run()]
        try:
            await wait_until(lambda: "publish.sent" in steps, 10, "the copy is on its way")
            await slots.stop()
            server.thaw()
            await slots.wait_idle(10)
            await slots.end()
        finally:
            listen(None)
            server.thaw()
            await end_tasks(running)
        assert await stored(made, sender.names.lane_stream) == 1, steps


async def test_a_record_that_another_sender_has_by_now_is_not_given_back(tmp_path: Path) -> None:
    async with rig(tmp_path, 0.0) as made, contextlib.AsyncExitStack() as stack:
        log = logger(LogCapture())
        await made.server.ensure(log, replace(LIMITS, ack_wait_seconds=1))
        await made.store(NEW)
        slots = slots_here(made.sender, log, ack_wait_seconds=1)
        holding, *pulls = slots.run()
        pulling = [asyncio.ensure_future(pull) for pull in pulls]
        cast("Coroutine[None, None, None]", holding).close()  # as in a process that is stopped
        work = await asyncio.wait_for(slots.next_work(), 10)
        await slots.stop()  # or it would come again to its own pull
        await end_tasks(pulling)
        other = await stack.enter_async_context(made.server.connected(Role.SENDER, log))
        claims: asyncio.Queue[Claim] = asyncio.Queue()
        names = other.names
        loop = PullLoop(
            other, names.in_stream(), names.in_consumer, room=lambda: 9, take=claims.put
        )
        theirs = asyncio.create_task(loop.run())
        taken = await asyncio.wait_for(claims.get(), 10)
        assert (taken.sequence, taken.delivered) == (work.claim.sequence, 2)
        await slots.give_back(work)
        await taken.hold()
        await made.store(NEW)
        following = await asyncio.wait_for(claims.get(), 10)
        assert following.sequence != taken.sequence, "it was delivered to a third one beside"
        await end_tasks([theirs])


class SlowSettler(Settler):
    """Takes its time, as at a busy disk, and notes how many records it has at once."""

    at_once = most_at_once = 0

    async def set_aside(self, claim: Claim, error: RecordError) -> None:
        """Keep a record that cannot be read."""
        SlowSettler.at_once += 1
        SlowSettler.most_at_once = max(SlowSettler.most_at_once, SlowSettler.at_once)
        await asyncio.sleep(0.05)  # the slow disk
        await super().set_aside(claim, error)
        SlowSettler.at_once -= 1


async def test_no_more_records_that_cannot_be_read_are_claimed_than_there_is_room_for(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path, 0.0) as made:
        names = made.sender.names
        for _ in range(30):
            await Publisher(made.ingress).store(Record(names.in_subject(None), b"\x01?", ""))
        slots = slots_here(made.sender, logger(LogCapture()), made_by=SlowSettler)
        running = [asyncio.ensure_future(part) for part in slots.run()]

        async def all_kept() -> bool:
            return await stored(made, names.failed_stream) == 30

        await wait_until(all_kept, 30, "all are in the failed store")
        await slots.stop()
        await slots.wait_idle(5)
        await slots.end()
        await end_tasks(running)
        assert SlowSettler.most_at_once == 1  # as many as there are slots
        assert await stored(made, names.in_stream()) == 0
