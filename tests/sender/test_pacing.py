"""Whose turn it is, asked on a real server: nothing told, told long ago, stopped, stuck."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from structlog.testing import LogCapture

from mailrelay.mail.disposition import Disposition, Outcome
from mailrelay.mail.job import FailedRecord, Job
from mailrelay.mail.pace import Pace
from mailrelay.mail.reply import Reply
from mailrelay.mail.retry import RetrySchedule
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.failed import FailedStore
from mailrelay.queue.pace import PaceStore
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.rights import Role
from mailrelay.queue.wire import encode_jobs
from mailrelay_cli.nats_server import find_nats_server
from mailrelay_sender.follow_up import FollowUp, follow_up
from mailrelay_sender.pacing import Pacing, pacing_options
from mailrelay_sender.turn import Go, LeaveOut, Wait
from tests.lib.jobs import make_job, queue_id
from tests.sender.settling import logger
from tests.support.nats import LIMITS, NatsServer

ID = queue_id(1)
START = 1_700_000_000.0
SCHEDULE = RetrySchedule(10, 60, 2, 3600, 86400)
JOBS = 6


def job(batch: int, **changes: object) -> Job:
    return make_job(1, submission=ID, batch=batch, batches=JOBS, accepted_at=START, **changes)


def outcome(number: int, disposition: Disposition) -> FollowUp:
    reply = Reply(550, "5.1.1", "no") if disposition is Disposition.BOUNCED else Reply(250, "", "")
    outcomes = [Outcome(0, disposition, reply, "hop")]
    return follow_up(job(number), outcomes, SCHEDULE, now=START, chance=0.5)


@dataclass
class Rig:
    """One message of six jobs in the queue, and senders that ask about it at a time of ours."""

    server: NatsServer
    admin: QueueConnection
    connection: QueueConnection
    store: PaceStore
    failed: FailedStore
    lines: LogCapture
    now: float = START

    def sender(self, *, batch_delay_ms: int = 1000, continue_on_error: bool = True) -> Pacing:
        """A sender that remembers nothing."""
        options = pacing_options(
            batch_delay_ms=batch_delay_ms,
            continue_on_error=continue_on_error,
            attempt_limit=300,
            ack_wait=30,
        )
        return Pacing(self.store, self.failed, options, lambda: self.now, logger(self.lines))

    async def settled(self, *batches: int) -> None:
        """Take jobs off the queue, as their acks do."""
        for batch in batches:
            await self.admin.api("STREAM.MSG.DELETE.mailrelay-in-0", {"seq": batch})


@contextlib.asynccontextmanager
async def rig(folder: Path) -> AsyncIterator[Rig]:
    lines = LogCapture()
    log = logger(lines)
    server = NatsServer(find_nats_server(print), folder / "server")
    server.start()
    try:
        async with contextlib.AsyncExitStack() as stack:
            await server.ensure(log, LIMITS)
            ingress = await stack.enter_async_context(server.connected(Role.INGRESS, log))
            sender = await stack.enter_async_context(server.connected(Role.SENDER, log))
            admin = await stack.enter_async_context(server.connected(Role.ADMIN, log))
            await Publisher(ingress).store_together(
                [
                    Record(sender.names.in_subject(None), encode_jobs([job(k)]), f"{ID}.{k}")
                    for k in range(1, JOBS + 1)
                ]
            )
            publisher = Publisher(sender)
            yield Rig(
                server,
                admin,
                sender,
                PaceStore(sender, publisher),
                FailedStore(sender, publisher),
                lines,
            )
    finally:
        server.kill()


async def test_under_backlog_later_jobs_wait_for_a_first_that_nobody_has_tried(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as made:
        pacing = made.sender()
        assert await pacing.turn(job(3), 3) == Wait(2.0)
        assert await pacing.turn(job(1), 1) == Go()
        made.now += 1200  # it still waits for a slot
        assert await pacing.turn(job(2), 2) == Wait(1.0)
        await pacing.ended(job(1), outcome(1, Disposition.SENT))
        assert await pacing.turn(job(2), 2) == Wait(1.0)
        made.now += 1.0
        assert await pacing.turn(job(2), 2) == Go()
        # Another sender was told, too.
        assert await made.sender().turn(job(2), 2) == Go()
        assert await made.sender().turn(job(4), 4) == Wait(2.0)


async def test_when_nothing_is_known_the_first_that_is_left_is_next(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        await made.settled(1, 2)
        assert await made.sender().turn(job(3), 3) == Go()
        assert await made.sender().turn(job(5), 5) == Wait(2.0)


async def test_a_word_that_was_never_told_is_not_waited_for(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        await made.store.tell(ID, Pace(2, made.now))
        await made.settled(1, 2)  # and its sender died before it could tell
        assert await made.sender().turn(job(3), 3) == Wait(1.0)
        made.now += 6
        assert await made.sender().turn(job(3), 3) == Go()


async def test_without_the_stream_of_turns_jobs_go_in_order(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        await made.admin.api("STREAM.DELETE.mailrelay-pace")
        await made.settled(1)
        pacing = made.sender()
        assert await pacing.turn(job(2), 2) == Go()
        await pacing.ended(job(2), outcome(2, Disposition.SENT))
        assert await pacing.turn(job(3), 3) == Wait(1.0), "this sender remembers"
        await made.settled(2)
        assert await made.sender().turn(job(3), 3) == Go()
        assert {entry["event"] for entry in made.lines.entries} == {"pace.unread", "pace.untold"}


async def test_the_job_behind_one_that_never_ends_goes_on_after_a_while(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        await made.store.tell(ID, Pace(2, made.now))
        await made.settled(1)
        pacing = made.sender()
        assert await pacing.turn(job(3), 3) == Wait(1.0)
        made.now += 60 + 30 + 4 * 300
        assert await pacing.turn(job(3), 3) == Wait(1.0)
        made.now += 1
        assert await pacing.turn(job(4), 4) == Wait(2.0)
        assert await pacing.turn(job(3), 3) == Go()
        await pacing.ended(job(3), outcome(3, Disposition.SENT))
        made.now += 1
        assert await pacing.turn(job(4), 4) == Go()
        assert await pacing.turn(job(2), 2) == Go(), "and it is tried whenever it comes"


async def test_a_long_pause_is_no_reason_to_pass_a_job_over(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        pacing = made.sender(batch_delay_ms=3_600_000)
        await pacing.ended(job(1), outcome(1, Disposition.SENT))
        for _ in range(59):
            made.now += 60
            assert isinstance(await pacing.turn(job(2), 2), Wait)
            assert isinstance(await pacing.turn(job(3), 3), Wait)
        made.now += 60
        assert await pacing.turn(job(2), 2) == Go()
        assert isinstance(await pacing.turn(job(3), 3), Wait)


async def test_a_failure_stops_later_jobs_and_no_other(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        pacing = made.sender(continue_on_error=False, batch_delay_ms=0)
        await pacing.ended(job(1), outcome(1, Disposition.SENT))
        await pacing.ended(job(2), outcome(2, Disposition.BOUNCED))
        for asked in (pacing, made.sender(continue_on_error=False)):
            assert await asked.turn(job(2), 2) == Go(), "it came again"
            assert await asked.turn(job(6), 6) == LeaveOut(2)
            assert await asked.turn(job(3), 3) == LeaveOut(2)
        assert await made.sender().turn(job(3), 3) != LeaveOut(2), "the option was changed"


async def test_a_failed_record_is_as_good_as_the_mark_of_a_stop(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        await made.settled(1, 2)
        # All of them have one place here, so each is stored over the one before.
        for batch, disposition in ((2, Disposition.BOUNCED), (5, Disposition.NOT_TRIED)):
            record = FailedRecord(job(batch), disposition, START)
            await made.failed.store_released(record)
            pacing = made.sender(continue_on_error=False, batch_delay_ms=0)
            assert isinstance(await pacing.turn(job(3), 3), LeaveOut)


@pytest.mark.parametrize(
    ("disposition", "turn"),
    [(Disposition.BOUNCED, Go), (Disposition.NOT_TRIED, LeaveOut)],
    ids=["that was tried", "that was left out"],
)
async def test_a_job_that_comes_again_finds_its_own_failed_record(
    tmp_path: Path, disposition: Disposition, turn: type
) -> None:
    async with rig(tmp_path) as made:
        await made.settled(1, 2)
        await made.failed.store(FailedRecord(job(3), disposition, START))
        pacing = made.sender(continue_on_error=False, batch_delay_ms=0)
        assert isinstance(await pacing.turn(job(3), 3), turn)


async def test_a_retry_that_fails_stops_the_rest_and_takes_no_turn(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        pacing = made.sender(continue_on_error=False)
        await pacing.ended(job(1), outcome(1, Disposition.SENT))
        await pacing.ended(job(1, attempt=2), outcome(1, Disposition.SENT))
        assert await made.store.read(ID) == Pace(2, START + 1)
        await pacing.ended(job(1, attempt=2), outcome(1, Disposition.BOUNCED))
        assert await made.store.read(ID) == Pace(2, START + 1, stopped_by=1)
        assert await pacing.turn(job(2), 2) == LeaveOut(1)
        await pacing.ended(job(4, resend_of=9), outcome(4, Disposition.BOUNCED))
        assert await made.store.read(ID) == Pace(2, START + 1, stopped_by=1)


async def test_a_found_wait_serves_the_jobs_behind_it_for_a_second(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:
        pacing = made.sender()
        assert pacing.known_wait(job(3)) is None
        assert await pacing.turn(job(2), 2) == Wait(1.0)
        made.server.kill()  # nobody is asked
        assert pacing.known_wait(job(5)) == Wait(4.0)
        assert pacing.known_wait(job(1)) is None, "who may go asks"
        made.now += 1
        assert pacing.known_wait(job(5)) is None


async def test_only_a_job_that_has_had_its_turn_for_long_may_have_killed_a_sender(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as made:
        stored_at = START - 3600  # it waited for an hour
        await made.sender().ended(job(1), outcome(1, Disposition.SENT))
        pacing = made.sender()
        made.now += 1
        assert await pacing.turn(job(2), 2) == Go()
        assert not pacing.is_overdue(job(2), stored_at)
        made.now += 61  # two of `ackWaitSeconds`
        assert await pacing.turn(job(2), 2) == Go()
        assert pacing.is_overdue(job(2), stored_at)
        assert made.sender().is_overdue(job(2), stored_at), "of whom nothing is known"
        assert not made.sender().is_overdue(job(2), made.now)


def test_nothing_is_asked_for_jobs_that_have_no_turn() -> None:
    def concerns(delay: int, *, go_on: bool, batches: int) -> bool:
        options = pacing_options(
            batch_delay_ms=delay, continue_on_error=go_on, attempt_limit=1, ack_wait=1
        )
        nothing = None
        pacing = Pacing(nothing, nothing, options, lambda: 0.0, nothing)  # type: ignore[arg-type]
        return pacing.concerns(make_job(1, batches=batches))

    assert not concerns(1000, go_on=True, batches=1)
    assert not concerns(0, go_on=False, batches=1)
    assert not concerns(0, go_on=True, batches=9)
    assert concerns(1, go_on=True, batches=2)
    assert concerns(0, go_on=False, batches=2)
