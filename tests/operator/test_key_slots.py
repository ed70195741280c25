"""A role's key at NATS: two slots, three steps, and no moment at which a pod is locked out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelay.queue.nkey import new_seed, public_key_of
from mailrelay_operator.generate import take_step
from mailrelay_operator.key_slots import KeySlots, Slot, Step, key_slots, next_step


def first() -> dict[str, bytes]:
    return {"seed-a": new_seed().encode(), "slot": b"a"}


def slots_of(data: dict[str, bytes]) -> KeySlots:
    found = key_slots(data)
    assert found is not None
    return found


def test_a_secret_says_which_key_is_in_use() -> None:
    data = first()
    slots = slots_of(data)
    assert slots.in_use is Slot.A
    assert slots.current == public_key_of(data["seed-a"].decode())
    assert slots.known == (slots.current,)
    assert slots.spare is None


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"slot": b"a"},
        {"slot": b"c", "seed-a": new_seed().encode()},
        {"slot": b"b", "seed-a": new_seed().encode()},
        {"slot": b"a", "seed-a": b"rubbish"},
        {"slot": b"\xff", "seed-a": b"\xff"},
    ],
)
def test_a_secret_without_the_seed_in_use_is_none(data: dict[str, bytes]) -> None:
    assert key_slots(data) is None


def test_no_seed_is_in_what_is_read_of_a_secret() -> None:
    data = first()
    assert data["seed-a"].decode() not in repr(slots_of(data))


def test_a_key_that_nobody_asks_to_replace_stays() -> None:
    slots = slots_of(first())
    held = {slots.current}
    assert next_step(slots, asked="", nats_lets_in=held, keys_of_pods=held) is None


def test_a_replacement_ends_with_one_key_which_is_another() -> None:
    data = first()
    old = slots_of(data).current
    nats, pods, steps = {old}, {old}, []
    for _ in range(8):
        slots = slots_of(data)
        step = next_step(slots, asked="monday", nats_lets_in=nats, keys_of_pods=pods)
        if step is not None:
            steps.append(step)
            data = take_step(data, step, "monday")
        nats, pods = set(slots_of(data).known), {slots_of(data).current}  # both have rolled
    assert steps == [Step.BEGIN, Step.SWITCH, Step.END]
    assert slots_of(data).known == (slots_of(data).current,)
    assert slots_of(data).current != old


def test_each_step_waits_for_what_it_needs() -> None:
    begun = take_step(first(), Step.BEGIN, "now")
    slots = slots_of(begun)
    old, new = slots.current, slots.spare
    assert new is not None
    assert next_step(slots, asked="now", nats_lets_in={old}, keys_of_pods={old}) is None
    assert next_step(slots, asked="now", nats_lets_in={old, new}, keys_of_pods={old}) is Step.SWITCH
    switched = slots_of(take_step(begun, Step.SWITCH, "now"))
    both = {old, new}
    assert next_step(switched, asked="now", nats_lets_in=both, keys_of_pods=both) is None
    assert next_step(switched, asked="now", nats_lets_in=both, keys_of_pods={new}) is Step.END


def test_a_new_seed_that_somebody_took_away_is_made_again() -> None:
    begun = take_step(first(), Step.BEGIN, "now")
    lost = {key: value for key, value in begun.items() if key != "seed-b"}
    slots = slots_of(lost)
    held = {slots.current}
    assert next_step(slots, asked="now", nats_lets_in=held, keys_of_pods=held) is Step.BEGIN


def test_another_word_is_another_replacement_and_the_same_one_is_not() -> None:
    data = first()
    for step in Step:
        data = take_step(data, step, "monday")
    slots = slots_of(data)
    held = {slots.current}
    assert next_step(slots, asked="monday", nats_lets_in=held, keys_of_pods=held) is None
    assert next_step(slots, asked="", nats_lets_in=held, keys_of_pods=held) is None
    assert next_step(slots, asked="friday", nats_lets_in=held, keys_of_pods=held) is Step.BEGIN


@given(st.lists(st.sampled_from(["nats", "pods", "operator", "monday", "friday"]), max_size=40))
def test_no_pod_is_ever_locked_out(order: list[str]) -> None:
    """Whatever rolls when: every pod's key is one that NATS has, and that its Secret still had."""
    data = first()
    nats, pods, asked = {slots_of(data).current}, {slots_of(data).current}, ""
    for actor in order:
        slots = slots_of(data)
        if actor == "nats":
            nats = set(slots.known)
        elif actor == "pods":  # one starts with the key in use; those that end go on for a while
            pods = {slots.current} if slots.current in pods else pods | {slots.current}
        elif actor == "operator":
            step = next_step(slots, asked=asked, nats_lets_in=nats, keys_of_pods=pods)
            if step is not None:
                data = take_step(data, step, asked)
        else:
            asked = actor
        assert pods <= nats
        assert pods <= set(slots_of(data).known)
