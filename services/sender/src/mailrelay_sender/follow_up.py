"""What remains of a job after an attempt: a deferred job, failed records, or nothing. Pure.

A resend is one attempt: whatever does not succeed puts the failed record back in place, and the
record's age plays no part. A release has the whole schedule, counted from when it was asked for. A
fault of our own is a temporary failure; the third one in a row of a job ends it in the failed
store with the evidence (queue rule 13).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mailrelay.mail.disposition import Disposition, Outcome
from mailrelay.mail.job import FailedRecord, Job, Recipient, Try, recipients_hash
from mailrelay.mail.retry import RetrySchedule

MAX_FAULTS = 3


@dataclass(frozen=True, slots=True)
class FollowUp:
    """What to store before the attempted job is acked."""

    outcomes: tuple[Outcome, ...]  # final for this attempt: DEFERRED may have become EXPIRED
    deferred: Job | None
    failed: tuple[FailedRecord, ...]
    captured: Job | None
    done: bool  # a resend that succeeded: the failed record goes


def follow_up(
    job: Job,
    outcomes: list[Outcome],
    schedule: RetrySchedule,
    *,
    now: float,
    chance: float,
    fault: bool = False,
) -> FollowUp:
    """Decide what remains. `now` is seconds since the epoch, `chance` in [0, 1) the jitter."""
    due = None if job.resend_of else _next_due(job, schedule, now=now, chance=chance, fault=fault)
    final = tuple(_expired(outcome) if due is None else outcome for outcome in outcomes)
    by_number = {outcome.recipient: outcome for outcome in final}
    deferred: list[Recipient] = []
    captured: list[Recipient] = []
    failed: list[FailedRecord] = []
    for recipient in job.recipients:
        outcome = by_number[recipient.number]
        latest = Try(job.attempt, now, outcome.next_hop, outcome.reply)
        tried = recipient.tried(latest, job.history_kept)
        if outcome.disposition is Disposition.DEFERRED:
            deferred.append(tried)
        elif outcome.disposition is Disposition.CAPTURED:
            captured.append(tried)
        elif outcome.disposition.is_failure:
            record = replace(job, recipients=(tried,), resend_of=0)
            failed.append(FailedRecord(record, outcome.disposition, now))
    return FollowUp(
        outcomes=final,
        deferred=job.deferred(tuple(deferred), due, fault=fault)
        if deferred and due is not None
        else None,
        failed=tuple(failed),
        captured=replace(job, recipients=tuple(captured)) if captured else None,
        done=bool(job.resend_of) and not failed,
    )


def message_id(job: Job, kind: str, recipients: tuple[Recipient, ...]) -> str:
    """Name a follow-up by exactly its content (queue rule 5)."""
    resend = f"/r{job.resend_of}" if job.resend_of else ""
    release = f"/l{job.release.id}" if job.release else ""
    of_what = f"{job.name}/{job.attempt}/{kind}/{recipients_hash(recipients)}/{job.hop}"
    return f"{of_what}{resend}{release}"


def _next_due(
    job: Job, schedule: RetrySchedule, *, now: float, chance: float, fault: bool
) -> float | None:
    if fault and job.faults + 1 >= MAX_FAULTS:
        return None
    # Captured mail may be old when it is let go; its schedule begins then.
    since = job.release.at if job.release else job.accepted_at
    return schedule.next_due(job.attempt, accepted_at=since, now=now, chance=chance)


def _expired(outcome: Outcome) -> Outcome:
    if outcome.disposition is Disposition.DEFERRED:
        return replace(outcome, disposition=Disposition.EXPIRED)
    return outcome
