from __future__ import annotations

import copy
from decimal import Decimal
from typing import Any

import pytest

from mailrelay_operator.compare import differences, foreign_fields, is_wanted, quantity, removal

WANTED: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "x", "labels": {"a": "1"}},
    "spec": {
        "replicas": 2,
        "template": {
            "spec": {
                "enableServiceLinks": False,
                "containers": [
                    {
                        "name": "sender",
                        "env": [{"name": "A", "value": ""}, {"name": "B", "value": "b"}],
                        "resources": {"limits": {"memory": "1024Mi", "cpu": "1000m"}},
                    }
                ],
                "volumes": [{"name": "tmp", "emptyDir": {}}],
            }
        },
    },
}


def as_stored() -> dict[str, Any]:
    """The same with what a server adds, leaves out, and spells otherwise."""
    stored = copy.deepcopy(WANTED)
    stored["metadata"] |= {"uid": "u", "resourceVersion": "7", "generation": 1}
    stored["metadata"]["labels"]["theirs"] = "2"
    stored["spec"]["progressDeadlineSeconds"] = 600
    container = stored["spec"]["template"]["spec"]["containers"][0]
    container["imagePullPolicy"] = "Always"
    del container["env"][0]["value"]
    container["resources"]["limits"] = {"memory": "1Gi", "cpu": "1"}
    del stored["spec"]["template"]["spec"]["enableServiceLinks"]
    stored["status"] = {"readyReplicas": 2}
    return stored


def test_what_the_server_adds_leaves_out_or_respells_is_no_difference() -> None:
    assert list(differences(WANTED, as_stored())) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.replicas", 3),
        ("spec.template.spec.containers[0].env[1].value", "c"),
        ("spec.template.spec.containers[0].resources.limits.memory", "2Gi"),
        ("spec.template.spec.containers", []),
        ("metadata.labels.a", "other"),
    ],
)
def test_a_value_that_was_changed_is_named_by_its_path(path: str, value: object) -> None:
    stored = as_stored()
    at: Any = stored
    steps = path.replace("[", ".[").split(".")
    for step in steps[:-1]:
        at = at[int(step[1:-1])] if step.startswith("[") else at[step]
    at[steps[-1]] = value
    assert list(differences(WANTED, stored)) == [path]


def test_a_value_that_was_removed_is_a_difference() -> None:
    stored = as_stored()
    del stored["metadata"]["labels"]["a"]
    del stored["spec"]["template"]["spec"]["volumes"]
    assert list(differences(WANTED, stored)) == [
        "metadata.labels.a",
        "spec.template.spec.volumes",
    ]


@pytest.mark.parametrize(
    ("text", "amount"),
    [("500m", "0.5"), ("1Ki", "1024"), ("1e3", "1000"), ("1k", "1000"), ("0.5", "0.5")],
)
def test_a_quantity_is_what_it_amounts_to(text: str, amount: str) -> None:
    assert quantity(text) == Decimal(amount)


@pytest.mark.parametrize("text", ["", "1 Gi", "{{ x }}", "1.2.3", "Gi", "1Gi\n"])
def test_what_is_no_quantity_amounts_to_nothing(text: str) -> None:
    assert quantity(text) is None


OURS = {
    "manager": "mailrelay-operator",
    "operation": "Apply",
    "fieldsV1": {
        "f:metadata": {"f:labels": {"f:a": {}}},
        "f:spec": {
            "f:replicas": {},
            "f:template": {
                "f:spec": {
                    "f:containers": {
                        'k:{"name":"sender"}': {".": {}, "f:name": {}, "f:image": {}},
                    }
                }
            },
        },
    },
}


def with_foreign(fields: dict[str, Any], manager: str = "kubectl-edit", **more: str) -> Any:  # noqa: ANN401 — JSON
    stored = as_stored()
    theirs = {"manager": manager, "operation": "Update", "fieldsV1": fields, **more}
    stored["metadata"]["managedFields"] = [theirs, OURS]
    return stored


def containers(fields: dict[str, Any]) -> dict[str, Any]:
    return {"f:spec": {"f:template": {"f:spec": {"f:containers": fields}}}}


def test_a_field_that_somebody_added_is_found() -> None:
    stored = with_foreign({"f:spec": {"f:progressDeadlineSeconds": {}}})
    assert foreign_fields(stored, ["spec"]) == [("spec", "progressDeadlineSeconds")]


def test_a_container_that_somebody_added_is_found_whole() -> None:
    stored = with_foreign(containers({'k:{"name":"spy"}': {".": {}, "f:image": {}, "f:name": {}}}))
    stored["spec"]["template"]["spec"]["containers"].append({"name": "spy", "image": "x"})
    assert foreign_fields(stored, ["spec"]) == [("spec", "template", "spec", "containers", 1)]


def test_a_field_within_a_container_of_ours_is_found_alone() -> None:
    stored = with_foreign(containers({'k:{"name":"sender"}': {"f:imagePullPolicy": {}}}))
    assert foreign_fields(stored, ["spec"]) == [
        ("spec", "template", "spec", "containers", 0, "imagePullPolicy")
    ]


@pytest.mark.parametrize(
    "stored",
    [
        with_foreign({"f:spec": {"f:replicas": {}}}),  # ours too: the value decides
        with_foreign({"f:metadata": {"f:labels": {"f:theirs": {}}}}),
        with_foreign({"f:spec": {"f:progressDeadlineSeconds": {}}}, "kube-controller-manager"),
        with_foreign({"f:spec": {"f:progressDeadlineSeconds": {}}}, subresource="scale"),
        with_foreign({"f:spec": {"f:gone": {}}}),
    ],
    ids=["shared", "label", "kubernetes", "scale", "gone"],
)
def test_what_is_tolerated_is_not_found(stored: dict[str, Any]) -> None:
    assert foreign_fields(stored, ["spec"]) == []


def restarted(*more: str) -> dict[str, Any]:
    mark = "kubectl.kubernetes.io/restartedAt"
    fields: dict[str, Any] = {f"f:{name}": {} for name in (mark, *more)}
    annotations = {"f:annotations": {".": {}, **fields}}
    stored = with_foreign(
        {"f:spec": {"f:template": {"f:metadata": annotations}}}, "kubectl-rollout"
    )
    template = stored["spec"]["template"]
    template["metadata"] = {"annotations": dict.fromkeys((mark, *more), "2026")}
    return dict(stored)


def test_kubectl_rollout_restart_is_not_undone() -> None:
    assert foreign_fields(restarted(), ["spec"]) == []


def test_another_annotation_beside_a_restart_is_found() -> None:
    at = ("spec", "template", "metadata", "annotations", "sidecar/inject")
    assert foreign_fields(restarted("sidecar/inject"), ["spec"]) == [at]


def test_a_removal_tests_the_version_and_takes_the_last_of_a_list_first() -> None:
    found = {"metadata": {"resourceVersion": "7"}}
    paths = [("spec", "c", 1), ("spec", "c", 10), ("spec", "c", 2, "a/b~c"), ("data", "x")]
    assert removal(found, paths) == [
        {"op": "test", "path": "/metadata/resourceVersion", "value": "7"},
        {"op": "remove", "path": "/spec/c/10"},
        {"op": "remove", "path": "/spec/c/2/a~1b~0c"},
        {"op": "remove", "path": "/spec/c/1"},
        {"op": "remove", "path": "/data/x"},
    ]


def test_a_wanted_field_is_told_from_an_extra_one() -> None:
    stored = as_stored()
    at = ("spec", "template", "spec", "containers")
    stored["spec"]["template"]["spec"]["containers"].append({"name": "spy"})
    assert is_wanted(("spec", "replicas"), WANTED, stored)
    assert is_wanted((*at, 0), WANTED, stored)
    assert not is_wanted((*at, 1), WANTED, stored)
    assert not is_wanted((*at, 0, "imagePullPolicy"), WANTED, stored)
    assert not is_wanted(("spec", "progressDeadlineSeconds"), WANTED, stored)
