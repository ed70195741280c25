"""Settling while the queue refuses: nothing is acked, and nothing that waits goes stale."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from dataclasses import replace
from pathlib import Path

from mailrelay.mail.disposition import Disposition, Outcome
from mailrelay.mail.ids import new_queue_id
from mailrelay.mail.reply import Reply
from mailrelay.mail.retry import RetrySchedule
from mailrelay.queue.bodies import MAX_UNNAMED_SECONDS, BodyStore, Deletion
from mailrelay.queue.captured import CaptureStore
from mailrelay.queue.errors import QueueFullError
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.rights import Role
from mailrelay.queue.wire import encode_jobs
from mailrelay_sender.follow_up import follow_up
from tests.sender.settling import ACCEPTED_AT, rig
from tests.support.nats import LIMITS, limits
from tests.support.wait import wait_until

SCHEDULE = RetrySchedule(10, 60, 2, 3600, 86400)
SENT = Outcome(0, Disposition.SENT, Reply(250, "2.0.0", "ok"), "next:25")
LATER = Outcome(0, Disposition.DEFERRED, Reply(451, "4.2.0", "later"), "next:25")


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
            deletion = await watching.delete_unused(job.submission)
            return deletion is Deletion.DONE and await chunks() == 0

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
