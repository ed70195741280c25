"""The judge on books written by hand: what it must find, and what it must not excuse."""

from __future__ import annotations

from dataclasses import replace

from tests.chaos.books import Attempt, Books
from tests.chaos.faults import Happening
from tests.chaos.judge import SETTLE_SECONDS, Judgement, judge
from tests.chaos.plan import Fault, Kind
from tests.support.deliveries import Delivery
from tests.support.ledger import Ledger, LedgerEntry, Outcome

RCPT = "r0@load.test"
ALL_READY = [float(second) for second in range(200)]


def entry(outcome: Outcome = Outcome.ACCEPTED, seconds: float = 0.1) -> LedgerEntry:
    code = {Outcome.ACCEPTED: 250, Outcome.REFUSED: 451}.get(outcome)
    return LedgerEntry(
        ledger_id="1",
        recipients=(RCPT,),
        refused_recipients=(),
        size=10,
        sha256="",
        body_sha256="body",
        outcome=outcome,
        code=code,
        queue_id=None,
        started=100 - seconds,
        time=100,
    )


def delivery(at: float, transaction: int, body: str = "body") -> Delivery:
    return Delivery(
        mail_from="",
        mail_params=(),
        rcpt_tos=(RCPT,),
        content=b"",
        wire=b"",
        size=10,
        sha256="",
        body_sha256=body,
        message_id="",
        ledger_id="1",
        tls=False,
        auth=None,
        connection=1,
        transaction=transaction,
        time=at,
    )


def taken(at: float, transaction: int, *, untold: bool = False) -> Attempt:
    return Attempt(at - 0.1, transaction, delivery(at, transaction), untold)


def not_taken(at: float, transaction: int) -> Attempt:
    return Attempt(at, transaction, None, untold=False)


def books(
    *attempts: Attempt, faults: tuple[Happening, ...] = (), entries: tuple[LedgerEntry, ...] = ()
) -> Books:
    ledger = Ledger()
    for each in entries or (entry(),):
        ledger.record(each)
    return Books(
        ledger=ledger,
        deliveries=[each.delivery for each in attempts if each.delivery is not None],
        attempts={RCPT: list(attempts)},
        violations=[],
        happened=list(faults),
        ready_at=ALL_READY,
    )


def fault(kind: Kind, *targets: str, at: float, seconds: float = 0.0) -> Happening:
    return Happening(Fault(0, False, kind, targets, seconds), at, at + seconds)  # noqa: FBT003


def kill(target: str, at: float) -> Happening:
    return fault(Kind.KILL, target, at=at)


def whys(judgement: Judgement) -> list[str]:
    return sorted(excuse.why for excuse in judgement.excused.elements())


def test_each_recipient_once_is_good() -> None:
    assert judge(books(taken(101, 1))).is_good


def test_a_promise_without_a_delivery_is_lost_near_the_fault_before_it() -> None:
    found = judge(books(not_taken(101, 1), faults=(kill("nats", 99), kill("sender", 120))))
    assert not found.is_good
    assert found.lost_by_fault == {"kill -9: nats": 1}


def test_an_altered_body_is_bad() -> None:
    altered = Attempt(101, 1, delivery(101, 1, body="other"), untold=False)
    assert not judge(books(altered)).is_good


def test_a_duplicate_without_any_fault_is_not_explained() -> None:
    found = judge(books(taken(101, 1), taken(102, 2)))
    assert not found.is_good
    assert "taken 2 times, 0 excused" in found.unexplained[0]


def test_a_kill_of_sender_queue_or_supervisor_while_the_job_was_open_excuses_one_repeat() -> None:
    for target in ("sender", "nats", "supervisor"):
        for at in (100.95, 101.0, 101 + SETTLE_SECONDS - 0.1):
            found = judge(books(taken(101, 1), taken(110, 2), faults=(kill(target, at),)))
            assert found.is_good, (target, at)
            assert whys(found) == ["killed while the job was open"]
    twice = (taken(101, 1), taken(110, 2), taken(111, 3))
    assert not judge(books(*twice, faults=(kill("sender", 101.5),))).is_good


def test_a_kill_before_or_long_after_the_attempt_excuses_nothing() -> None:
    for at in (100.0, 101 + SETTLE_SECONDS + 0.1, 109.0):
        assert not judge(books(taken(101, 1), taken(110, 2), faults=(kill("sender", at),))).is_good


def test_two_kills_in_one_attempt_excuse_one_repeat() -> None:
    kills = (kill("nats", 101.2), kill("sender", 101.4))
    assert judge(books(taken(101, 1), taken(110, 2), faults=kills)).is_good
    thrice = (taken(101, 1), taken(110, 2), taken(120, 3))
    assert not judge(books(*thrice, faults=kills)).is_good


def test_kills_of_ingress_and_monitor_excuse_nothing() -> None:
    for target in ("ingress", "monitor"):
        found = judge(books(taken(101, 1), taken(110, 2), faults=(kill(target, 101.1),)))
        assert not found.is_good


def test_what_the_upstream_took_without_saying_so_is_excused_exactly() -> None:
    found = judge(books(taken(101, 1, untold=True), taken(110, 2)))
    assert found.is_good
    assert whys(found) == ["the upstream took it and did not say so"]
    assert not judge(books(taken(101, 1), taken(110, 2, untold=True), taken(120, 3))).is_good


def test_a_sender_that_stood_still_for_longer_than_a_claim_lasts_excuses_a_repeat() -> None:
    long = fault(Kind.FREEZE, "sender", at=101.0, seconds=7)
    assert judge(books(taken(101.2, 1), taken(110, 2), faults=(long,))).is_good
    short = fault(Kind.FREEZE, "sender", at=101.0, seconds=2)
    assert not judge(books(taken(101.2, 1), taken(110, 2), faults=(short,))).is_good
    queue = fault(Kind.FREEZE, "nats", at=101.0, seconds=7)
    assert not judge(books(taken(101.2, 1), taken(110, 2), faults=(queue,))).is_good


def test_settling_that_waits_for_the_queue_stays_open_as_long_as_that_lasts() -> None:
    away = fault(Kind.FREEZE, "nats", at=101.1, seconds=7)
    late = kill("sender", 108.0)
    assert not judge(books(taken(101, 1), taken(115, 2), faults=(late,))).is_good
    assert judge(books(taken(101, 1), taken(115, 2), faults=(away, late))).is_good


def test_an_orderly_stop_excuses_a_repeat_only_while_the_queue_is_away() -> None:
    for stop in (fault(Kind.RESTART, "sender", at=101.5), fault(Kind.RESTART_RELAY, at=101.5)):
        assert not judge(books(taken(101, 1), taken(110, 2), faults=(stop,))).is_good
        away = fault(Kind.DISK_FULL, at=100.5, seconds=5)
        found = judge(books(taken(101, 1), taken(110, 2), faults=(away, stop)))
        assert whys(found) == ["stopped in order while the queue was away"]


def test_a_job_that_was_deferred_before_rcpt_may_be_repeated_by_a_kill_then() -> None:
    trouble = fault(Kind.UPSTREAM, "451 to MAIL", at=100, seconds=2)
    twice = (taken(110, 1), taken(111, 2))
    assert judge(books(*twice, faults=(trouble, kill("sender", 101)))).is_good
    assert not judge(books(*twice, faults=(trouble, kill("sender", 99)))).is_good
    assert not judge(books(*twice, faults=(trouble, kill("monitor", 101)))).is_good
    later = fault(Kind.UPSTREAM, "451 to DATA", at=100, seconds=2)
    assert not judge(books(*twice, faults=(later, kill("sender", 101)))).is_good


def test_a_451_after_the_relays_deadline_may_be_stored_and_an_earlier_one_not() -> None:
    unknown = entry(Outcome.REFUSED, seconds=15.0)
    found = judge(books(taken(101, 1), entries=(unknown,)))
    assert found.is_good
    assert found.refused_yet_stored == 1
    assert not judge(books(taken(101, 1), entries=(entry(Outcome.REFUSED, 2.0),))).is_good
    full = replace(unknown, code=452)
    assert not judge(books(taken(101, 1), entries=(full,))).is_good


def test_a_violation_of_smtp_is_bad() -> None:
    found = books(taken(101, 1))
    found.violations.append("connection 1: bare CR or LF in content")
    assert not judge(found).is_good
