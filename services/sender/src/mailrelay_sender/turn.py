"""Whether it is a job's turn among the jobs of its submission (queue rule 11). Pure.

Jobs go out in their order, and between the end of one's attempt and the beginning of the next
one's lies the pause. A job whose turn is further off waits for as many pauses: it cannot come
before, so the wait is never too long. Two things are noticed late, by `LONGEST_WAIT_SECONDS` at
most: that the message was stopped, and that the pause was made shorter.
"""

from __future__ import annotations

from dataclasses import dataclass

from mailrelay.mail.pace import Pace

LONGEST_WAIT_SECONDS = 60.0
# Without a pause (`continueOnError` alone makes jobs wait for each other) looking again costs a
# round trip; a delivery takes as long.
SHORTEST_STEP_SECONDS = 0.02
# Those that wait for longer come back at different moments.
_SPREAD = 32


@dataclass(frozen=True, slots=True)
class Go:
    """Attempt the job."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Give the job back for so long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class LeaveOut:
    """End the job untried: a recipient failed for good in job `stopped_by`."""

    stopped_by: int


Turn = Go | Wait | LeaveOut


def turn_of(
    batch: int, pace: Pace, *, now: float, delay_seconds: float, is_stuck: bool = False
) -> Turn:
    """Say what to do with job `batch` of a submission.

    `now` is seconds since the epoch. `is_stuck`: the job whose turn it is has had it for longer
    than it can need, so the one behind it goes on.
    """
    if pace.stopped_by and batch > pace.stopped_by and batch >= pace.next:
        return LeaveOut(pace.stopped_by)
    ahead = batch - pace.next
    # Never longer than one pause, however far another machine's clock is off.
    rest = min(max(0.0, pace.not_before - now), delay_seconds)
    if ahead < 0 or (ahead == 0 and rest <= 0):
        return Go()  # its turn was before: the record came again
    if ahead == 1 and is_stuck:
        return Go()
    return Wait(_bounded(rest + ahead * max(delay_seconds, SHORTEST_STEP_SECONDS), batch))


def _bounded(seconds: float, batch: int) -> float:
    if seconds <= LONGEST_WAIT_SECONDS:
        return seconds
    return LONGEST_WAIT_SECONDS * (0.5 + 0.5 * (batch % _SPREAD) / _SPREAD)
