"""Store what remains of a job, tell what happened, and only then ack (queue rule 4).

The only place that acks a job. `remains` stores, `report` tells; a crash anywhere in between
repeats the job and never loses it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from mailrelay.mail.ids import QueueId
from mailrelay.mail.job import Job
from mailrelay.queue.bodies import BodyStore
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.consume import Claim
from mailrelay.queue.errors import ClaimVoidError, QueueError
from mailrelay.queue.events import EventWriter
from mailrelay.queue.failed import UnreadablePlace
from mailrelay.queue.wire import RecordError
from mailrelay.runtime.clock import Clock
from mailrelay.runtime.logging import Logger
from mailrelay.runtime.steps import passed
from mailrelay_sender.follow_up import FollowUp, message_id
from mailrelay_sender.remains import (
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    Division,
    RemainsStore,
    SettledElsewhereError,
    held_up,
)
from mailrelay_sender.report import attempted, report

# A restarted server is ready for acks within a second; two of them wait for 2 s each.
UNANSWERED_SECONDS = 4.0


class Settler:
    """Settles jobs over one connection."""

    def __init__(
        self,
        connection: QueueConnection,
        events: EventWriter,
        bodies: BodyStore,
        log: Logger,
        clock: Clock,
        *,
        lane_grows: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`lane_grows` is told the size of each record stored in a lane."""
        self._connection = connection
        self._remains = RemainsStore(connection, bodies, log, clock, lane_grows)
        self._events = events
        self._log = log
        self._clock = clock

    async def settle(
        self, claim: Claim, job: Job, rest: FollowUp, *, route: str, duration_seconds: float
    ) -> None:
        """Carry out what `rest` says, then ack the claim."""
        try:
            kept = await self._remains.store_all(claim, job, rest)
        except SettledElsewhereError:
            # Whoever acked the record stored what remains; ours would be a second copy, and may
            # name content that is gone by now.
            self._log_elsewhere(job)
            now = self._clock()
            report(self._log, job, rest, route=route, now=now, duration_seconds=duration_seconds)
            self._events.tell(attempted(job, job, rest, now, duration_seconds))
        else:
            stored = kept.deferred or (kept.failed[0].job if kept.failed else job)
            await self._tell_and_ack(claim, job, stored, kept, route, duration_seconds)
        self._remains.forget(claim, job)

    async def _tell_and_ack(
        self,
        claim: Claim,
        job: Job,
        stored: Job,
        kept: FollowUp,
        route: str,
        duration_seconds: float,
    ) -> None:
        now = self._clock()
        report(self._log, job, kept, route=route, now=now, duration_seconds=duration_seconds)
        await self._events.tell_and_wait(attempted(job, stored, kept, now, duration_seconds))
        passed("settle.event_told")
        await self._ack(claim, job.submission)
        passed("settle.acked")  # or let go, see there

    def _log_elsewhere(self, job: Job) -> None:
        self._log.warning("settle.elsewhere", id=job.submission, batch=job.batch)

    async def move(self, claim: Claim, job: Job) -> None:
        """Store a job that is not due in the lane it waits in next, then ack (queue rule 6)."""
        moved = replace(job, hop=job.hop + 1)
        try:
            name = message_id(moved, "move", moved.recipients)
            await self._remains.store_in_lane(claim, moved, name)
        except SettledElsewhereError:
            self._log_elsewhere(job)
            return
        passed("move.stored")
        await self._ack(claim, job.submission)
        passed("move.acked")

    async def divide(self, claim: Claim, division: Division) -> None:
        """Store the jobs that take a record's place, due now, then ack (queue rule 2).

        Raises QueueFullError: what is stored by then is taken out of the division.
        """
        try:
            while division.left:
                await self._remains.store_first(claim, division)
                passed("divide.job_stored")
        except SettledElsewhereError:
            self._log_elsewhere(division.wholes[0])
        else:
            await self._ack(claim, division.wholes[0].submission)
            passed("divide.acked")
        for job in division.wholes:
            self._remains.forget(claim, job)

    async def set_aside(self, claim: Claim, error: RecordError) -> None:
        """Keep a record that cannot be read in the failed store, as it is, then ack it."""
        place = UnreadablePlace.of(claim.subject, claim.sequence, claim.stored_at)
        try:
            await self._remains.store_unreadable(claim, place, error)
        except SettledElsewhereError:
            return
        passed("aside.stored")
        await self._ack(claim, place.submission)
        passed("aside.acked")

    async def drop_stale_resend(self, claim: Claim, job: Job, *, route: str) -> None:
        """Ack a resend that may not go on: another one did, or the failed record is gone.

        When it is this one that was delivered, its sender died before it told so.
        """
        outcome = await self._remains.delivered_by(claim, job)
        if outcome is not None:
            rest = FollowUp((outcome,), None, (), None, done=True)
            await self._tell_and_ack(claim, job, job, rest, route, 0.0)
            return
        self._log.info("resend.dropped", id=job.submission, sequence=job.resend_of)
        await self._ack(claim, job.submission)
        passed("resend.dropped")

    async def claim_resend(self, claim: Claim, job: Job) -> bool:
        """Tell whether this claim is the one that may resend its failed record (queue rule 8)."""
        return await self._remains.claimed_resend(claim, job) is not None

    async def _ack(self, claim: Claim, submission: QueueId) -> None:
        """Ack until it is confirmed, or until the server does not know what it is asked.

        A server that was killed may have forgotten that it delivered the record (it writes that
        down every 100 ms), and answers no ack of it until it has delivered it again. Who waited
        for that with all slots would claim nothing, and it would never be delivered: so let go.
        The slots know the record as settled, and ack it as soon as it comes back.
        """
        loop = asyncio.get_running_loop()
        unanswered_since = loop.time()
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                return await claim.ack()
            except ClaimVoidError as error:
                self._log.critical("queue.lost", id=submission, error=str(error))
                return None
            except QueueError as error:
                held_up.inc()
                self._log.warning("settle.repeats", step="ack", id=submission, error=str(error))
            if not self._connection.is_connected:
                unanswered_since = loop.time()
            elif loop.time() - unanswered_since >= UNANSWERED_SECONDS:
                return None
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
