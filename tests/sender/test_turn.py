"""Whose turn it is, and which source a free slot serves. Pure."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelay.mail.pace import Pace
from mailrelay_sender.fair import FairShare
from mailrelay_sender.turn import (
    LONGEST_WAIT_SECONDS,
    SHORTEST_STEP_SECONDS,
    Go,
    LeaveOut,
    Turn,
    Wait,
    turn_of,
)

NOW = 1_700_000_000.0


def turn(batch: int, pace: Pace, delay: float = 1.0, *, is_stuck: bool = False) -> Turn:
    return turn_of(batch, pace, now=NOW, delay_seconds=delay, is_stuck=is_stuck)


@pytest.mark.parametrize(
    ("batch", "pace", "expected"),
    [
        (1, Pace(), Go()),
        (2, Pace(), Wait(1.0)),
        (30, Pace(), Wait(29.0)),
        (5, Pace(5, NOW - 1), Go()),
        (5, Pace(5, NOW), Go()),
        (5, Pace(5, NOW + 0.25), Wait(0.25)),
        (7, Pace(5, NOW + 0.25), Wait(2.25)),
        (3, Pace(5, NOW + 0.25), Go()),  # a record that came again
        (5, Pace(5, NOW + 3600), Wait(1.0)),  # a clock that is off
        (6, Pace(5, NOW, stopped_by=4), LeaveOut(4)),
        (5, Pace(5, NOW + 9, stopped_by=4), LeaveOut(4)),
        (4, Pace(5, NOW, stopped_by=4), Go()),  # the one that failed came again
        (4, Pace(5, NOW, stopped_by=2), Go()),  # it was tried before the retry of 2 failed
        (2, Pace(2, NOW, stopped_by=2), Go()),
    ],
    ids=str,
)
def test_a_job_goes_waits_or_is_left_out(batch: int, pace: Pace, expected: Turn) -> None:
    assert turn(batch, pace) == expected


def test_only_the_job_behind_a_stuck_one_goes_on() -> None:
    pace = Pace(5, NOW - 5000)
    assert turn(6, pace, is_stuck=True) == Go()
    assert turn(7, pace, is_stuck=True) == Wait(2.0)


def test_without_a_pause_jobs_still_wait_for_each_other() -> None:
    assert turn(2, Pace(2), 0.0) == Go()
    assert turn(4, Pace(2), 0.0) == Wait(2 * SHORTEST_STEP_SECONDS)


@given(st.integers(1, 1000), st.integers(1, 1000), st.floats(0, 3600), st.floats(-9e3, 9e3))
def test_a_wait_is_positive_and_bounded_and_never_longer_than_the_pauses_before_the_turn(
    batch: int, following: int, delay: float, rest: float
) -> None:
    decided = turn(batch, Pace(following, NOW + rest), delay)
    if batch < following:
        assert decided == Go()
    if isinstance(decided, Wait):
        step = max(delay, SHORTEST_STEP_SECONDS)
        earliest = min(max(rest, 0), delay) + (batch - following) * step
        assert 0 < decided.seconds <= min(earliest + 1e-6, LONGEST_WAIT_SECONDS)


def test_jobs_that_wait_for_long_come_back_at_different_moments() -> None:
    waits = [turn(batch, Pace(), 3600.0) for batch in range(2, 1001)]
    moments = Counter(wait.seconds for wait in waits if isinstance(wait, Wait))
    assert sum(moments.values()) == 999
    assert max(moments.values()) <= 32
    assert min(moments) >= LONGEST_WAIT_SECONDS / 2


# --- Which source a free slot serves -----------------------------------------------------------

NEW, LANES = 0, 7


def served(share: FairShare, loaded: set[int], times: int) -> list[int | None]:
    return [share.next([each in loaded for each in range(LANES + 1)]) for _ in range(times)]


def test_new_mail_gets_three_slots_of_four_while_lanes_have_some() -> None:
    order = served(FairShare(LANES), {NEW, 1, 2, 3, 4, 5, 6, 7}, 400)
    assert order.count(NEW) == 300
    assert {order.count(lane) for lane in range(1, 8)} <= {14, 15}


@pytest.mark.parametrize("loaded", [{NEW}, {3}, {3, 6}], ids=str)
def test_whoever_has_work_gets_every_slot_when_the_others_have_none(loaded: set[int]) -> None:
    assert set(served(FairShare(LANES), loaded, 50)) == loaded


def test_nobody_is_served_without_work() -> None:
    assert served(FairShare(LANES), set(), 3) == [None, None, None]


@pytest.mark.parametrize(
    ("loaded", "comes"),
    [({NEW}, lane) for lane in range(1, 8)] + [({1}, NEW), ({1, 2, 3}, NEW)],
    ids=str,
)
def test_what_had_no_work_for_a_while_is_served_next(loaded: set[int], comes: int) -> None:
    for before in range(4, 12):
        share = FairShare(LANES)
        served(share, loaded, before)
        assert served(share, loaded | {comes}, 1) == [comes]


@given(st.lists(st.sets(st.integers(0, LANES)), min_size=60, max_size=120))
def test_nobody_waits_longer_than_everybody_elses_share(loads: list[set[int]]) -> None:
    share = FairShare(LANES)
    waiting = dict.fromkeys(range(LANES + 1), 0)
    for loaded in loads:
        (got,) = served(share, loaded, 1)
        for source in waiting:
            waits = source in loaded and source != got
            waiting[source] = waiting[source] + 1 if waits else 0
        assert waiting[NEW] <= 1
        assert all(waiting[lane] <= 4 * LANES for lane in range(1, LANES + 1))
        assert (got is None) == (not loaded)


def test_the_longest_wait_of_a_lane_is_everybodys_turn_once() -> None:
    order = served(FairShare(LANES), set(range(LANES + 1)), 200)
    for lane in range(1, LANES + 1):
        places = [place for place, got in enumerate(order) if got == lane]
        assert max(later - sooner for sooner, later in itertools.pairwise(places)) == 4 * LANES
