from __future__ import annotations

from typing import Any

from mailrelay_operator.leader import (
    DEADLINE_SECONDS,
    DURATION_SECONDS,
    Sight,
    look,
    may_take,
    taken,
)


def lease(holder: str, renewed: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 — JSON
    return {"spec": {"holderIdentity": holder, "renewTime": renewed, **more}}


def test_a_lease_that_is_renewed_is_left_to_its_holder() -> None:
    sight = look(lease("a", "t1"), Sight(), now=0)
    sight = look(lease("a", "t2"), sight, now=14)
    assert not may_take(lease("a", "t2"), sight, "b", now=28)


def test_a_lease_that_stands_still_is_taken_after_its_duration_by_our_own_clock() -> None:
    sight = look(lease("a", "t1"), Sight(), now=100)
    sight = look(lease("a", "t1"), sight, now=110)
    assert not may_take(lease("a", "t1"), sight, "b", now=115)
    assert may_take(lease("a", "t1"), sight, "b", now=115.1)


def test_the_time_in_a_lease_is_not_believed() -> None:
    old = lease("a", "1990-01-01T00:00:00.000000Z")
    assert not may_take(old, look(old, Sight(), now=0), "b", now=1)


def test_a_lease_that_was_given_up_is_taken_at_once() -> None:
    free = lease("", "t1")
    assert may_take(free, look(free, Sight(), now=0), "b", now=0)


def test_the_duration_is_the_holders() -> None:
    long = lease("a", "t1", leaseDurationSeconds=60)
    sight = look(long, Sight(), now=0)
    assert not may_take(long, sight, "b", now=59)
    assert may_take(long, sight, "b", now=61)


def test_taking_a_lease_counts_and_renewing_does_not() -> None:
    first = taken({"metadata": {"resourceVersion": "1"}}, "a", "t1")
    again = taken(first, "a", "t2")
    other = taken(again, "b", "t3")
    assert [each["spec"]["leaseTransitions"] for each in (first, again, other)] == [1, 1, 2]
    assert again["spec"]["acquireTime"] == "t1"
    assert other["spec"]["acquireTime"] == "t3"
    assert first["metadata"] == {"resourceVersion": "1"}


def test_a_holder_stops_before_anybody_else_may_begin() -> None:
    assert DEADLINE_SECONDS < DURATION_SECONDS
