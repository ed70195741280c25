"""Where a record waits for its due time (queue rule 6). Pure decisions.

Fixed-delay lanes, not one naked delay a message: a record comes up at stored time + delay, so
stored order is the order of coming up, and only a lane's head is ever looked at. The ladder is
constant; `due` stands in the record, so that a changed retry schedule strands nothing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lane:
    """One fixed delay; `name` is its subject token."""

    name: str
    delay_seconds: float


NOW = Lane("now", 0)
LADDER = (
    NOW,
    Lane("5s", 5),
    Lane("30s", 30),
    Lane("2m", 120),
    Lane("10m", 600),
    Lane("1h", 3600),
    Lane("4h", 14400),
)


def lane_for(remaining_seconds: float) -> Lane:
    """Return the longest lane that is not longer than what remains.

    Below the shortest delay the record takes that one all the same: it overshoots by less than
    5 s. Only what is due already goes to `now`.
    """
    if remaining_seconds <= 0:
        return NOW
    fitting = [lane for lane in LADDER[1:] if lane.delay_seconds <= remaining_seconds]
    return fitting[-1] if fitting else LADDER[1]


@dataclass(frozen=True, slots=True)
class Try:
    """The record is due: attempt it."""


@dataclass(frozen=True, slots=True)
class Wait:
    """The lane's head has not come up: ask again in `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Move:
    """The record came up and is due later still: store it in `lane`."""

    lane: Lane


def decide(lane: Lane, *, stored_at: float, due: float, now: float) -> Try | Wait | Move:
    """Say what to do with a lane's record. Times are seconds since the epoch.

    Whether a record moves is said by where it lies and not by when it is looked at: a sender that
    died between a move and its ack leaves the record in two places, and the one that is looked at
    late is known by the move's name only if it is moved as well (queue rule 5).
    """
    up_at = stored_at + lane.delay_seconds
    if lane != NOW and up_at < due <= now:
        return Move(NOW)
    if due <= now:
        return Try()
    if now < up_at:
        # A record may be due before its lane's delay is over only in the shortest lane.
        return Wait(min(up_at, max(due, now)) - now)
    return Move(lane_for(due - now))
