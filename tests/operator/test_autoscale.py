from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelay_operator.autoscale import History, Policy, Ready, decide

POLICY = Policy(least=1, most=10, ready_per_replica=100, scale_down_seconds=300)
TO_ZERO = Policy(least=0, most=10, ready_per_replica=100, scale_down_seconds=300)


def run(policy: Policy, looks: Iterable[tuple[float, Ready | None]], current: int) -> list[int]:
    """The replicas after each look."""
    history, decided = History(), []
    for now, ready in looks:
        decision = decide(policy, ready, current, history, now)
        current, history = decision.replicas, decision.history
        decided.append(current)
    return decided


@pytest.mark.parametrize(
    ("jobs", "replicas"), [(0, 1), (1, 1), (100, 1), (101, 2), (950, 10), (10**9, 10)]
)
def test_each_sender_gets_its_share_within_the_bounds(jobs: int, replicas: int) -> None:
    assert run(POLICY, [(0, Ready(new=jobs))], current=1) == [replicas]


def test_new_jobs_and_those_that_are_up_soon_count_alike() -> None:
    assert run(POLICY, [(0, Ready(new=200, soon=100))], current=1) == [3]


def test_more_senders_come_at_once() -> None:
    assert run(POLICY, [(0, Ready()), (15, Ready(new=500))], current=1) == [1, 5]


def test_fewer_senders_wait_for_the_whole_window() -> None:
    looks = [(0, Ready(new=500)), *((float(at), Ready()) for at in range(15, 301, 15))]
    decided = run(POLICY, looks, current=1)
    assert decided[:-1] == [5] * (len(looks) - 1)
    assert decided[-1] == 1


def test_the_highest_need_within_the_window_decides() -> None:
    looks = [(0, Ready(new=800)), (200, Ready(new=300)), (310, Ready()), (510, Ready())]
    assert run(POLICY, looks, current=1) == [8, 8, 3, 1]


def test_an_operator_that_just_started_takes_no_sender_away() -> None:
    looks = [(0, Ready()), (299, Ready()), (300, Ready())]
    assert run(POLICY, looks, current=7) == [7, 7, 1]


def test_an_unknown_backlog_takes_no_sender_away_however_long() -> None:
    looks: list[tuple[float, Ready | None]] = [(at * 15.0, None) for at in range(1000)]
    assert set(run(POLICY, looks, current=4)) == {4}


def test_an_unknown_backlog_starts_the_window_anew() -> None:
    looks = [(0, Ready()), (290, None), (310, Ready()), (580, Ready()), (595, Ready())]
    assert run(POLICY, looks, current=4) == [4, 4, 4, 4, 1]


def test_the_senders_go_when_nothing_is_ready_and_come_back_for_one_job() -> None:
    looks = [(0, Ready()), (300, Ready()), (315, Ready(new=1))]
    assert run(TO_ZERO, looks, current=2) == [2, 0, 1]


def test_mail_that_is_deferred_for_long_leaves_the_senders_at_zero_until_it_is_nearly_due() -> None:
    # 10,000 jobs wait for an hour: none of them is in `Ready` until 30 s before.
    looks = [*((at * 15.0, Ready()) for at in range(240)), (3600.0, Ready(soon=10_000))]
    decided = run(TO_ZERO, looks, current=0)
    assert set(decided[:-1]) == {0}
    assert decided[-1] == 10


def test_a_monitor_that_was_killed_while_there_were_no_senders_brings_one() -> None:
    assert run(TO_ZERO, [(0, Ready()), (15, None), (30, None)], current=0) == [0, 1, 1]


def test_changed_bounds_hold_at_once_whatever_is_known() -> None:
    assert run(Policy(2, 3, 100, 300), [(0, None)], current=9) == [3]
    assert run(Policy(2, 3, 100, 300), [(0, Ready())], current=9) == [3]
    assert run(Policy(2, 3, 100, 300), [(0, Ready())], current=0) == [2]


@given(
    st.lists(
        st.tuples(st.floats(1, 400), st.none() | st.integers(0, 5000)), min_size=1, max_size=40
    ),
    st.integers(0, 12),
    st.integers(0, 3),
)
def test_no_sequence_of_looks_breaks_the_promises(
    steps: list[tuple[float, int | None]], current: int, least: int
) -> None:
    policy = Policy(least, 10, 100, 300)
    history, now = History(), 0.0
    for pause, jobs in steps:
        now += pause
        decision = decide(policy, None if jobs is None else Ready(new=jobs), current, history, now)
        assert least <= decision.replicas <= 10
        if jobs is None:
            assert decision.replicas >= max(1, min(current, 10))
        elif jobs:
            assert decision.replicas >= 1
        assert len(decision.history.wanted) <= 11
        current, history = decision.replicas, decision.history
