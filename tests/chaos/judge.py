"""Hold the books against each other; trace every duplicate to what excuses it (decision 0004).

A recipient that was taken n times needs n - 1 excuses. Each excuse belongs to one attempt: an
attempt that was known to the relay as it was at the upstream is never repeated, so what was
repeated was open at a fault, or the upstream did not tell. Windows are tight: an attempt is open
from its RCPT until `SETTLE_SECONDS` after it ended, and that clock stands still only while the
relay was not whole, because settling waits for the queue then.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.chaos.books import Attempt, Books
from tests.chaos.faults import Happening
from tests.chaos.plan import Kind
from tests.chaos.sites import SERVERS, SUPERVISOR, is_server
from tests.chaos.upstream import BEFORE_RCPT, REPLY_DELAY_SECONDS
from tests.support.ledger import LedgerEntry, Outcome, Verdict, compare

PROCESSING_SECONDS = 6  # the relay's processingTimeout in a run
ACK_WAIT_SECONDS = 6
# From the end of an attempt to its record's ack in a relay that is whole, on a busy machine.
SETTLE_SECONDS = 2.5
# The upstream notes a RCPT when it reads it, which may be a moment after the relay's death.
LATE_SECONDS = 0.5
LANE_SECONDS = 5.0  # the shortest lane: a deferred job may be moved on after it
UNKNOWN_AFTER_SECONDS = 14.0  # 451 behind the relay's deadline of 15 s, less the clocks' grain
UNKNOWN_CODE = 451

UNTOLD = "taken, and the client not told"
_KILLS = {Kind.KILL, Kind.KILL_TOGETHER}
_OUTCOME_HOLDERS = {"sender", "nats", SUPERVISOR, *SERVERS}


@dataclass(frozen=True, slots=True)
class Excuse:
    """Why one delivery more than one is allowed."""

    fault: str  # a row of the table
    why: str


@dataclass(slots=True)
class Judgement:
    """What the books say."""

    verdict: Verdict
    excused: Counter[Excuse] = field(default_factory=Counter)
    unexplained: list[str] = field(default_factory=list)
    lost_by_fault: Counter[str] = field(default_factory=Counter)
    refused_yet_stored: int = 0  # 451 with the outcome unknown, and delivered: allowed
    violations: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether every promise was kept."""
        verdict = self.verdict
        return not (
            verdict.lost
            or verdict.altered
            or verdict.strangers
            or self.unexplained
            or self.violations
        )


def judge(books: Books) -> Judgement:
    """Judge a run."""
    verdict = compare(books.ledger, books.deliveries)
    result = Judgement(verdict, violations=books.violations)
    tracer = _Tracer(books)
    for ledger_id, recipient, times in verdict.duplicated:
        excuses = list(tracer.excuses(recipient))
        result.excused.update(excuses[: times - 1])
        if len(excuses) < times - 1:
            result.unexplained.append(
                f"{ledger_id} to {recipient}: taken {times} times, {len(excuses)} excused; "
                + tracer.story(recipient)
            )
    entries = {entry.ledger_id: entry for entry in books.ledger.entries}
    for ledger_id, recipient, _ in verdict.refused_but_delivered:
        if _may_be_stored(entries[ledger_id], recipient):
            result.refused_yet_stored += 1
        else:
            result.unexplained.append(f"{ledger_id} to {recipient}: refused, and delivered")
    for ledger_id, _ in verdict.lost:
        result.lost_by_fault[tracer.nearest(entries[ledger_id].time)] += 1
    return result


def _may_be_stored(entry: LedgerEntry, recipient: str) -> bool:
    return (
        entry.outcome is Outcome.REFUSED
        and entry.code == UNKNOWN_CODE
        and recipient in entry.recipients
        and entry.seconds >= UNKNOWN_AFTER_SECONDS
    )


class _Tracer:
    """Finds what excuses an attempt."""

    def __init__(self, books: Books) -> None:
        self._attempts = books.attempts
        self._faults = sorted(books.happened, key=lambda each: each.began)
        self._ready_at = books.ready_at
        self._kills = [each for each in self._faults if _ends_outcomes(each)]
        self._stops = [each for each in self._faults if _outlasts_claims(each)]
        self._away = _merged(self._disturbances())
        self._orderly = [each for each in self._faults if self._is_stop_without_queue(each)]
        self._blind = [
            each
            for each in self._faults
            if each.fault.kind is Kind.UPSTREAM and each.fault.targets[0] in BEFORE_RCPT
        ]

    def excuses(self, recipient: str) -> Iterator[Excuse]:
        """Yield one excuse for each attempt that has one, and for attempts without a RCPT."""
        attempts = self._attempts.get(recipient, [])
        for attempt in attempts:
            excuse = self._excuse(attempt)
            if excuse is not None:
                yield excuse
        if attempts:
            yield from self._without_rcpt(attempts[-1].seen_at)

    def story(self, recipient: str) -> str:
        """Tell what was seen of a recipient, for people."""
        return "; ".join(
            f"RCPT {attempt.seen_at:.3f} "
            + (f"taken {attempt.delivery.time:.3f}" if attempt.delivery else "not taken")
            + f" open to {self._settled_by(attempt):.3f}"
            for attempt in self._attempts.get(recipient, [])
        )

    def nearest(self, at: float) -> str:
        """Name the fault that began last before a time."""
        place = bisect.bisect([each.began for each in self._faults], at)
        return self._faults[place - 1].fault.name if place else "before any fault"

    def _excuse(self, attempt: Attempt) -> Excuse | None:
        if attempt.untold:
            return Excuse(f"upstream: {UNTOLD}", "the upstream took it and did not say so")
        begins, ends = attempt.seen_at - LATE_SECONDS, self._settled_by(attempt)
        for faults, why in (
            (self._kills, "killed while the job was open"),
            (self._stops, "stood still beyond a limit while the job was open"),
            (self._orderly, "stopped in order while the queue was away"),
        ):
            for each in faults:
                if begins <= each.ended and each.began <= ends:
                    return Excuse(each.fault.name, why)
        if attempt.delivery is None:  # deferred: its new job is moved between lanes
            moved = attempt.seen_at + LANE_SECONDS
            for kill in self._kills:
                if moved <= kill.ended and kill.began <= self._later(moved, SETTLE_SECONDS):
                    return Excuse(kill.fault.name, "killed while the job was moved between lanes")
        return None

    def _without_rcpt(self, until: float) -> Iterator[Excuse]:
        """Attempts that ended before RCPT leave no trace, but they defer jobs all the same."""
        for blind in self._blind:
            ends = self._later(blind.ended + PROCESSING_SECONDS, SETTLE_SECONDS)
            for kill in self._kills:
                if kill.began <= until and blind.began <= kill.began <= ends:
                    yield Excuse(
                        kill.fault.name, "killed while a job deferred before RCPT was open"
                    )

    def _settled_by(self, attempt: Attempt) -> float:
        """Until when a job is open that was attempted so."""
        if attempt.delivery is not None:
            ended = attempt.delivery.time
        else:
            ended = attempt.seen_at + REPLY_DELAY_SECONDS
            if any(_overlaps(each, attempt.seen_at) for each in self._slow()):
                ended = attempt.seen_at + PROCESSING_SECONDS
        return self._later(ended, SETTLE_SECONDS)

    def _slow(self) -> Iterator[Happening]:
        """Troubles in which an attempt lasts until the relay gives it up."""
        for each in self._faults:
            if each.fault.kind is Kind.UPSTREAM and each.fault.targets[0].startswith(
                ("no answer", "silent")
            ):
                yield each

    def _later(self, at: float, seconds: float) -> float:
        """Return the time so many seconds later, not counting those in which it was not whole."""
        for began, ended in self._away:
            if ended <= at:
                continue
            if began >= at + seconds:
                break
            seconds -= max(0.0, began - at)
            at = ended
        return at + seconds

    def _disturbances(self) -> Iterator[tuple[float, float]]:
        """From a fault that holds up settling until the relay was seen to be whole again."""
        for each in self._faults:
            if each.fault.kind is Kind.DISK_FULL or (
                each.fault.kind not in {Kind.UPSTREAM, Kind.RESEND}
                and (not each.fault.targets or _OUTCOME_HOLDERS & set(each.fault.targets))
            ):
                place = bisect.bisect(self._ready_at, each.ended)
                whole = self._ready_at[place] if place < len(self._ready_at) else each.ended + 60
                yield each.began, whole

    def _is_stop_without_queue(self, each: Happening) -> bool:
        """Whether it is an orderly stop of a sender that could not store its outcomes."""
        kind, targets = each.fault.kind, each.fault.targets
        if not (kind is Kind.RESTART_RELAY or (kind is Kind.RESTART and "sender" in targets)):
            return False
        return any(
            other is not each
            and _takes_queue_away(other)
            and any(
                began <= other.began <= ended and began <= each.began <= ended
                for began, ended in self._away
            )
            for other in self._faults
        )


def _ends_outcomes(each: Happening) -> bool:
    return each.fault.kind in _KILLS and bool(_OUTCOME_HOLDERS & set(each.fault.targets))


def _outlasts_claims(each: Happening) -> bool:
    """Whether the sender stood still for longer than a claim or an attempt may last.

    A supervisor that stands still reads no log lines, and its children wait for it once their
    pipes are full; so its standing still counts as theirs.
    """
    return (
        each.fault.kind is Kind.FREEZE
        and each.fault.targets[0] in {"sender", "supervisor"}
        and each.fault.seconds >= min(ACK_WAIT_SECONDS, PROCESSING_SECONDS) - 1
    )


def _takes_queue_away(each: Happening) -> bool:
    return each.fault.kind is Kind.DISK_FULL or any(map(is_server, each.fault.targets))


def _overlaps(each: Happening, at: float) -> bool:
    return each.began - LATE_SECONDS <= at <= each.ended + LATE_SECONDS


def _merged(spans: Iterator[tuple[float, float]]) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for began, ended in sorted(spans):
        if merged and began <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], ended))
        else:
            merged.append((began, ended))
    return merged
