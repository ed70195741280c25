from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mailrelay.config.model import Retry
from mailrelay.mail.retry import JITTER_FRACTION, RetrySchedule

DAY = 24 * 3600.0
DEFAULTS = Retry()
DEFAULT = RetrySchedule(
    DEFAULTS.max_attempts,
    DEFAULTS.initial_interval_seconds,
    DEFAULTS.multiplier,
    DEFAULTS.max_interval_seconds,
    DEFAULTS.max_age_seconds,
)
SCHEDULES = st.builds(
    RetrySchedule,
    st.integers(1, 200),
    st.floats(0.1, 1000),
    st.floats(1, 10),
    st.floats(1000, 20_000),
    st.floats(1, 10 * DAY),
)


def times(schedule: RetrySchedule, chance: float, accepted_at: float = 1000.0) -> list[float]:
    """When each attempt happens, counted from acceptance, when each takes no time."""
    found, now = [0.0], accepted_at
    while True:
        due = schedule.next_due(len(found), accepted_at=accepted_at, now=now, chance=chance)
        if due is None:
            return found
        found.append(due - accepted_at)
        now = due


def test_the_default_schedule_gives_38_attempts_over_five_days() -> None:
    attempts = times(DEFAULT, 0.5)
    assert len(attempts) == 38
    assert attempts[:4] == [0, 60, 180, 420]
    assert attempts[-1] == 5 * DAY


@given(st.floats(0, 1, exclude_max=True))
def test_the_default_schedule_spans_five_days_whatever_the_jitter(chance: float) -> None:
    attempts = times(DEFAULT, chance)
    assert attempts[-1] == 5 * DAY
    assert 34 <= len(attempts) <= 42


@given(SCHEDULES, st.integers(1, 200), st.floats(0, 1, exclude_max=True))
def test_jitter_stays_within_its_bounds(s: RetrySchedule, attempt: int, chance: float) -> None:
    due = s.next_due(attempt, accepted_at=0.0, now=0.0, chance=chance)
    if attempt >= s.max_attempts:
        assert due is None
        return
    assert due is not None
    interval = s.interval_seconds(attempt)
    low, high = interval * (1 - JITTER_FRACTION), interval * (1 + JITTER_FRACTION)
    assert min(low, s.max_age_seconds) - 1e-6 <= due <= min(high, s.max_age_seconds) + 1e-6


@given(SCHEDULES, st.integers(1, 199))
def test_intervals_grow_up_to_the_longest(s: RetrySchedule, attempt: int) -> None:
    assert s.interval_seconds(attempt) <= s.interval_seconds(attempt + 1) <= s.max_interval_seconds


def test_an_interval_of_a_huge_attempt_number_is_the_longest() -> None:
    assert DEFAULT.interval_seconds(100_000) == DEFAULTS.max_interval_seconds


def test_the_last_attempt_falls_on_the_age_limit_and_then_it_has_expired() -> None:
    due = DEFAULT.next_due(9, accepted_at=0, now=5 * DAY - 1, chance=0.9)
    assert due == 5 * DAY
    assert DEFAULT.next_due(10, accepted_at=0, now=5 * DAY, chance=0.9) is None


def test_the_number_of_attempts_counts_the_first() -> None:
    once = RetrySchedule(1, 60, 2, 3600, DAY)
    assert once.next_due(1, accepted_at=0, now=0, chance=0.5) is None
    twice = RetrySchedule(2, 60, 2, 3600, DAY)
    assert twice.next_due(1, accepted_at=0, now=0, chance=0.5) == 60
    assert twice.next_due(2, accepted_at=0, now=60, chance=0.5) is None
