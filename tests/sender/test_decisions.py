"""What a reply means, and what remains of a job. Pure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelay.mail.disposition import Disposition, Outcome
from mailrelay.mail.job import Job, Recipient, recipients_hash
from mailrelay.mail.reply import Reply
from mailrelay.mail.retry import RetrySchedule
from mailrelay.queue.wire import encode_jobs
from mailrelay_sender import classify
from mailrelay_sender.attempt import leave_out
from mailrelay_sender.classify import Stage, disposition_of, is_accepted
from mailrelay_sender.follow_up import MAX_FAULTS, FollowUp, follow_up, message_id
from tests.lib.jobs import ACCEPTED_AT, make_job

SENT, DEFERRED, BOUNCED = Disposition.SENT, Disposition.DEFERRED, Disposition.BOUNCED
EXPIRED, CAPTURED = Disposition.EXPIRED, Disposition.CAPTURED


@pytest.mark.parametrize(
    ("stage", "code", "disposition"),
    [
        (Stage.CONTENT, 250, SENT),
        (Stage.CONTENT, 251, SENT),
        (Stage.CONTENT, 354, DEFERRED),
        (Stage.CONTENT, 421, DEFERRED),
        (Stage.CONTENT, 450, DEFERRED),
        (Stage.CONTENT, 552, BOUNCED),
        (Stage.CONTENT, 554, BOUNCED),
        (Stage.DATA, 250, DEFERRED),
        (Stage.DATA, 451, DEFERRED),
        (Stage.DATA, 503, BOUNCED),
        (Stage.DATA, 554, BOUNCED),
        (Stage.RCPT, 450, DEFERRED),
        (Stage.RCPT, 452, DEFERRED),
        (Stage.RCPT, 550, BOUNCED),
        (Stage.RCPT, 552, DEFERRED),  # RFC 5321 section 4.5.3.1.10
        (Stage.RCPT, 553, BOUNCED),
        (Stage.RCPT, 354, DEFERRED),
        (Stage.RCPT, 421, DEFERRED),
        (Stage.MAIL, 421, DEFERRED),
        (Stage.MAIL, 451, DEFERRED),
        (Stage.MAIL, 550, BOUNCED),
        (Stage.MAIL, 552, BOUNCED),
        (Stage.MAIL, 251, DEFERRED),
        *[(Stage.CONNECTION, code, DEFERRED) for code in (220, 421, 451, 500, 521, 530, 535, 554)],
    ],
)
def test_a_reply_at_a_stage_has_its_meaning(
    stage: Stage, code: int, disposition: Disposition
) -> None:
    assert disposition_of(stage, Reply(code, "", "")) is disposition


@given(st.sampled_from(Stage), st.integers(-1, 999))
def test_nothing_but_2yz_behind_the_final_dot_is_sent(stage: Stage, code: int) -> None:
    disposition = disposition_of(stage, Reply(code, "", ""))
    assert (disposition is SENT) == (stage is Stage.CONTENT and code // 100 == 2)
    if disposition is BOUNCED:
        assert 500 <= code < 600


@pytest.mark.parametrize(
    ("stage", "codes"),
    [
        (Stage.MAIL, set(range(200, 300))),
        (Stage.RCPT, set(range(200, 300))),
        (Stage.DATA, {354}),
        (Stage.CONTENT, set(range(200, 300))),
    ],
)
def test_the_attempt_goes_on_after_these_replies_only(stage: Stage, codes: set[int]) -> None:
    assert {c for c in range(100, 600) if is_accepted(stage, Reply(c, "", ""))} == codes


@pytest.mark.parametrize(
    "reply",
    [
        classify.cannot_connect("h:1", "w"),
        classify.connection_lost("h:1", "w"),
        classify.tls_failed("h:1", "w"),
        classify.auth_failed("h:1", "550 5.7.1 w"),
        classify.timed_out("h:1", 3),
        classify.body_unreadable("w"),
        classify.internal_fault("w"),
    ],
    ids=str,
)
def test_what_no_server_said_is_temporary(reply: Reply) -> None:
    assert reply.code == 451
    assert reply.enhanced.startswith("4.")
    assert reply.text
    for stage in Stage:
        assert disposition_of(stage, reply) is DEFERRED


# --- Follow-ups ---------------------------------------------------------------------------------

SCHEDULE = RetrySchedule(100, 60, 2, 14400, 5 * 86400)
DECIDED = [SENT, DEFERRED, BOUNCED, CAPTURED]


def decide(
    job: Job, dispositions: list[Disposition], *, now: float = ACCEPTED_AT, fault: bool = False
) -> FollowUp:
    outcomes = [
        Outcome(recipient.number, disposition, Reply(450, "", ""), "hop")
        for recipient, disposition in zip(job.recipients, dispositions, strict=True)
    ]
    return follow_up(job, outcomes, SCHEDULE, now=now, chance=0.5, fault=fault)


MIXED = st.lists(st.sampled_from(DECIDED), min_size=1, max_size=12)
AGES = st.floats(0, 6 * 86400)


@given(MIXED, AGES, st.integers(1, 120), st.booleans(), st.integers(0, 3), st.booleans())
def test_every_recipient_goes_exactly_one_way(
    dispositions: list[Disposition],
    age: float,
    attempt: int,
    resend: bool,
    faults: int,
    fault: bool,
) -> None:
    job = make_job(len(dispositions), attempt=attempt, faults=faults, resend_of=7 if resend else 0)
    rest = decide(job, dispositions, now=ACCEPTED_AT + age, fault=fault)
    sent = [o.recipient for o in rest.outcomes if o.disposition is SENT]
    deferred = [r.number for r in rest.deferred.recipients] if rest.deferred else []
    captured = [r.number for r in rest.captured.recipients] if rest.captured else []
    failed = [record.recipient.number for record in rest.failed]
    ways = sorted(sent + deferred + captured + failed)
    assert ways == [recipient.number for recipient in job.recipients]
    kept = {o.recipient: o.disposition for o in rest.outcomes}
    assert all(kept[number] is DEFERRED for number in deferred)
    assert all(kept[number].is_failure for number in failed)
    assert all(kept[number] is CAPTURED for number in captured)
    for record in rest.failed:
        assert len(record.job.recipients) == 1
        assert record.job.resend_of == 0
        assert record.disposition is kept[record.recipient.number]
        assert record.recipient.tries[-1].attempt == attempt
    if rest.deferred:
        assert rest.deferred.attempt == attempt + 1
        assert ACCEPTED_AT + age <= rest.deferred.due <= ACCEPTED_AT + SCHEDULE.max_age_seconds
        assert rest.deferred.submission == job.submission
    if resend:
        assert rest.deferred is None
        assert rest.done == (not rest.failed)
    else:
        assert not rest.done


@given(MIXED, MIXED)
def test_names_differ_when_what_remains_does(
    one: list[Disposition], other: list[Disposition]
) -> None:
    size = max(len(one), len(other))
    job = make_job(size)

    def names(found: list[Disposition]) -> dict[str, object]:
        rest = decide(job, found + [SENT] * (size - len(found)))
        named: dict[str, object] = {}
        if rest.deferred:
            named[message_id(job, "deferred", rest.deferred.recipients)] = rest.deferred
        for record in rest.failed:
            name = message_id(job, record.disposition.value, record.job.recipients)
            assert name not in named
            named[name] = record
        if rest.captured:
            named[message_id(job, "captured", rest.captured.recipients)] = rest.captured
        return named

    first, second = names(one), names(other)
    for name in first.keys() & second.keys():
        assert first[name] == second[name]


def test_a_name_tells_attempt_hop_batch_and_resend_apart() -> None:
    plain = make_job(2)
    variants = [
        plain,
        make_job(2, attempt=2),
        make_job(2, hop=1),
        make_job(2, batch=2),
        make_job(2, resend_of=9),
        make_job(3),
    ]
    names = {message_id(job, "deferred", job.recipients) for job in variants}
    assert len(names) == len(variants)
    assert message_id(plain, "deferred", plain.recipients) == (
        f"{plain.submission}.1/1/deferred/{recipients_hash(plain.recipients)}/0"
    )


def test_a_recipient_deferred_to_the_end_of_the_schedule_has_expired() -> None:
    rest = decide(make_job(2), [DEFERRED, SENT], now=ACCEPTED_AT + 5 * 86400)
    assert [o.disposition for o in rest.outcomes] == [EXPIRED, SENT]
    assert rest.deferred is None
    assert rest.failed[0].disposition is EXPIRED


def test_the_third_fault_of_a_job_ends_it_with_the_evidence() -> None:
    job = make_job(1)
    for count in range(1, MAX_FAULTS):
        rest = decide(job, [DEFERRED], fault=True)
        assert rest.deferred is not None
        assert rest.deferred.faults == count
        job = rest.deferred
    rest = decide(job, [DEFERRED], fault=True)
    assert rest.deferred is None
    assert len(rest.failed[0].recipient.tries) == MAX_FAULTS


def test_a_resend_that_is_deferred_is_a_failed_record_again() -> None:
    rest = decide(make_job(1, resend_of=5), [DEFERRED])
    assert rest.failed[0].disposition is EXPIRED
    assert not rest.done
    assert decide(make_job(1, resend_of=5), [SENT]).done


def test_each_recipient_keeps_its_own_history() -> None:
    rest = decide(make_job(2), [DEFERRED, DEFERRED])
    assert rest.deferred is not None
    again = decide(rest.deferred, [BOUNCED, DEFERRED])
    assert [t.attempt for t in again.failed[0].recipient.tries] == [1, 2]
    assert again.deferred is not None
    assert again.deferred.recipients[0] == Recipient(
        1, "r1@reader.test", again.deferred.recipients[0].tries
    )


def test_a_large_job_that_is_deferred_for_days_keeps_a_history_that_fits() -> None:
    job = make_job(1000)
    schedule = RetrySchedule(1000, 60, 2, 14400, 5 * 86400)
    later = Reply(451, "4.2.0", "x" * 512)
    for _ in range(60):
        outcomes = [Outcome(n, Disposition.DEFERRED, later, "next:25") for n in range(1000)]
        rest = follow_up(job, outcomes, schedule, now=job.accepted_at, chance=0.5)
        assert rest.deferred is not None
        job = rest.deferred
    assert len(encode_jobs([job])) < 4 * 1024 * 1024
    assert [each.attempt for each in job.recipients[0].tries] == [1, 58, 59, 60]


# --- Left out -----------------------------------------------------------------------------------


def test_a_job_that_is_left_out_ends_in_failed_records_that_say_so() -> None:
    job = make_job(3, batch=4, batches=9)
    result = leave_out(job, classify.not_tried(2, job.batches))
    rest = follow_up(job, result.outcomes, SCHEDULE, now=ACCEPTED_AT, chance=0.5)
    assert rest.deferred is None
    assert rest.captured is None
    assert [record.disposition for record in rest.failed] == [Disposition.NOT_TRIED] * 3
    for record in rest.failed:
        assert record.recipient.tries[-1].reply.is_permanent
        assert "not tried" in record.recipient.tries[-1].reply.text
        assert "batch 2 of 9" in str(record.recipient.tries[-1].reply)
    assert Disposition.NOT_TRIED.is_final
    assert Disposition.NOT_TRIED.is_failure
