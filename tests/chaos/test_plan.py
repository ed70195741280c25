from __future__ import annotations

import itertools

import pytest

from tests.chaos.plan import (
    TROUBLES,
    Fault,
    Kind,
    Plan,
    one_of_each,
    plan_for_kills,
    plan_for_one_of_each,
    plan_for_seconds,
)
from tests.chaos.sites import ONE_MACHINE, THREE_SERVERS, Site


def steps(plan: Plan, count: int = 200) -> list[list[Fault]]:
    tracks = (plan.processes, plan.upstream, plan.disk)
    return [list(itertools.islice(track, count)) for track in tracks]


def test_a_seed_gives_the_same_steps_each_time_and_another_seed_others() -> None:
    assert steps(plan_for_seconds(1, 60)) == steps(plan_for_seconds(1, 600))
    assert steps(plan_for_seconds(1, 60)) != steps(plan_for_seconds(2, 60))


def test_a_plan_for_kills_ends_with_that_many() -> None:
    taken = list(plan_for_kills(1, 1000).processes)
    kills = sum(fault.kills for fault in taken)
    assert 1000 <= kills <= 1003  # the last step may kill four at once
    assert kills - taken[-1].kills < 1000


@pytest.mark.parametrize("site", [ONE_MACHINE, THREE_SERVERS], ids=lambda site: site.name)
def test_every_plan_begins_with_one_of_each_kind_and_every_trouble(site: Site) -> None:
    for seed in range(20):
        processes, upstream, disk = steps(plan_for_one_of_each(seed, site))
        expected = one_of_each(site)
        assert {(fault.kind, fault.targets) for fault in processes} == set(expected)
        assert len(processes) == len(expected)
        begun = {fault.targets[0] for fault in upstream[: len(TROUBLES)]}
        assert begun == set(TROUBLES)
        assert {fault.kind for fault in disk} == {Kind.DISK_FULL}


def test_most_steps_wait_for_mail_to_flow_and_some_do_not() -> None:
    taken = list(plan_for_kills(1, 1000).processes)
    waiting = sum(fault.waits for fault in taken) / len(taken)
    assert 0.5 < waiting < 0.8


def test_a_freeze_is_as_long_as_half_a_second_and_may_outlast_a_claim() -> None:
    freezes = [f for f in plan_for_kills(1, 1000).processes if f.kind is Kind.FREEZE]
    assert min(f.seconds for f in freezes) >= 0.5
    assert 6 < max(f.seconds for f in freezes) <= 8
