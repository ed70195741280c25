"""Three NATS servers with three copies: one may go at any time, and the budget keeps the others."""

from __future__ import annotations

import pytest

from tests.cluster import report
from tests.cluster.clusters import Cluster
from tests.cluster.mail import load
from tests.cluster.names import PREFIX
from tests.cluster.relays import (
    NAME,
    READY_SECONDS,
    evict,
    kill_in_pod,
    make_relay,
    pods,
    wait_component,
    wait_gone,
    wait_ready,
)
from tests.cluster.sinks import Sink
from tests.support.kubernetes.client import Client, Manifest
from tests.support.ledger import Outcome
from tests.support.wait import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.long]
NAMESPACE = f"{PREFIX}three"


async def test_nothing_is_lost_when_each_server_is_evicted_and_one_is_killed(
    cluster: Cluster, admin: Client, sink: Sink
) -> None:
    sender = {"batchSize": 5, "retry": {"initialIntervalSeconds": 2}}
    await make_relay(admin, NAMESPACE, sink, queue={"replicas": 3}, sender=sender)
    await wait_ready(admin, NAMESPACE)
    async with load(cluster, admin, "three", NAME, NAMESPACE) as client:
        await client.wait_accepted(100)
        first, *others = await pods(admin, NAMESPACE, "nats")
        assert len(others) == 2
        assert await evict(admin, first)
        assert not await evict(admin, others[0]), "the budget lets one go at a time"
        await wait_gone(admin, first)
        for pod in others:

            async def is_let_go(pod: Manifest = pod) -> bool:
                return await evict(admin, pod)

            await wait_until(is_let_go, READY_SECONDS, "the budget lets the next one go", 0.5)
            await wait_gone(admin, pod)
        await wait_component(admin, NAMESPACE, "nats")
        await kill_in_pod(cluster, admin, NAMESPACE, "nats")
        await wait_ready(admin, NAMESPACE)
        await client.wait_accepted(100)
        ledger = await client.finish()
    verdict = await sink.wait_kept(ledger, client.run)
    report.count("of three NATS servers all are evicted", ledger, verdict)
    refused = [*ledger.with_outcome(Outcome.REFUSED), *ledger.with_outcome(Outcome.NOT_SENT)]
    assert not refused, f"{len(refused)} refused, the first one: {refused[0]}"
    await admin.delete("v1", "Namespace", NAMESPACE)
