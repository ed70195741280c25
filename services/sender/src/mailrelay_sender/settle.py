"""Store what remains of a job, tell what happened, and only then ack (queue rule 4).

The only place that acks a job. While a follow-up cannot be stored the claim is held and the
storing repeated; the attempt is not. Storing is idempotent by its names, so a crash anywhere in
between repeats the job and never loses it.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Counts
from collections.abc import Awaitable, Callable
from dataclasses import replace

from prometheus_client import Counter, Histogram

from mailrelay.mail.disposition import Disposition, Outcome
from mailrelay.mail.event import Attempted, Summary
from mailrelay.mail.ids import QueueId
from mailrelay.mail.job import (
    Body,
    CaptureRecord,
    FailedRecord,
    Job,
    ResendMark,
    recipients_hash,
)
from mailrelay.queue.bodies import (
    MAX_COPIED_BYTES,
    BodyLostError,
    BodyStore,
    Writing,
    body_token,
)
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.consume import Claim
from mailrelay.queue.errors import ClaimVoidError, QueueError, QueueFullError
from mailrelay.queue.events import EventWriter
from mailrelay.queue.failed import FailedStore, ResendClaim, UnreadablePlace
from mailrelay.queue.lanes import lane_for
from mailrelay.queue.publish import Guard, Publisher, Record
from mailrelay.queue.wire import RecordError, encode_capture, encode_jobs
from mailrelay.runtime.clock import Clock
from mailrelay.runtime.logging import Logger
from mailrelay.runtime.steps import passed
from mailrelay_sender.follow_up import FollowUp, message_id

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 1.0
# A restarted server is ready for acks within a second; two of them wait for 2 s each.
UNANSWERED_SECONDS = 4.0
_MAX_RESENDS = 4096  # more than slots and settling together

_recipients = Counter(
    "mailrelay_recipients_total",
    "Recipients by what an attempt made of them.",
    # disposition: see mailrelay.mail.disposition; route: capture, smarthost, named
    ["disposition", "route"],
)
_latency = Histogram(
    "mailrelay_delivery_latency_seconds",
    "From acceptance to a recipient's delivery.",
    ["route"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 3600, 14400, 86400),
)
_held_up = Counter("mailrelay_settle_repeats_total", "Follow-ups and acks that had to be repeated.")


class SettledElsewhereError(Exception):
    """Another sender acked the record: whatever is stored for it now would be a second copy."""


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
        self._names = connection.names
        self._publisher = Publisher(connection)
        self._failed = FailedStore(connection, self._publisher)
        self._bodies = bodies
        self._events = events
        self._log = log
        self._clock = clock
        self._lane_grows = lane_grows
        # Bodies of jobs whose settling is under way, and when they were written.
        self._written: dict[str, tuple[Body, Writing]] = {}
        # Resends that this process claimed and has not settled.
        self._resends: dict[ResendMark, ResendClaim] = {}

    async def settle(
        self, claim: Claim, job: Job, rest: FollowUp, *, route: str, duration_seconds: float
    ) -> None:
        """Carry out what `rest` says, then ack the claim."""
        try:
            kept = await self._store_all(claim, job, rest)
        except SettledElsewhereError:
            # Whoever acked the record stored what remains; ours would be a second copy, and may
            # name content that is gone by now.
            self._log_elsewhere(job)
            self._tell(job, rest, route, duration_seconds)
            self._events.tell(_event(job, job, rest, self._clock(), duration_seconds))
        else:
            self._tell(job, kept, route, duration_seconds)
            stored = kept.deferred or (kept.failed[0].job if kept.failed else job)
            event = _event(job, stored, kept, self._clock(), duration_seconds)
            await self._events.tell_and_wait(event)
            passed("settle.event_told")
            await self._ack(claim, job.submission)
            passed("settle.acked")  # or let go, see there
        self._written.pop(_body_key(job), None)
        self._resends.pop(_mark(claim), None)

    async def _store_all(self, claim: Claim, job: Job, rest: FollowUp) -> FollowUp:
        """Store what remains; returns it as it was stored. Raises SettledElsewhereError."""
        kept = await self._with_stored_body(claim, job, rest)
        # Failed records first: once the deferred job is stored it may run and end, and its end
        # prompts the question whether anything names the body.
        for record in kept.failed:
            await self._store_failed(claim, job, record)
            passed("settle.failed_stored")
        if kept.deferred is not None:
            await self._store_deferred(claim, job, kept.deferred)
            passed("settle.deferred_stored")
        if kept.captured is not None:
            await self._store_captured(claim, kept.captured)
            passed("settle.captured_stored")
        if kept.done:
            await self._store_done(claim, job)
            passed("settle.done_stored")
        return kept

    def _look(self, claim: Claim) -> Guard:
        """Return what is asked before each try to store: whether the record is still there.

        It is asked of a claim that is surely ours, too. A sender that held the record before, and
        was stopped, may have acked it meanwhile.
        """

        async def look() -> None:
            try:
                is_there = await claim.is_still_there()
            except ClaimVoidError:
                return  # the server lost it: this process has the only copy left
            if not is_there:
                raise SettledElsewhereError

        return look

    def _guard(self, claim: Claim, job: Job, body: Body | None) -> Guard:
        """Return what is asked before each try to store a record that names `body`."""
        look = self._look(claim)

        async def check() -> None:
            await look()
            if body is not None and job.content:
                await self._bodies.check(self._written[_body_key(job)][1])

        return check

    def _log_elsewhere(self, job: Job) -> None:
        self._log.warning("settle.elsewhere", id=job.submission, batch=job.batch)

    async def move(self, claim: Claim, job: Job) -> None:
        """Store a job that is not due in the lane it waits in next, then ack (queue rule 6)."""
        moved = replace(job, hop=job.hop + 1)
        try:
            name = message_id(moved, "move", moved.recipients)
            await self._store_in_lane(claim, moved, name)
        except SettledElsewhereError:
            self._log_elsewhere(job)
            return
        passed("move.stored")
        await self._ack(claim, job.submission)
        passed("move.acked")

    async def unbundle(self, claim: Claim, jobs: list[Job]) -> None:
        """Store the jobs of a grouped record one by one, due now, then ack (queue rule 2)."""
        try:
            for job in jobs:
                name = message_id(job, "unbundled", job.recipients)
                await self._store_in_lane(claim, job, name)
                passed("unbundle.job_stored")
        except SettledElsewhereError:
            self._log_elsewhere(jobs[0])
            return
        await self._ack(claim, jobs[0].submission)
        passed("unbundle.acked")

    async def set_aside(self, claim: Claim, error: RecordError) -> None:
        """Keep a record that cannot be read in the failed store, as it is, then ack it."""
        place = UnreadablePlace.of(claim.subject, claim.sequence, claim.stored_at)

        async def store() -> None:
            await self._failed.store_unreadable(
                place, claim.payload, str(error), guard=self._look(claim)
            )

        try:
            await self._until_done("store", place.submission, store)
        except SettledElsewhereError:
            return
        passed("aside.stored")
        await self._ack(claim, place.submission)
        passed("aside.acked")

    async def drop_stale_resend(self, claim: Claim, job: Job) -> None:
        """Ack a resend that may not go on: another one did, or the failed record is gone."""
        self._log.info("resend.dropped", id=job.submission, sequence=job.resend_of)
        await self._ack(claim, job.submission)
        passed("resend.dropped")

    async def claim_resend(self, claim: Claim, job: Job) -> bool:
        """Tell whether this claim is the one that may resend its failed record (queue rule 8)."""
        return await self._claimed_resend(claim, job) is not None

    async def _claimed_resend(self, claim: Claim, job: Job) -> ResendClaim | None:
        mark = _mark(claim)
        found: list[ResendClaim | None] = []

        async def ask() -> None:
            found.append(await self._failed.claim_resend(job, mark))

        if mark not in self._resends:
            await self._until_done("claim of the failed record", job.submission, ask)
            if found[-1] is None:
                return None
            if len(self._resends) >= _MAX_RESENDS:
                del self._resends[next(iter(self._resends))]  # it is asked for again
            self._resends[mark] = found[-1]
        return self._resends[mark]

    async def _with_stored_body(self, claim: Claim, job: Job, rest: FollowUp) -> FollowUp:
        """Put content that would be written again into the body stream, once."""
        again = rest.deferred is not None or bool(rest.failed)
        if job.body is not None or not again or len(job.content) <= MAX_COPIED_BYTES:
            return rest
        try:
            body = await self._store_body(claim, job)
        except QueueFullError:
            return rest  # copied after all: what waits for room may be what would make it
        deferred = replace(rest.deferred, content=b"", body=body) if rest.deferred else None
        failed = tuple(
            replace(record, job=replace(record.job, content=b"", body=body))
            for record in rest.failed
        )
        return replace(rest, deferred=deferred, failed=failed)

    async def _store_body(self, claim: Claim, job: Job) -> Body:
        """Write a job's content as a body, once while its settling is repeated."""
        known = self._written.get(_body_key(job))
        if known is not None:
            return known[0]

        async def write() -> None:
            await self._look(claim)()
            await self._write_body(job)

        await self._until_done("store", job.submission, write)
        return self._written[_body_key(job)][0]

    async def _write_body(self, job: Job) -> None:
        writing = await self._bodies.begin()
        body = await self._bodies.store_content(job.submission, job.content)
        passed("settle.body_stored")
        self._written[_body_key(job)] = (body, writing)

    def _keeps_body(
        self, job: Job, body: Body | None, step: Callable[[], Awaitable[None]]
    ) -> Callable[[], Awaitable[None]]:
        """Let a follow-up that names a new body write it anew when it may be gone by then.

        No record names that body before the follow-up is stored, so the monitor may sweep it
        after an hour (queue rule 10), and the server may have lost it (rule 14).
        """
        if body is None or not job.content:
            return step

        async def keep() -> None:
            try:
                await self._bodies.check(self._written[_body_key(job)][1])
            except BodyLostError:
                await self._write_body(job)
            await step()

        return keep

    async def _store_deferred(self, claim: Claim, job: Job, deferred: Job) -> None:
        record = self._lane_record(deferred, message_id(job, "deferred", deferred.recipients))
        await self._store(claim, job, record, deferred.body)
        self._lane_grows(len(record.payload))

    async def _store_in_lane(self, claim: Claim, job: Job, name: str) -> None:
        await self._store(claim, job, self._lane_record(job, name))

    def _lane_record(self, job: Job, name: str) -> Record:
        lane = lane_for(job.due - self._clock())
        subject = self._names.lane_subject(lane, body_token(job))
        return Record(subject, encode_jobs([job]), name)

    async def _store_failed(self, claim: Claim, job: Job, record: FailedRecord) -> None:
        guard = self._guard(claim, job, record.job.body)

        async def store() -> None:
            if job.resend_of:
                resend = await self._claimed_resend(claim, job)
                if resend is not None:
                    await self._failed.store_again(record, resend, guard)
            elif job.release is not None:
                await self._failed.store_released(record, guard)
            else:
                await self._failed.store(record, guard)

        await self._until_done(
            "store", job.submission, self._keeps_body(job, record.job.body, store)
        )

    async def _store_done(self, claim: Claim, job: Job) -> None:
        async def store() -> None:
            resend = await self._claimed_resend(claim, job)
            if resend is not None:
                await self._failed.store_done(job, resend, self._look(claim))

        await self._until_done("store", job.submission, store)

    async def _store_captured(self, claim: Claim, job: Job) -> None:
        record = CaptureRecord(job, self._clock())
        subject = self._names.capture_subject(
            job.submission, job.batch, recipients_hash(job.recipients)
        )
        name = message_id(job, "captured", job.recipients)
        await self._store(claim, job, Record(subject, encode_capture(record), name))

    async def _store(
        self, claim: Claim, job: Job, record: Record, body: Body | None = None
    ) -> None:
        guard = self._guard(claim, job, body)

        async def store() -> None:
            await self._publisher.store(record, guard=guard)

        await self._until_done("store", job.submission, self._keeps_body(job, body, store))

    async def _ack(self, claim: Claim, submission: QueueId) -> None:
        """Ack until it is confirmed, or until the server does not know what it is asked.

        A server that was killed may have forgotten that it delivered the record (it writes that
        down every 100 ms), and answers no ack of it until it has delivered it again. Who waited
        for that with all slots would claim nothing, and it would never be delivered: so let go.
        The slots know the record as settled, and ack it as soon as it comes back.
        """
        loop = asyncio.get_running_loop()
        unanswered_since = loop.time()
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return await claim.ack()
            except ClaimVoidError as error:
                self._log.critical("queue.lost", id=submission, error=str(error))
                return None
            except QueueError as error:
                _held_up.inc()
                self._log.warning("settle.repeats", step="ack", id=submission, error=str(error))
            if not self._connection.is_connected:
                unanswered_since = loop.time()
            elif loop.time() - unanswered_since >= UNANSWERED_SECONDS:
                return None
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _until_done(
        self, what: str, submission: QueueId, step: Callable[[], Awaitable[None]]
    ) -> None:
        """Repeat a step until the queue has confirmed it; the claim is held meanwhile.

        Raises QueueFullError: the caller keeps the outcome and comes again.
        """
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return await step()
            except QueueFullError as error:
                # Room comes from other mail's attempts, which need what this one would hold.
                self._log.warning("settle.repeats", step=what, id=submission, error=str(error))
                raise
            except QueueError as error:
                _held_up.inc()
                self._log.warning("settle.repeats", step=what, id=submission, error=str(error))
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _tell(self, job: Job, rest: FollowUp, route: str, duration_seconds: float) -> None:
        """One log line for the job, one for each recipient, and the counters."""
        by_number = {recipient.number: recipient for recipient in job.recipients}
        now = self._clock()
        counts = Counts(outcome.disposition.value for outcome in rest.outcomes)
        self._log.info(
            "mail.batch",
            id=job.submission,
            batch=f"{job.batch}/{job.batches}",
            attempt=job.attempt,
            recipients=len(job.recipients),
            seconds=round(duration_seconds, 4),
            **counts,
        )
        for outcome in rest.outcomes:
            disposition = outcome.disposition
            _recipients.labels(disposition.value, route).inc()
            if disposition is Disposition.SENT:
                _latency.labels(route).observe(max(0.0, now - job.accepted_at))
            self._log.info(
                f"mail.{disposition.value}",
                id=job.submission,
                batch=f"{job.batch}/{job.batches}",
                recipient=by_number[outcome.recipient].address,
                attempt=job.attempt,
                next_hop=outcome.next_hop,
                reply=str(outcome.reply),
                seconds=round(duration_seconds, 4),
                **_retry_fields(rest, outcome, now),
            )


def _mark(claim: Claim) -> ResendMark:
    return ResendMark(claim.stream, claim.sequence, claim.stored_at)


def _body_key(job: Job) -> str:
    """Name a job among those being settled: resends and releases share its submission."""
    return message_id(job, "body", job.recipients)


def _retry_fields(rest: FollowUp, outcome: Outcome, now: float) -> dict[str, float]:
    if outcome.disposition is Disposition.DEFERRED and rest.deferred is not None:
        return {"retry_in_seconds": round(rest.deferred.due - now, 1)}
    return {}


def _event(job: Job, stored: Job, rest: FollowUp, now: float, duration_seconds: float) -> Attempted:
    by_number = {recipient.number: recipient for recipient in job.recipients}
    return Attempted(
        # Whether a body is stored is said of what remains: its deletion is prompted by this.
        Summary.of(stored if stored.body else job),
        now,
        batch=job.batch,
        batches=job.batches,
        attempt=job.attempt,
        duration_seconds=duration_seconds,
        addresses=tuple(by_number[outcome.recipient].address for outcome in rest.outcomes),
        outcomes=rest.outcomes,
    )
