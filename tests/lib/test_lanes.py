"""The lanes as a model: a record moves until it is due, and the server brings it up on time."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailrelay.queue.lanes import LADDER, NOW, Lane, Move, Try, Wait, decide, lane_for

SHORTEST = LADDER[1].delay_seconds
MANY = 100  # in turn, for as many hops as any walk takes


def deliver(due_in: float, *, lateness: list[float], early: bool = False) -> tuple[float, int, int]:
    """Walk one record through the lanes; returns when it is tried, its moves and its naks.

    `lateness` is how long after it came up a record is looked at, in turn; `early` looks first at
    every record the moment that it is stored, as a sender does whose lane was empty.
    """
    now, hops, naks = 0.0, 0, 0
    lane, stored_at = lane_for(due_in), 0.0
    late = iter(lateness * MANY)
    now = stored_at if early else stored_at + lane.delay_seconds + next(late, 0.0)
    for _ in range(1000):
        step = decide(lane, stored_at=stored_at, due=due_in, now=now)
        if isinstance(step, Try):
            return now, hops, naks
        if isinstance(step, Wait):
            assert step.seconds > 0
            now += step.seconds + next(late, 0.0)
            naks += 1
        else:
            hops += 1
            lane, stored_at = step.lane, now
            now = stored_at if early else stored_at + lane.delay_seconds + next(late, 0.0)
    raise AssertionError("the record never came up")


DUE = st.floats(-10, 12 * 3600) | st.floats(-10, 30) | st.integers(-10, 30 * 24 * 3600)
LATENESS = st.lists(st.floats(0, 60), max_size=5)


@given(DUE)
@example(5)
@example(4.999)
@example(0)
@example(5 * 24 * 3600)
@example(14400.0001)
def test_every_due_time_is_reached_with_little_overshoot(due: float) -> None:
    for early in (False, True):
        tried_at, _, _ = deliver(due, lateness=[], early=early)
        assert max(0.0, due) - 1e-6 <= tried_at <= max(0.0, due) + SHORTEST + 1e-6


@given(DUE, LATENESS)
def test_a_record_is_never_tried_before_it_is_due(due: float, lateness: list[float]) -> None:
    tried_at, _, _ = deliver(due, lateness=lateness)
    assert tried_at >= due


@given(st.floats(0, 5 * 24 * 3600))
def test_a_record_moves_a_bounded_number_of_times(due: float) -> None:
    _, hops, _ = deliver(due, lateness=[])
    assert hops <= 5 * 24 // 4 + sum(
        int(above.delay_seconds // lane.delay_seconds)
        for lane, above in itertools.pairwise(LADDER[1:])
    )


@given(st.floats(0, 5 * 24 * 3600))
def test_a_record_looked_at_early_is_asked_for_once_a_hop(due: float) -> None:
    _, hops, naks = deliver(due, lateness=[], early=True)
    assert naks <= hops + 2


@given(st.floats(-1e6, 1e7))
def test_the_lane_is_the_longest_that_is_not_too_long(remaining: float) -> None:
    lane = lane_for(remaining)
    if remaining <= 0:
        assert lane is NOW
    elif remaining < SHORTEST:
        assert lane is LADDER[1]
    else:
        assert lane.delay_seconds <= remaining
        assert not any(lane.delay_seconds < more.delay_seconds <= remaining for more in LADDER)


@pytest.mark.parametrize("lane", LADDER, ids=lambda lane: str(lane.name))
def test_a_due_record_is_tried_whatever_lane_it_is_in(lane: Lane) -> None:
    assert decide(lane, stored_at=100, due=99, now=100) == Try()


def test_a_move_never_leads_to_now() -> None:
    # It would come up at once, and be moved on and on.
    step = decide(LADDER[1], stored_at=0, due=10.001, now=10)
    assert step == Move(LADDER[1])


@pytest.mark.parametrize("lane", LADDER[1:], ids=lambda lane: str(lane.name))
def test_a_record_that_was_to_move_moves_also_when_it_is_due_by_then(lane: Lane) -> None:
    # A sender may have died between the move and its ack: then the move's name tells that the
    # record was moved, and tried at once it would be delivered twice.
    due = 100 + lane.delay_seconds + 1
    assert decide(lane, stored_at=100, due=due, now=due) == Move(NOW)
    assert decide(lane, stored_at=100, due=due, now=due + 1e6) == Move(NOW)


def test_in_the_lane_now_a_due_record_is_tried_whatever_the_servers_clock_says() -> None:
    assert decide(NOW, stored_at=90, due=99, now=100) == Try()


def test_a_record_with_more_than_its_lane_to_wait_comes_up_in_stored_order() -> None:
    assert decide(LADDER[2], stored_at=100, due=1000, now=110) == Wait(20)


def test_a_clock_that_went_back_only_makes_it_wait() -> None:
    step = decide(LADDER[1], stored_at=1000, due=1005, now=400)
    assert isinstance(step, Wait)
