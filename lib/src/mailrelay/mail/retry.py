"""When a deferred recipient is tried again, and when it has been tried long enough.

Exponential back-off between attempts; the last attempt falls on the age limit itself, so that a
host that comes back late in the day still gets the mail (RFC 5321 section 4.5.4.1: give up after
four to five days).
"""

from __future__ import annotations

from dataclasses import dataclass

# A spread of the retries after an outage, so that they do not come back as one wave.
JITTER_FRACTION = 0.1


@dataclass(frozen=True, slots=True)
class RetrySchedule:
    """Intervals and ages in seconds; `max_attempts` counts the first attempt too."""

    max_attempts: int
    initial_interval_seconds: float
    multiplier: float
    max_interval_seconds: float
    max_age_seconds: float

    def interval_seconds(self, attempt: int) -> float:
        """Return the pause after attempt number `attempt` (from 1), without jitter."""
        interval = self.initial_interval_seconds
        for _ in range(attempt - 1):
            interval *= self.multiplier
            if interval >= self.max_interval_seconds:
                return self.max_interval_seconds
        return min(interval, self.max_interval_seconds)

    def next_due(
        self, attempt: int, *, accepted_at: float, now: float, chance: float
    ) -> float | None:
        """Return when to try again after attempt number `attempt`; None means expired.

        `chance` in [0, 1) places the jitter. The times are seconds since the epoch.
        """
        expires_at = accepted_at + self.max_age_seconds
        if attempt >= self.max_attempts or now >= expires_at:
            return None
        jitter = 1 + JITTER_FRACTION * (2 * chance - 1)
        return min(now + self.interval_seconds(attempt) * jitter, expires_at)
