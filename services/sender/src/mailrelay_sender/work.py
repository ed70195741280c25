"""One slot's life: take a claimed record, try it, have it settled, again and again."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from dataclasses import dataclass, field
from typing import ClassVar

from prometheus_client import Gauge, Histogram

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
from mailrelay_sender.classify import CAPTURED, not_tried
from mailrelay_sender.follow_up import FollowUp, follow_up
from mailrelay_sender.pacing import Pacing
from mailrelay_sender.quarantine import NotBegunError, Quarantine
from mailrelay_sender.route import NamedHop, Route, SmartHost, route_of_job
from mailrelay_sender.settle import Settler
from mailrelay_sender.slots import Slots, Work
from mailrelay_sender.suspicion import Key
from mailrelay_sender.upstream import Upstream

_in_flight = Gauge("mailrelay_deliveries_in_flight", "Attempts under way.")
_attempt_seconds = Histogram(
    "mailrelay_attempt_seconds",
    "How long an attempt took.",
    ["route"],  # capture, smarthost, named: by hand, with a release
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 30, 120, 600),
)
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


Tried = tuple[FollowUp, float]  # what remains of a job, and the seconds the attempt took
Parked = deque[tuple[Work, Tried | None]]  # settled as soon as the queue has room again


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
    unsettled: dict[Key, Tried] = field(default_factory=dict)
    settling: BoundedTasks = field(default_factory=lambda: BoundedTasks(MAX_SETTLING))
    suspects: BoundedTasks = field(default_factory=lambda: BoundedTasks(MAX_SUSPECTS))

    @property
    def route(self) -> Route:
        """Where mail goes now."""
        return self.upstream.route


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


async def _deliver(parts: WorkParts, work: Work) -> Tried | None:
    """Attempt a record's job; None when there is nothing to attempt."""
    job = work.jobs[0]
    if len(work.jobs) > 1:
        return None
    known = parts.unsettled.pop(work.key, None)
    if known is not None:
        return known
    if job.resend_of and not await parts.settler.claim_resend(work.claim, job):
        return None
    if not work.claim.is_surely_ours:  # claiming it took time
        raise NotBegunError
    if work.stopped_by:
        return _left_out(parts, job, work.stopped_by)
    tried = await _tried(parts, work)
    await parts.pacing.ended(job, tried[0])
    return tried


async def _finish(parts: WorkParts, work: Work, tried: Tried | None) -> None:
    try:
        await _settle(parts, work, tried)
    except QueueFullError:
        if tried is not None and _is_forgettable(tried[0]):
            # The record stays as it is, and is tried again: that may make room, which waiting
            # for room to note one more deferral never does.
            await parts.slots.give_back(work, _FULL_PAUSE_SECONDS)
        else:
            parts.parked.append((work, tried))
    except Exception as error:  # noqa: BLE001 — a bug must not lose the outcomes
        if tried is not None:
            # It comes back: then it is settled from memory, never attempted again (rule 4).
            parts.unsettled[work.key] = tried
            if len(parts.unsettled) > MAX_UNSETTLED:
                del parts.unsettled[next(iter(parts.unsettled))]
        await _set_aside(parts, work, error)
    else:
        parts.slots.finished(work)


def _is_forgettable(rest: FollowUp) -> bool:
    """Whether an attempt changed nothing outside, so that it may as well not have been."""
    return all(
        outcome.disposition in {Disposition.DEFERRED, Disposition.CAPTURED}
        for outcome in rest.outcomes
    )


async def _settle(parts: WorkParts, work: Work, tried: Tried | None) -> None:
    job = work.jobs[0]
    if tried is not None:
        rest, duration = tried
        await parts.settler.settle(
            work.claim, job, rest, route=_route(parts, job).name, duration_seconds=duration
        )
    elif len(work.jobs) > 1:
        await parts.settler.unbundle(work.claim, work.jobs)
    else:
        await parts.settler.drop_stale_resend(work.claim, job, route=_route(parts, job).name)


async def _set_aside(parts: WorkParts, work: Work, error: Exception) -> None:
    """Give a record back on which our own code failed: it is neither lost nor hot."""
    parts.log.error("sender.fault", id=work.jobs[0].submission, exc_info=error)
    await parts.slots.give_back(work, _FAULT_PAUSE_SECONDS)


async def _tried(parts: WorkParts, work: Work) -> Tried:
    """Attempt the job; return what remains of it, and the seconds it took."""
    job = work.jobs[0]
    span = parts.tracing.start("mailrelay attempt", job.traceparent)
    started = time.monotonic()
    with _in_flight.track_inprogress():
        result = await _try(parts, work)
    duration = time.monotonic() - started
    if result.is_let_go:
        span.end({"mailrelay.queue_id": job.submission}, error="let go")
        raise _LetGoError
    _attempt_seconds.labels(_route(parts, job).name).observe(duration)
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
            "server.address": _next_hop(_route(parts, job)),
        },
        error=str(worst.reply) if worst else "",
    )
    return rest, duration


def _left_out(parts: WorkParts, job: Job, stopped_by: int) -> Tried:
    """End a job untried (`continueOnError` is false)."""
    result = leave_out(job, not_tried(stopped_by, job.batches))
    now = parts.clock()
    return follow_up(job, result.outcomes, parts.patience.schedule, now=now, chance=0.0), 0.0


async def _try(parts: WorkParts, work: Work) -> AttemptResult:
    job = work.jobs[0]
    route = _route(parts, job)
    upstream = parts.upstream
    if parts.slots.is_suspicious(work):
        return await parts.quarantine.attempt(
            job,
            _next_hop(route),
            work.claim.delivered,
            lambda: work.claim.is_surely_ours and not parts.slots.is_stopping,
        )
    pool = upstream.pool
    if isinstance(route, NamedHop):
        pool = await upstream.named_hops.pool(route)
    if not isinstance(route, SmartHost) or pool is None:
        return capture(job, CAPTURED)
    limit_seconds = parts.patience.attempt_limit_seconds
    return await attempt(
        job,
        pool,
        route.next_hop,
        parts.bodies.pieces,
        limit_seconds,
        is_ours=lambda: work.claim.is_surely_ours,
    )


def _route(parts: WorkParts, job: Job) -> Route:
    return route_of_job(job, parts.route)


def _next_hop(route: Route) -> str:
    return route.next_hop if isinstance(route, SmartHost) else route.name
