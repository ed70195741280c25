"""An upstream that says when the sender breaks SMTP's rules, and a pool of connections to it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from mailrelay_sender.connection import ConnectionPool
from tests.sender.attempts import pool_to
from tests.support.extensions import Extensions
from tests.support.upstream import ScriptedUpstream


@pytest.fixture(params=[True, False], ids=["pipelined", "one by one"])
async def upstream(request: pytest.FixtureRequest) -> AsyncIterator[ScriptedUpstream]:
    offers = Extensions(pipelining=request.param)
    async with ScriptedUpstream(extensions=offers, keep_wire=True) as running:
        yield running
        assert running.violations == []


@pytest.fixture
async def pool(upstream: ScriptedUpstream) -> AsyncIterator[ConnectionPool]:
    async with pool_to(upstream) as made:
        yield made
