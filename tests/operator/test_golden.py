"""What each field of a resource does, in files that a reviewer reads; and Kubernetes' schemas."""

from __future__ import annotations

import difflib

import kubernetes_validate
import pytest

from mailrelay_operator.desired.children import desired
from tests.operator.golden_files import path_of, text_of
from tests.operator.relays import CASES, GOLDEN, case, inputs

pytestmark = pytest.mark.timeout(300)  # schemas and YAML take a while on a busy machine

KUBERNETES = "1.35"
OF_ADD_ONS = {"Certificate", "PodMonitor"}  # Kubernetes has no schema of these


@pytest.mark.parametrize("name", CASES)
def test_the_children_of_a_relay_are_those_of_its_golden_file(name: str) -> None:
    path = path_of(name)
    before = path.read_text() if path.exists() else ""
    lines = before.splitlines(), text_of(name).splitlines()
    diff = "\n".join(difflib.unified_diff(*lines, path.name, "now", lineterm=""))
    assert not diff, f"\n{diff}\n\nIf it is meant: python -m tests.operator.golden_files"


def test_no_golden_file_is_left_over() -> None:
    resources = {GOLDEN / f"{name}.relay.yaml" for name in CASES}
    assert set(GOLDEN.iterdir()) == resources | {path_of(name) for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_kubernetes_knows_every_field_of_every_child(name: str) -> None:
    for child in desired(case(name), inputs()):
        if child["kind"] not in OF_ADD_ONS:
            kubernetes_validate.validate(child, KUBERNETES, strict=True)
