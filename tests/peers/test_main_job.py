"""The main job in its short form; `python -m tests.peers.main_job` is the full one."""

from __future__ import annotations

import pytest

from tests.peers.main_job import report, run

pytestmark = pytest.mark.peers


@pytest.mark.timeout(120)
@pytest.mark.parametrize("peer", ["exim", "postfix"])
async def test_300_messages_of_all_shapes_reach_the_peer_octet_for_octet(peer: str) -> None:
    outcome = await run(peer, 300)

    assert outcome.is_good, report(peer, outcome)
    assert outcome.identical.total() >= 300
