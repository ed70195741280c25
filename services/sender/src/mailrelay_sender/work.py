"""One slot's life: take a claimed record, try it, have it settled, again and again."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from dataclasses import dataclass, field
from typing import ClassVar

from prometheus_client import Gauge

from mailrelay.config.model import RelayConfig, Retry
from mailrelay.mail.disposition import Disposition
from mailrelay.mail.job import Job
from mailrelay.mail.retry import RetrySchedule
from mailrelay.queue.bodies import BodyStore
from mailrelay.queue.errors import QueueFullError
from mailrelay.runtime.clock import Clock
from mailrelay.runtime.logging import Logger
from mailrelay.runtime.tasks import BoundedTasks
from mailrelay.runtime.tracing import Tracing
from mailrelay_sender.attempt import AttemptResult, attempt, capture, leave_out
from mailrelay_sender.classify import not_tried
from mailrelay_sender.follow_up import FollowUp, follow_up
from mailrelay_sender.pacing import Pacing
from mailrelay_sender.plan import Plan
from mailrelay_sender.quarantine import NotBegunError, Quarantine
from mailrelay_sender.remains import Division
from mailrelay_sender.report import attempt_seconds
from mailrelay_sender.route import Route
from mailrelay_sender.settle import Settler
from mailrelay_sender.slots import Slots, Work
from mailrelay_sender.suspicion import Key
from mailrelay_sender.upstream import Upstream

_in_flight = Gauge("mailrelay_deliveries_in_flight", "Attempts under way.")
_FAULT_PAUSE_SECONDS = 5.0
MAX_UNSETTLED = 1000
# Enough to keep the queue's group commits full; after a crash these jobs are repeated at most.
MAX_SETTLING = 32
MAX_SUSPECTS = 16  # waiting to be tried alone; the others come again later
_SUSPECT_PAUSE_SECONDS = 30.0

MAX_PARKED = 32  # then no new mail is claimed: each may hold a megabyte
_PARKED_SECONDS = 1.0
_FULL_PAUSE_SECONDS = 5.0


class _LetGoError(Exception):
    """Another sender may have been given the job before its first RCPT here."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What remains of a job behind an attempt."""

    rest: FollowUp
    seconds: float  # that the attempt took
    route: str


Result = Tried | Division | None  # None: a resend that may not go on
Parked = deque[tuple[Work, Result]]  # settled as soon as the queue has room again
_NOTHING_YET = FollowUp((), None, (), None, done=False)


def open_jobs(slots: int) -> int:
    """Return how many jobs a sender with `slots` may have that still need room in a lane."""
    return slots + MAX_SETTLING + MAX_SUSPECTS + MAX_PARKED


def schedule_of(retry: Retry) -> RetrySchedule:
    """Return the retry schedule of a configuration."""
    return RetrySchedule(
        max_attempts=retry.max_attempts,
        initial_interval_seconds=retry.initial_interval_seconds,
        multiplier=retry.multiplier,
        max_interval_seconds=retry.max_interval_seconds,
        max_age_seconds=retry.max_age_seconds,
    )


@dataclass(slots=True)
class Patience:
    """How long an attempt may take and when the next one is; follows the configuration."""

    schedule: RetrySchedule
    attempt_limit_seconds: float

    FOLLOWS: ClassVar = ("retry", "processingTimeout")

    @classmethod
    def of(cls, config: RelayConfig) -> Patience:
        """Return what a configuration says."""
        return cls(schedule_of(config.retry), config.processing_timeout)

    def use(self, config: RelayConfig) -> None:
        """Take new values: they hold for what begins or is deferred from now on."""
        self.schedule = schedule_of(config.retry)
        self.attempt_limit_seconds = config.processing_timeout


@dataclass(frozen=True, slots=True)
class WorkParts:
    """What all slots share."""

    slots: Slots
    settler: Settler
    bodies: BodyStore
    upstream: Upstream
    pacing: Pacing
    quarantine: Quarantine
    patience: Patience
    tracing: Tracing
    log: Logger
    clock: Clock
    parked: Parked
    unsettled: dict[Key, Tried | Division] = field(default_factory=dict)
    settling: BoundedTasks = field(default_factory=lambda: BoundedTasks(MAX_SETTLING))
    suspects: BoundedTasks = field(default_factory=lambda: BoundedTasks(MAX_SUSPECTS))


async def work_slot(parts: WorkParts) -> None:
    """Work until cancelled. A claim that is not settled then comes back after `ack_wait`.

    A slot is one delivery at a time. Settling waits for the queue's disk and not for the next
    hop, so it goes on beside the slot's next delivery, within `MAX_SETTLING`.
    """
    while True:
        work = await parts.slots.next_work()
        if not parts.slots.is_suspicious(work):
            await _through(parts, work)
        elif parts.suspects.is_full:
            await parts.slots.give_back(work, _SUSPECT_PAUSE_SECONDS)
        else:
            # It waits its turn to be tried alone without keeping a slot from other mail.
            await parts.suspects.start(_through(parts, work))


async def _through(parts: WorkParts, work: Work) -> None:
    """Attempt a record's job and have it settled."""
    try:
        tried = await _deliver(parts, work)
    except NotBegunError:
        await parts.slots.give_back(work)
    except _LetGoError:
        parts.slots.let_go(work)
    except Exception as error:  # noqa: BLE001 — a bug must not end the slot
        await _set_aside(parts, work, error)
    else:
        await parts.settling.start(_finish(parts, work, tried))


async def settle_parked(parts: WorkParts) -> None:
    """Settle again, until cancelled, what was sent in part and finds the queue full.

    Such a job holds its claim and neither a slot nor a place in `settling`, so that due mail is
    tried and makes room; new mail is not claimed while many wait (queue rule 7).
    """
    while True:
        await asyncio.sleep(_PARKED_SECONDS)
        for _ in range(len(parts.parked)):
            await parts.settling.start(_finish(parts, *parts.parked.popleft()))
        parts.slots.wake_new()


async def _deliver(parts: WorkParts, work: Work) -> Result:
    """Attempt a record's job, or find that there is nothing to attempt as it is."""
    job = work.jobs[0]
    known = parts.unsettled.pop(work.key, None)
    if known is not None:
        return known
    if len(work.jobs) > 1:
        return Division.of(work.jobs)
    if job.resend_of and not await parts.settler.claim_resend(work.claim, job):
        return None
    if not work.claim.is_surely_ours:  # claiming it took time
        raise NotBegunError
    plan = parts.upstream.plan
    shares = plan.routing.shares(job)
    if work.stopped_by:
        return _left_out(parts, job, work.stopped_by, shares[0].route)
    if len(shares) > 1:
        parts.log.info(
            "mail.divided",
            id=job.submission,
            batch=f"{job.batch}/{job.batches}",
            recipients={share.route.name: len(share.job.recipients) for share in shares},
        )
        await parts.pacing.ended(job, _NOTHING_YET)
        return Division.of([share.job for share in shares], of=job)
    tried = await _tried(parts, work, plan, shares[0].route)
    await parts.pacing.ended(job, tried.rest)
    return tried


async def _finish(parts: WorkParts, work: Work, result: Result) -> None:
    if isinstance(result, Division) and not (result.is_begun or work.claim.is_surely_ours):
        await parts.slots.give_back(work)  # waiting took time: another sender may divide it
        return
    try:
        await _settle(parts, work, result)
    except QueueFullError:
        if result is None or _is_forgettable(result):
            # The record stays as it is, and is tried again: that may make room, which waiting
            # for room to note one more deferral never does.
            await parts.slots.give_back(work, _FULL_PAUSE_SECONDS)
        else:
            parts.parked.append((work, result))
    except Exception as error:  # noqa: BLE001 — a bug must not lose the outcomes
        if result is not None:
            # It comes back: then it is settled from memory, never attempted again (rule 4).
            parts.unsettled[work.key] = result
            if len(parts.unsettled) > MAX_UNSETTLED:
                del parts.unsettled[next(iter(parts.unsettled))]
        await _set_aside(parts, work, error)
    else:
        parts.slots.finished(work)


def _is_forgettable(result: Tried | Division) -> bool:
    """Whether nothing was changed outside, so that it may as well not have been."""
    if isinstance(result, Division):
        return not result.is_begun
    return all(
        outcome.disposition in {Disposition.DEFERRED, Disposition.CAPTURED}
        for outcome in result.rest.outcomes
    )


async def _settle(parts: WorkParts, work: Work, result: Result) -> None:
    job = work.jobs[0]
    if isinstance(result, Tried):
        await parts.settler.settle(
            work.claim, job, result.rest, route=result.route, duration_seconds=result.seconds
        )
    elif isinstance(result, Division):
        await parts.settler.divide(work.claim, result)
    else:
        [share] = parts.upstream.plan.routing.shares(job)  # a resend has one recipient
        await parts.settler.drop_stale_resend(work.claim, job, route=share.route.name)


async def _set_aside(parts: WorkParts, work: Work, error: Exception) -> None:
    """Give a record back on which our own code failed: it is neither lost nor hot."""
    parts.log.error("sender.fault", id=work.jobs[0].submission, exc_info=error)
    await parts.slots.give_back(work, _FAULT_PAUSE_SECONDS)


async def _tried(parts: WorkParts, work: Work, plan: Plan, route: Route) -> Tried:
    """Attempt the job; return what remains of it, and the seconds it took."""
    job = work.jobs[0]
    span = parts.tracing.start("mailrelay attempt", job.traceparent)
    started = time.monotonic()
    with _in_flight.track_inprogress():
        result = await _try(parts, work, plan, route)
    duration = time.monotonic() - started
    if result.is_let_go:
        span.end({"mailrelay.queue_id": job.submission}, error="let go")
        raise _LetGoError
    attempt_seconds.labels(route.name).observe(duration)
    if result.fault is not None:
        parts.log.error("sender.fault", id=job.submission, exc_info=result.fault)
    rest = follow_up(
        job,
        result.outcomes,
        parts.patience.schedule,
        now=parts.clock(),
        chance=random.random(),  # noqa: S311 — spreads retries, guards nothing
        fault=result.fault is not None,
    )
    worst = next((o for o in rest.outcomes if not o.disposition.is_final), None) or next(
        (o for o in rest.outcomes if o.disposition.is_failure), None
    )
    span.end(
        {
            "mailrelay.queue_id": job.submission,
            "mailrelay.batch": job.batch,
            "mailrelay.attempt": job.attempt,
            "mailrelay.recipients": len(job.recipients),
            "server.address": rest.outcomes[0].next_hop,
        },
        error=str(worst.reply) if worst else "",
    )
    return Tried(rest, duration, route.name)


def _left_out(parts: WorkParts, job: Job, stopped_by: int, route: Route) -> Tried:
    """End a job untried (`continueOnError` is false)."""
    result = leave_out(job, not_tried(stopped_by, job.batches))
    now = parts.clock()
    rest = follow_up(job, result.outcomes, parts.patience.schedule, now=now, chance=0.0)
    return Tried(rest, 0.0, route.name)


async def _try(parts: WorkParts, work: Work, plan: Plan, route: Route) -> AttemptResult:
    job = work.jobs[0]
    if parts.slots.is_suspicious(work):
        return await parts.quarantine.attempt(
            job,
            route.next_hop,
            work.claim.delivered,
            lambda: work.claim.is_surely_ours and not parts.slots.is_stopping,
        )
    hosts = await parts.upstream.hosts(route, plan)
    if hosts is None:
        return capture(job, plan.captured)
    return await attempt(
        job,
        hosts,
        parts.bodies.pieces,
        parts.patience.attempt_limit_seconds,
        is_ours=lambda: work.claim.is_surely_ours,
    )
