"""What an outcome does to a recipient's state, and that to its submission and to the totals.

A recipient's state moves up only: queued, then deferred, then a failure, then captured, then sent.
Between two of one rank the later one stands. So telling an event twice changes nothing, a bounce
that comes after the delivery (of a job repeated after a crash) is no bounce, and a resend's
delivery turns the bounce around.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, replace

from mailrelay.mail.event import Summary
from mailrelay.mail.ids import QueueId
from mailrelay_monitor.totals import Totals

QUEUED = "queued"
RANKS = {
    QUEUED: 0,
    "held": 1,
    "deferred": 1,
    "suppressed": 2,
    "bounced": 2,
    "expired": 2,
    "not_tried": 2,
    "captured": 3,
    "sent": 4,
}
_FIRST_FINAL_RANK = 2
_FIRST_GOOD_RANK = 3


def replaces(new: str, new_at: float, old: str, old_at: float) -> bool:
    """Tell whether state `new` stands after state `old`."""
    rank, old_rank = RANKS[new], RANKS[old]
    return rank > old_rank or (rank == old_rank and new_at > old_at)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a submission is, out of its row."""

    open: int
    unsuccessful: int
    last_final_at: float
    counted: bool
    lost: bool

    @classmethod
    def read(cls, database: sqlite3.Connection, queue_id: QueueId) -> Progress | None:
        """Read it out of the submission's row; None when there is none."""
        row = database.execute(
            "SELECT open, unsuccessful, last_final_at, counted, lost FROM submission WHERE id = ?",
            (queue_id,),
        ).fetchone()
        return cls(row[0], row[1], row[2], bool(row[3]), bool(row[4])) if row else None

    def write(self, database: sqlite3.Connection, queue_id: QueueId) -> None:
        """Put it into the submission's row."""
        database.execute(
            "UPDATE submission SET open = ?, unsuccessful = ?, last_final_at = ?, lost = ?"
            " WHERE id = ?",
            (self.open, self.unsuccessful, self.last_final_at, self.lost, queue_id),
        )

    def moved(self, old: str, new: str, at: float) -> Progress:
        """Return it with one recipient's state changed."""
        old_rank, rank = RANKS[old], RANKS[new]
        if rank < _FIRST_FINAL_RANK:
            return self
        was_final = old_rank >= _FIRST_FINAL_RANK
        was_bad = was_final and old_rank < _FIRST_GOOD_RANK
        still_open = max(0, self.open - (not was_final))
        return replace(
            self,
            open=still_open,
            unsuccessful=self.unsuccessful - was_bad + (rank < _FIRST_GOOD_RANK),
            last_final_at=max(self.last_final_at, at),
            lost=self.lost and still_open > 0,
        )


def change_of_totals(before: Progress, after: Progress, summary: Summary) -> Totals | None:
    """Return what a submission's way from `before` to `after` adds to the totals."""
    if after.open > 0:
        return None
    good, bad = after.unsuccessful == 0, after.unsuccessful > 0
    if before.open > 0:
        return Totals(
            successful_emails=int(good),
            failed_emails=int(bad),
            lost_emails=-int(before.lost),
            processing_ms=max(0, round((after.last_final_at - summary.accepted_at) * 1000)),
        )
    was_good = before.unsuccessful == 0
    if was_good == good:
        return None
    return Totals(successful_emails=good - was_good, failed_emails=was_good - good)
