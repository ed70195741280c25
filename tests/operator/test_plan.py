from __future__ import annotations

import copy
from typing import Any

import pytest

from mailrelay_operator.child import MADE_BY, MANIFEST, Child, child_of, digest_of
from mailrelay_operator.child_kinds import BY_KIND
from mailrelay_operator.plan import Plan, plan

RELAY = "relay-uid"


def manifest(kind: str = "Deployment", name: str = "a-sender", **spec: Any) -> dict[str, Any]:  # noqa: ANN401 — JSON
    kinds = {"Deployment": "apps/v1", "ConfigMap": "v1", "Job": "batch/v1"}
    body = {"data": spec} if kind == "ConfigMap" else {"spec": spec}
    return {
        "apiVersion": kinds[kind],
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": "n",
            "labels": {"app.kubernetes.io/instance": "a"},
            "ownerReferences": [{"uid": RELAY, "controller": True}],
        },
        **body,
    }


def stored(wanted: dict[str, Any], **metadata: Any) -> dict[str, Any]:  # noqa: ANN401 — JSON
    """The object as the server keeps it after the operator applied it."""
    found = copy.deepcopy(wanted)
    annotations = {MANIFEST: digest_of(wanted), MADE_BY: "v1"}
    found["metadata"] |= {
        "uid": "u1",
        "resourceVersion": "1",
        "generation": 1,
        "annotations": annotations,
    } | metadata
    return found


def child(found: dict[str, Any], before: Child | None = None) -> Child:
    return child_of(BY_KIND[found["kind"]], found, before)


def planned(
    wanted: list[dict[str, Any]], *found: Child, made_by: str = "v1", owner: str = RELAY
) -> Plan:
    by_key = {(each.kind.kind, each.name): each for each in found}
    return plan(wanted, by_key, owner=owner, made_by=made_by)


def test_what_is_not_there_is_made_with_a_digest_and_its_maker() -> None:
    todo = planned([manifest(replicas=1)])
    annotations = todo.apply[0].manifest["metadata"]["annotations"]
    assert annotations == {MANIFEST: digest_of(manifest(replicas=1)), MADE_BY: "v1"}
    assert "uid" not in todo.apply[0].manifest["metadata"]


def test_nothing_is_to_be_done_when_everything_is_as_it_is_wanted() -> None:
    found = child(stored(manifest(replicas=1)))
    assert planned([manifest(replicas=1)], found).is_nothing


def test_content_is_let_go_once_it_was_compared() -> None:
    found = child(stored(manifest(replicas=1)))
    assert found.packed is not None
    planned([manifest(replicas=1)], found)
    with pytest.raises(ValueError, match="was verified"):
        found.content()


def test_a_changed_manifest_is_applied_to_just_that_object() -> None:
    todo = planned([manifest(replicas=2)], child(stored(manifest(replicas=1))))
    assert todo.apply[0].manifest["metadata"]["uid"] == "u1"
    assert todo.apply[0].drift == ()


def test_an_edited_value_is_drift_and_named() -> None:
    edited = stored(manifest(replicas=1, paused=False))
    edited["spec"]["replicas"] = 7
    todo = planned([manifest(replicas=1, paused=False)], child(edited))
    assert todo.apply[0].drift == ("spec.replicas",)


def test_a_change_of_status_alone_needs_no_comparison() -> None:
    before = child(stored(manifest(replicas=1)))
    planned([manifest(replicas=1)], before)
    after = child(stored(manifest(replicas=1), resourceVersion="2"), before)
    assert after.packed is None
    assert planned([manifest(replicas=1)], after).is_nothing


def test_a_change_of_a_label_is_compared_though_the_generation_stays() -> None:
    before = child(stored(manifest(replicas=1)))
    planned([manifest(replicas=1)], before)
    edited = stored(manifest(replicas=1), resourceVersion="2")
    edited["metadata"]["labels"] = {"app.kubernetes.io/instance": "a", "x": "y"}
    assert child(edited, before).packed is not None


def test_a_kind_without_generation_is_compared_at_each_version() -> None:
    wanted = manifest("ConfigMap", a="1")
    first = stored(wanted)
    del first["metadata"]["generation"]
    before = child(first)
    planned([wanted], before)
    second = copy.deepcopy(first)
    second["metadata"]["resourceVersion"] = "2"
    second["data"]["a"] = "2"
    assert planned([wanted], child(second, before)).apply[0].drift == ("data.a",)


def test_fields_of_others_are_cleaned_out() -> None:
    found = stored(manifest(replicas=1))
    found["spec"]["paused"] = True
    theirs = {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {"f:paused": {}}}}
    found["metadata"]["managedFields"] = [theirs]
    todo = planned([manifest(replicas=1)], child(found))
    assert [wanted.title for wanted in todo.clean] == ["Deployment a-sender"]


def policy(**metadata: Any) -> Child:  # noqa: ANN401 — JSON
    found = stored(manifest(name="a-nats"), **metadata)
    return child(found | {"kind": "NetworkPolicy", "apiVersion": "networking.k8s.io/v1"})


def test_what_is_no_longer_wanted_is_deleted() -> None:
    assert [found.name for found in planned([], policy()).delete] == ["a-nats"]


@pytest.mark.parametrize(
    "found",
    [
        policy(ownerReferences=[]),
        policy(ownerReferences=[{"uid": "other", "controller": True}]),
        policy(deletionTimestamp="t"),
    ],
    ids=["of nobody", "of another relay", "on its way out"],
)
def test_what_is_not_the_relays_own_is_not_deleted(found: Child) -> None:
    assert planned([], found).delete == ()


def test_a_volume_claim_is_never_pruned() -> None:
    claim = stored(manifest())
    claim |= {"kind": "PersistentVolumeClaim", "apiVersion": "v1"}
    assert planned([], child(claim)).is_nothing


def test_what_a_deleted_relay_of_the_same_name_left_is_waited_for() -> None:
    found = child(stored(manifest()))
    todo = planned([manifest()], found, owner="the new relay")
    assert (todo.apply, todo.awaited) == ((), ("Deployment a-sender",))


def test_a_job_that_is_there_is_never_changed() -> None:
    wanted = manifest("Job", "a-streams-1", x=1)
    found = child(stored(manifest("Job", "a-streams-1", x=2)))
    assert planned([wanted], found).is_nothing


def test_another_operator_that_wants_the_same_does_nothing() -> None:
    assert planned(
        [manifest(replicas=1)], child(stored(manifest(replicas=1))), made_by="v2"
    ).is_nothing


def test_another_operator_that_wants_something_else_rolls_by_upgrade() -> None:
    todo = planned([manifest(replicas=2)], child(stored(manifest(replicas=1))), made_by="v2")
    assert todo.rolls_by_upgrade
    assert todo.without_upgrade().is_nothing


def test_what_is_missing_is_made_while_an_upgrade_waits_for_its_turn() -> None:
    config = manifest("ConfigMap", "a-config", a="1")
    todo = planned(
        [config, manifest(replicas=2)], child(stored(manifest(replicas=1))), made_by="v2"
    )
    assert [each.title for each in todo.without_upgrade().apply] == ["ConfigMap a-config"]


def test_drift_is_no_upgrade() -> None:
    edited = stored(manifest(replicas=1))
    edited["spec"]["replicas"] = 7
    todo = planned([manifest(replicas=1)], child(edited), made_by="v2")
    assert not todo.rolls_by_upgrade
