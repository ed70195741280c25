from __future__ import annotations

from typing import Any

from mailrelay_operator.child_kinds import BY_KIND
from mailrelay_operator.known import Known

KEY = ("n", "a")
CONFIG = BY_KIND["ConfigMap"]


def relay(version: str = "1", **metadata: Any) -> dict[str, Any]:  # noqa: ANN401 — JSON
    head = {"namespace": "n", "name": "a", "uid": "u", "resourceVersion": version, "generation": 1}
    return {"metadata": head | metadata}


def child(version: str = "1", instance: str = "a", name: str = "a-config") -> dict[str, Any]:
    labels = {"app.kubernetes.io/instance": instance}
    head = {"namespace": "n", "name": name, "uid": "c", "resourceVersion": version}
    return {"metadata": head | {"labels": labels}, "data": {}}


def memory() -> tuple[Known, list[tuple[str, str]]]:
    told: list[tuple[str, str]] = []
    return Known(told.append), told


def test_a_change_of_status_is_no_reason_to_look_at_a_relay() -> None:
    known, told = memory()
    known.note_relay(relay("1"))
    known.note_relay(relay("2"))
    assert told == [KEY]
    known.note_relay(relay("3", generation=2))
    known.note_relay(relay("4", generation=2, deletionTimestamp="t"))
    assert told == [KEY] * 3


def test_a_child_concerns_the_relay_of_its_label() -> None:
    known, told = memory()
    known.note_child(CONFIG, child())
    known.note_child(CONFIG, child())
    known.note_child(CONFIG, child("2"))
    assert told == [KEY] * 2


def test_what_the_operator_wrote_itself_is_no_news() -> None:
    known, told = memory()
    known.note_child(CONFIG, child("7"), is_news=False)
    known.note_child(CONFIG, child("7"))
    assert told == []


def test_a_child_that_is_gone_concerns_its_relay_and_leaves_nothing() -> None:
    known, told = memory()
    known.note_child(CONFIG, child())
    known.forget_child(CONFIG, ("n", "a-config"))
    known.forget_child(CONFIG, ("n", "a-config"))
    assert told == [KEY] * 2
    assert (known._children, known._owners) == ({}, {})


def test_a_child_whose_label_changes_leaves_the_one_and_joins_the_other() -> None:
    known, told = memory()
    known.note_child(CONFIG, child())
    known.note_child(CONFIG, child("2", instance="b"))
    assert not known.children(KEY)
    assert list(known.children(("n", "b"))) == [("ConfigMap", "a-config")]
    assert told == [KEY, ("n", "b"), KEY]


def test_a_secret_concerns_the_relays_that_read_it() -> None:
    known, told = memory()
    known.reads(KEY, [("n", "pw"), ("n", "ca")])
    known.note_secret(("n", "pw"), "1")
    known.note_secret(("n", "other"), "1")
    known.note_secret(("n", "pw"), "")
    assert told == [KEY] * 2
    known.reads(KEY, [("n", "ca")])
    known.note_secret(("n", "pw"), "2")
    assert told == [KEY] * 2
    known.reads(KEY, [])
    assert (known._readers, known._reads) == ({}, {})


def test_the_content_of_a_generated_secret_is_in_no_text() -> None:
    known, _ = memory()
    secret = child(name="a-smtp") | {"data": {"password": "aHVzaA=="}, "type": "Opaque"}
    known.note_own_secret(secret)
    own = known.own_secrets(KEY)["a-smtp"]
    assert own.data == {"password": b"hush"}
    assert "hush" not in repr(own)
    assert "aHVzaA" not in repr(own)


def test_a_relay_may_name_a_secret_that_was_generated_for_another_one() -> None:
    known, told = memory()
    known.reads(("n", "b"), [("n", "a-smtp")])
    known.note_own_secret(child("5", name="a-smtp") | {"data": {}})
    assert known.secret_version(("n", "a-smtp")) == "5"
    assert ("n", "b") in told
    known.forget_own_secret(("n", "a-smtp"))
    assert known.secret_version(("n", "a-smtp")) == ""


def test_a_generated_secret_that_lost_its_label_is_still_there() -> None:
    known, _ = memory()
    known.note_own_secret(child("5", name="a-smtp") | {"data": {}})
    known.note_secret(("n", "a-smtp"), "6")
    known.forget_own_secret(("n", "a-smtp"))
    assert known.secret_version(("n", "a-smtp")) == "6"
