"""Store what remains of a job, before its record may be acked (queue rules 4, 5, 8, 10).

Each thing is stored until the queue has confirmed it; the attempt is not repeated. Storing is
idempotent by its names, so a crash anywhere in between repeats the job and never loses it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from prometheus_client import Counter

from mailrelay.mail.disposition import Outcome
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
from mailrelay.queue.captured import ONLY_IF_FREE
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.consume import Claim
from mailrelay.queue.errors import (
    ClaimVoidError,
    QueueError,
    QueueFullError,
    QueueMovedOnError,
)
from mailrelay.queue.failed import Delivery, FailedStore, ResendClaim, UnreadablePlace
from mailrelay.queue.lanes import lane_for
from mailrelay.queue.publish import Guard, Publisher, Record
from mailrelay.queue.wire import RecordError, encode_capture, encode_jobs
from mailrelay.runtime.clock import Clock
from mailrelay.runtime.logging import Logger
from mailrelay.runtime.steps import passed
from mailrelay_sender.follow_up import FollowUp, message_id

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 1.0
_MAX_RESENDS = 4096  # more than slots and settling together

held_up = Counter("mailrelay_settle_repeats_total", "Follow-ups and acks that had to be repeated.")


class SettledElsewhereError(Exception):
    """Another sender acked the record: whatever is stored for it now would be a second copy."""


@dataclass(slots=True)
class Division:
    """The jobs that take the place of a record. Those that are stored are taken out.

    So a store that is full for longer than the server knows a record's name by gets none twice.
    """

    wholes: tuple[Job, ...]  # what the record holds
    left: deque[tuple[Job, Job]]  # each with the one that it is a part of
    is_begun: bool = False

    @classmethod
    def of(cls, jobs: Sequence[Job], *, of: Job | None = None) -> Division:
        """Return that of a record of several jobs, or of one job into these."""
        if of is not None:
            return cls((of,), deque((job, of) for job in jobs))
        return cls(tuple(jobs), deque((job, job) for job in jobs))


class RemainsStore:
    """Stores what remains of the jobs that one process attempts."""

    def __init__(
        self,
        connection: QueueConnection,
        bodies: BodyStore,
        log: Logger,
        clock: Clock,
        lane_grows: Callable[[int], None],
    ) -> None:
        """`lane_grows` is told the size of each record stored in a lane."""
        self._names = connection.names
        self._publisher = Publisher(connection)
        self._failed = FailedStore(connection, self._publisher)
        self._bodies = bodies
        self._log = log
        self._clock = clock
        self._lane_grows = lane_grows
        # Bodies of jobs whose settling is under way, and when they were written.
        self._written: dict[str, tuple[Body, Writing]] = {}
        # Resends that this process claimed and has not settled.
        self._resends: dict[ResendMark, ResendClaim] = {}

    async def store_all(self, claim: Claim, job: Job, rest: FollowUp) -> FollowUp:
        """Store what remains; returns it as it was stored.

        Raises SettledElsewhereError, and QueueFullError: the caller keeps the outcome.
        """
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
            await self._store_done(claim, job, kept.outcomes[0])
            passed("settle.done_stored")
        return kept

    async def store_unreadable(
        self, claim: Claim, place: UnreadablePlace, error: RecordError
    ) -> None:
        """Keep a record that cannot be read in the failed store, as it is."""

        async def store() -> None:
            await self._failed.store_unreadable(
                place, claim.payload, str(error), guard=self._look(claim)
            )

        await self._until_done("store", place.submission, store)

    async def store_first(self, claim: Claim, division: Division) -> None:
        """Store the first job that is left of a division, in lane `now`, and take it out.

        Raises SettledElsewhereError, QueueFullError.
        """
        job, whole = division.left[0]
        if job is not whole and (body := await self._body_of(claim, whole)) is not None:
            job = replace(job, content=b"", body=body)
        record = self._lane_record(job, message_id(job, "divided", job.recipients))
        await self._store(claim, whole, record, job.body)
        division.left.popleft()
        division.is_begun = True
        self._lane_grows(len(record.payload))

    def forget(self, claim: Claim, job: Job) -> None:
        """Keep nothing more of a job that was settled."""
        self._written.pop(_body_key(job), None)
        self._resends.pop(_mark(claim), None)

    async def claimed_resend(self, claim: Claim, job: Job) -> ResendClaim | None:
        """Return what allows this claim to resend its failed record (queue rule 8), if it may."""
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

    async def delivered_by(self, claim: Claim, job: Job) -> Outcome | None:
        """Return how this very resend was delivered before its record came again, if it was."""
        found: list[Outcome | None] = []

        async def ask() -> None:
            found.append(await self._failed.delivered_by(job, _mark(claim)))

        await self._until_done("look at the tombstone", job.submission, ask)
        return found[-1]

    async def _with_stored_body(self, claim: Claim, job: Job, rest: FollowUp) -> FollowUp:
        """Put content that would be written again into the body stream, once."""
        again = rest.deferred is not None or bool(rest.failed)
        body = await self._body_of(claim, job) if again else None
        if body is None:
            return rest
        deferred = replace(rest.deferred, content=b"", body=body) if rest.deferred else None
        failed = tuple(
            replace(record, job=replace(record.job, content=b"", body=body))
            for record in rest.failed
        )
        return replace(rest, deferred=deferred, failed=failed)

    async def _body_of(self, claim: Claim, job: Job) -> Body | None:
        """Store content that is too large to be copied as a body; None when it is copied."""
        if job.body is not None or len(job.content) <= MAX_COPIED_BYTES:
            return None
        try:
            return await self._store_body(claim, job)
        except QueueFullError:
            return None  # copied after all: what waits for room may be what would make it

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

    async def store_in_lane(self, claim: Claim, job: Job, name: str) -> None:
        """Store a job in the lane it waits in, under that message id."""
        await self._store(claim, job, self._lane_record(job, name))

    def _lane_record(self, job: Job, name: str) -> Record:
        lane = lane_for(job.due - self._clock())
        subject = self._names.lane_subject(lane, body_token(job))
        return Record(subject, encode_jobs([job]), name)

    async def _store_failed(self, claim: Claim, job: Job, record: FailedRecord) -> None:
        guard = self._guard(claim, job, record.job.body)

        async def store() -> None:
            if job.resend_of:
                resend = await self.claimed_resend(claim, job)
                if resend is not None:
                    await self._failed.store_again(record, resend, guard)
            elif job.release is not None:
                await self._failed.store_released(record, guard)
            else:
                await self._failed.store(record, guard)

        await self._until_done(
            "store", job.submission, self._keeps_body(job, record.job.body, store)
        )

    async def _store_done(self, claim: Claim, job: Job, outcome: Outcome) -> None:
        async def store() -> None:
            resend = await self.claimed_resend(claim, job)
            if resend is not None:
                delivery = Delivery(_mark(claim), outcome)
                await self._failed.store_done(job, resend, self._look(claim), delivery=delivery)

        await self._until_done("store", job.submission, store)

    async def _store_captured(self, claim: Claim, job: Job) -> None:
        record = CaptureRecord(job, self._clock())
        subject = self._names.capture_subject(
            job.submission, job.batch, recipients_hash(job.recipients)
        )
        name = message_id(job, "captured", job.recipients)
        made = Record(subject, encode_capture(record), name, ONLY_IF_FREE)

        async def store() -> None:
            # Whoever is there was captured by an attempt that was repeated.
            with contextlib.suppress(QueueMovedOnError):
                await self._publisher.store(made, guard=self._guard(claim, job, None))

        await self._until_done("store", job.submission, store)

    async def _store(
        self, claim: Claim, job: Job, record: Record, body: Body | None = None
    ) -> None:
        guard = self._guard(claim, job, body)

        async def store() -> None:
            await self._publisher.store(record, guard=guard)

        await self._until_done("store", job.submission, self._keeps_body(job, body, store))

    async def _until_done(
        self, what: str, submission: QueueId, step: Callable[[], Awaitable[None]]
    ) -> None:
        """Repeat a step until the queue has confirmed it; the claim is held meanwhile.

        Raises QueueFullError: the caller keeps the outcome and comes again.
        """
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                return await step()
            except QueueFullError as error:
                # Room comes from other mail's attempts, which need what this one would hold.
                self._log.warning("settle.repeats", step=what, id=submission, error=str(error))
                raise
            except QueueError as error:
                held_up.inc()
                self._log.warning("settle.repeats", step=what, id=submission, error=str(error))
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _mark(claim: Claim) -> ResendMark:
    return ResendMark(claim.stream, claim.sequence, claim.stored_at)


def _body_key(job: Job) -> str:
    """Name a job among those being settled: resends and releases share its submission."""
    return message_id(job, "body", job.recipients)
