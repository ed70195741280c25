"""How far the jobs of one submission have come, where they go out one after the other."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Pace:
    """How far the jobs of a submission have come, for those that wait for their turn."""

    next: int = 1  # the job whose turn it is; those before had theirs
    not_before: float = 0.0  # and when it may begin, in seconds since the epoch
    stopped_by: int = 0  # the job in which a recipient failed for good, when that stops; 0: none

    def joined(self, other: Pace) -> Pace:
        """Return what both know together: turns only go forward, and the first stop stands."""
        ahead = max(self, other, key=lambda pace: (pace.next, pace.not_before))
        stops = [pace.stopped_by for pace in (self, other) if pace.stopped_by]
        return replace(ahead, stopped_by=min(stops, default=0))
