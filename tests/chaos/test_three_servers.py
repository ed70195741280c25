"""The relay's services on three nats-servers with three copies of each record.

A killed server alone repeats nothing: the sender keeps what its attempts came to, and a record that
is delivered again is only acked again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.errors import QueueError
from mailrelay.queue.rights import Role
from mailrelay_cli.nats_server import find_nats_server
from tests.chaos.walks import duplicates_of, finish, script, submit, walks
from tests.support.cluster_relay import ClusterRelay, running_cluster_relay
from tests.support.relay import forwarding_to
from tests.support.upstream import ScriptedUpstream
from tests.support.wait import wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

# The relay's own deadline of 15 s for storing, one try more, and a busy machine's delay.
BOUNDED_SECONDS = 25.0
LOG = structlog.get_logger()


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream(script, keep_content=False) as upstream:
        yield upstream


@pytest.fixture
async def relay(tmp_path: Path, upstream: ScriptedUpstream) -> AsyncIterator[ClusterRelay]:
    server = find_nats_server(print)
    async with running_cluster_relay(
        tmp_path, server, LOG, **forwarding_to(upstream.port)
    ) as running:
        yield running


async def wait_empty(relay: ClusterRelay, admin: QueueConnection) -> None:
    """Wait until no record and no body is left, and the relay's numbers say the same."""
    names = relay.cluster.names

    async def is_empty() -> bool:
        for stream in (names.in_stream(), names.lane_stream, names.body_stream):
            try:
                state = (await admin.api(f"STREAM.INFO.{stream}"))["state"]
            except QueueError as error:
                raise AssertionError(str(error)) from error
            assert state["messages"] == 0, f"{state['messages']} in {stream}"
        return True

    await wait_until(is_empty, 60, "the streams are empty", interval=0.2)
    await relay.wait_health(60, queued_emails=0, failed_emails=0)

    async def is_well() -> bool:
        answer = (await relay.get("/health")).json()
        assert answer["status"] == "ok", answer
        return True

    await wait_until(is_well, 20, "health is ok", interval=0.2)  # it looks every 5 s


async def test_every_walk_survives_the_kill_of_a_streams_leader_without_a_repeat(
    relay: ClusterRelay, upstream: ScriptedUpstream
) -> None:
    names = relay.cluster.names
    async with relay.cluster.connected(Role.ADMIN, LOG) as admin:
        for stream in (names.in_stream(), names.lane_stream):
            leader = await relay.cluster.leader_of(stream, LOG)
            taken = walks(stream)
            submitting = [asyncio.create_task(submit(relay, walk)) for walk in taken]
            leader.kill()
            assert [await each for each in submitting] == [250] * len(taken)
            await finish(relay, upstream, taken)
            leader.start()
            await relay.cluster.wait_whole(admin)
        await wait_empty(relay, admin)
    assert duplicates_of(upstream) == []
    assert relay.log_lines("monitor", "queue.data_lost") == []


async def test_without_a_quorum_clients_get_451_in_bounded_time_and_mail_goes_on_afterwards(
    relay: ClusterRelay, upstream: ScriptedUpstream
) -> None:
    before, during, after = (walks(run) for run in ("before", "during", "after"))
    first, second, _ = relay.cluster.nodes
    assert [await submit(relay, walk) for walk in before] == [250] * len(before)
    for node in (first, second):
        node.kill()
    started = time.monotonic()
    codes = await asyncio.gather(*(submit(relay, walk) for walk in during))
    assert time.monotonic() - started < BOUNDED_SECONDS
    assert set(codes) == {451}
    async with relay.cluster.connected(Role.ADMIN, LOG) as admin:
        for node in (first, second):
            node.start()
        await relay.cluster.wait_whole(admin)
        assert [await submit(relay, walk) for walk in after] == [250] * len(after)
        await finish(relay, upstream, (*before, *after))
        await wait_empty(relay, admin)
    assert duplicates_of(upstream) == []
    assert relay.log_lines("monitor", "queue.data_lost") == []
