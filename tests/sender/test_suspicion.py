from __future__ import annotations

from mailrelay_sender import suspicion
from mailrelay_sender.suspicion import SUSPICIOUS_DELIVERIES, YOUNG_SECONDS, Suspicion

KEY = ("in", 1, 0.0)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_record_is_suspicious_beyond_ten_deliveries() -> None:
    found = Suspicion(Clock())
    assert not found.falls_on(KEY, SUSPICIOUS_DELIVERIES)
    assert found.falls_on(KEY, SUSPICIOUS_DELIVERIES + 1)


def test_what_this_process_gave_back_itself_does_not_count() -> None:
    found = Suspicion(Clock())
    for _ in range(50):
        found.given_back(KEY)
    assert not found.falls_on(KEY, 50 + SUSPICIOUS_DELIVERIES)
    assert found.falls_on(KEY, 51 + SUSPICIOUS_DELIVERIES)
    assert found.falls_on(("in", 2, 0.0), SUSPICIOUS_DELIVERIES + 1)


def test_a_process_that_has_lived_for_long_suspects_nothing() -> None:
    clock = Clock()
    found = Suspicion(clock)
    clock.now += YOUNG_SECONDS + 1
    assert not found.falls_on(KEY, 1000)


def test_what_is_remembered_is_bounded() -> None:
    found = Suspicion(Clock())
    for number in range(suspicion._REMEMBERED + 10):
        found.given_back(("in", number, 0.0))
    assert len(found._given_back) == suspicion._REMEMBERED
    assert ("in", 0, 0.0) not in found._given_back
