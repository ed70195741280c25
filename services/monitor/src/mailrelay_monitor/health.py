"""How the relay is, judged from what is known: a pure decision.

`unavailable` means that no mail can be taken; `degraded` that somebody should look. An upstream
that is down is `degraded` and never more: mail waits for it in the queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from mailrelay.queue.state import Condition, Kind
from mailrelay_monitor.backlog import Backlog
from mailrelay_monitor.totals import SECONDS_SHOWN_AS_DEGRADED, Ledger

NEARLY_FULL = 0.9  # of a stream's limit: time enough to do something
_MIN_FREE_BYTES = 512 * 1024 * 1024
_MIN_FREE_FRACTION = 0.05
_FILLING = {"in": "the queue (queueSize)", "lane": "the store of deferred mail"} | {
    "body": "the store of large content",
    # Full, it drops the counter that was left alone longest, and that sender begins anew.
    "limit-hour": "the store of rate limit counters (hours)",
    "limit-day": "the store of rate limit counters (days)",
}
_FULL = 0.999  # by size a store is full before the last octet


class Status(Enum):
    """What monitoring acts on."""

    OK = "ok"
    DEGRADED = "degraded"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Health:
    """A judgement; `reasons` is empty only when all is well."""

    status: Status
    reasons: tuple[str, ...]


def judge(
    *,
    connected: bool,
    backlog: Backlog,
    ledger: Ledger,
    collector_fault: str,
    conditions: Sequence[Condition],
    now: float,
) -> Health:
    """Judge. `conditions` are what the processes say is wrong."""
    unavailable = []
    if not connected:
        unavailable.append("queue unreachable: not connected")
    elif backlog.fault:
        unavailable.append(f"queue unreachable: {backlog.fault}")
    elif backlog.missing_streams:
        names = ", ".join(backlog.missing_streams)
        unavailable.append(f"the queue has no stream {names}: `mailrelay queue ensure` makes them")
    degraded = [
        *(
            f"senders cannot claim from {stream}: `mailrelay queue ensure` makes its consumers"
            for stream in backlog.missing_consumers
        ),
        *_store_reasons(backlog),
        *_disk_reasons(backlog),
        *_event_reasons(ledger, now),
        *map(_told, conditions),
    ]
    if collector_fault:
        degraded.append(f"totals stand still: {collector_fault}")
    if unavailable:
        return Health(Status.UNAVAILABLE, (*unavailable, *degraded))
    return Health(Status.DEGRADED if degraded else Status.OK, tuple(degraded))


_WORDS = {
    Kind.UPSTREAM: "{reason} (since {since})",
    Kind.CONFIGURATION: "the changed configuration is not in force: {reason} (since {since})",
}


def _told(condition: Condition) -> str:
    since = datetime.fromtimestamp(condition.since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return _WORDS[condition.kind].format(reason=condition.reason, since=since)


def _store_reasons(backlog: Backlog) -> list[str]:
    reasons = []
    for name, words in _FILLING.items():
        level = backlog.levels.get(name)
        if level is not None and level.fraction > NEARLY_FULL:
            reasons.append(f"{words} is {level.fraction:.0%} full")
    capture = backlog.levels.get("capture")
    if capture is not None and not capture.drops_oldest and capture.fraction >= _FULL:
        reasons.append(f"capture is full ({capture.messages} messages): delete or release some")
    return reasons


def _disk_reasons(backlog: Backlog) -> list[str]:
    free, total = backlog.disk_free_bytes, backlog.disk_total_bytes
    if total and (free < _MIN_FREE_BYTES or free < total * _MIN_FREE_FRACTION):
        return [f"disk low: {free // 1024**2} MB of {total // 1024**2} MB free"]
    return []


def _event_reasons(ledger: Ledger, now: float) -> list[str]:
    reasons = []
    if now - ledger.missed_at < SECONDS_SHOWN_AS_DEGRADED:
        reasons.append(
            f"event gap: {ledger.missed_events} event records were gone before they were counted"
        )
    if now - ledger.queue_lost_at < SECONDS_SHOWN_AS_DEGRADED:
        reasons.append(
            "the queue lost its data: "
            f"{ledger.totals.lost_emails} accepted emails have no known outcome"
        )
    return reasons
