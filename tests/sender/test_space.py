"""When new mail is left alone: a decision, and a look at a real server's lanes."""

from __future__ import annotations

import pytest

from mailrelay.queue.levels import Level
from mailrelay_sender.space import has_room, mark_bytes

MB = 1024 * 1024


def lanes(stored_bytes: int, max_bytes: int = 1000 * MB) -> Level:
    return Level(1, 0, stored_bytes, max_bytes, drops_oldest=False)


def test_a_tenth_of_the_lanes_is_reserved() -> None:
    assert mark_bytes(1000 * MB, open_jobs=10) == 900 * MB


def test_each_open_jobs_record_is_reserved_when_that_is_more() -> None:
    assert mark_bytes(100 * MB, open_jobs=200) == 75 * MB


def test_half_of_a_small_store_may_be_filled_whatever_could_be_open() -> None:
    assert mark_bytes(10 * MB, open_jobs=1000) == 5 * MB


@pytest.mark.parametrize(
    ("stored", "added", "had_room", "room"),
    [
        (899, 0, True, True),
        (900, 0, True, False),
        (890, 20, True, False),  # what was stored since the last look counts
        (850, 0, False, False),  # not on again with the first record that goes
        (809, 0, False, True),
    ],
)
def test_new_mail_is_claimed_below_the_mark(
    stored: int, added: int, *, had_room: bool, room: bool
) -> None:
    found = has_room(lanes(stored * MB), added_bytes=added * MB, open_jobs=10, had_room=had_room)
    assert found is room


def test_lanes_without_a_limit_have_room() -> None:
    assert has_room(lanes(10, max_bytes=-1), added_bytes=0, open_jobs=5, had_room=True)
