from __future__ import annotations

from dataclasses import fields

import pytest

from tests.model.__main__ import explore
from tests.model.mutations import MUTATIONS, SOUND, Mutation
from tests.model.rules import Rules
from tests.model.state import Walk
from tests.model.walks import WALKS

LIMIT = 100_000


@pytest.mark.timeout(300)  # seconds of processor time on a machine that does other things too
@pytest.mark.parametrize("walk", WALKS, ids=lambda walk: walk.name)
def test_every_invariant_holds_in_every_state_of(walk: Walk) -> None:
    found = explore(walk, SOUND, LIMIT)
    assert not found.wrong, str(found)
    assert found.states > 100


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.rule)
def test_the_checker_catches_a_protocol_without(mutation: Mutation) -> None:
    found = explore(mutation.on(), mutation.rules, LIMIT)
    assert mutation.wrong in found.wrong, str(found)
    assert found.trace


def test_each_rule_is_broken_once() -> None:
    switches = {field.name for field in fields(Rules)}
    unbroken = switches - {mutation.rule for mutation in MUTATIONS}
    assert unbroken == set()
