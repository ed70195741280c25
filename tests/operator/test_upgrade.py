from __future__ import annotations

from mailrelay_operator.upgrade import Upgrade

A, B, C = ("n", "a"), ("n", "b"), ("n", "c")


def upgrade(*relays: tuple[str, str]) -> Upgrade:
    return Upgrade(lambda: relays)


def seen(*relays: tuple[str, str]) -> Upgrade:
    """All were looked at, are well, and were made by the operator before."""
    whole = upgrade(*relays)
    for key in relays:
        whole.note(key, is_new=False, fault="")
    return whole


def test_one_relay_rolls_at_a_time() -> None:
    whole = seen(A, B)
    assert whole.ask(A) == ""
    assert whole.ask(B) == "the operator's new version waits for relay n/a"
    whole.note(A, is_new=True, fault="pods come: a-sender")
    assert "pods come" in whole.ask(B)
    whole.note(A, is_new=True, fault="")
    assert whole.ask(B) == ""


def test_a_relay_that_fails_stops_the_others_and_they_say_so() -> None:
    whole = seen(A, B, C)
    whole.ask(A)
    whole.note(A, is_new=True, fault="0/2 pods ready")
    for other in (B, C):
        assert whole.ask(other) == (
            "the operator's new version waits for relay n/a: 0/2 pods ready"
        )


def test_the_relay_whose_turn_it_is_goes_on() -> None:
    whole = seen(A, B)
    assert whole.ask(A) == ""
    whole.note(A, is_new=False, fault="pods come")
    assert whole.ask(A) == ""


def test_nobody_rolls_before_all_were_looked_at() -> None:
    whole = upgrade(A, B)
    whole.note(A, is_new=False, fault="")
    assert "1 more" in whole.ask(A)
    whole.note(B, is_new=False, fault="")
    assert whole.ask(A) == ""


def test_an_operator_that_starts_in_the_middle_goes_on_where_the_other_stopped() -> None:
    whole = upgrade(A, B)
    whole.note(A, is_new=True, fault="0/2 pods ready")
    whole.note(B, is_new=False, fault="")
    assert "n/a" in whole.ask(B)


def test_a_relay_that_was_broken_before_stops_nobody() -> None:
    whole = seen(A, B)
    whole.note(A, is_new=False, fault="Secret missing")
    assert whole.ask(B) == ""


def test_the_turn_of_a_relay_that_is_deleted_goes_on() -> None:
    whole = seen(A, B)
    whole.ask(A)
    whole.all_relays = lambda: [B]
    whole.forget(A)
    assert whole.ask(B) == ""
