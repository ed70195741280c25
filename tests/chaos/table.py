"""A run for people: one row a fault, and what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tests.chaos.judge import Excuse
from tests.chaos.run import Report

_SHOWN = 20
_COLUMNS = ("count", "lost", "dupl.", "stuck")


def render(report: Report) -> str:
    """Return the whole report."""
    judged, load = report.judgement, report.load
    verdict, end = judged.verdict, report.end
    clients = (
        f"clients: {load.accepted} accepted, {load.refused} refused, {load.unknown} unanswered, "
        f"{load.not_sent} not sent; waited p50 {load.median_seconds:.2f} s, "
        f"p99 {load.p99_seconds:.1f} s"
    )
    recipients = (
        f"recipients: {verdict.accepted_recipients} promised, "
        f"{verdict.delivered_recipients} taken; resends asked for: {report.resends}"
    )
    books = (
        f"altered {len(verdict.altered)}, strangers {len(verdict.strangers)}, "
        f"refused with 451 and stored {judged.refused_yet_stored} (outcome was unknown)"
    )
    drained = (
        f"drained {end.seconds:.1f} s after the last fault; bodies found by the sweep alone "
        f"{end.swept_bodies}; health: {end.health}; counted {end.totals}"
    )
    head = [
        f"seed {report.plan.seed}: {report.kills} kills in {report.seconds:.0f} s",
        clients,
        recipients,
    ]
    if report.left_out:
        head.append(f"left out: disk full ({report.left_out} times planned): it needs root")
    tail = [
        books,
        drained,
        f"starts and stops that ended with another code than 0: {report.bad_stops or 'none'}",
    ]
    if end.stuck:
        tail.append("NOT DRAINED: what is called lost may be among what is stuck")
    bad = [
        *(f"LOST: {who} to {rcpt}" for who, rcpt in verdict.lost),
        *(f"ALTERED: {who}" for who, _ in verdict.altered),
        *(f"STRANGER: {who} to {rcpt}" for who, rcpt in verdict.strangers),
        *(f"NOT EXPLAINED: {line}" for line in judged.unexplained),
        *(f"PROTOCOL: {line}" for line in judged.violations),
        *(f"STUCK: {count} in {stream}" for stream, count in end.stuck.items()),
        *(f"COUNTED WRONG: {line}" for line in report.miscounted),
    ]
    return "\n".join([*head, "", *_rows(report), "", *tail, *_cut(bad)])


def _rows(report: Report) -> Iterable[str]:
    judged = report.judgement
    counts = Counter(each.fault.name for each in report.happened)
    names = sorted({*counts, *(excuse.fault for excuse in judged.excused)})
    width = max(len(name) for name in [*names, "all"]) + 1
    yield f"{'fault':{width}}" + "".join(f"{name:>7}" for name in _COLUMNS) + "  why allowed"
    for name in names:
        excuses = Counter(
            {excuse: times for excuse, times in judged.excused.items() if excuse.fault == name}
        )
        yield _row(name, width, counts[name], judged.lost_by_fault[name], excuses, "")
    stuck = str(sum(report.end.stuck.values()))
    yield _row("all", width, sum(counts.values()), len(judged.verdict.lost), judged.excused, stuck)


def _row(name: str, width: int, count: int, lost: int, excuses: Counter[Excuse], stuck: str) -> str:
    why = "; ".join(sorted({excuse.why for excuse in excuses})) if not stuck else ""
    numbers = f"{count or '':>7}{lost:>7}{excuses.total():>7}{stuck:>7}"
    return f"{name:{width}}{numbers}  {why}".rstrip()


def _cut(lines: list[str]) -> list[str]:
    more = len(lines) - _SHOWN
    return [*lines[:_SHOWN], *([f"... {more} more"] if more > 0 else [])]
