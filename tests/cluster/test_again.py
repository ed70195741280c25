"""A relay that is deleted leaves its queue, and one of the same name finds it again."""

from __future__ import annotations

import pytest

from tests.cluster import report
from tests.cluster.clusters import Cluster
from tests.cluster.mail import load
from tests.cluster.names import PREFIX
from tests.cluster.relays import NAME, delete_relay, make_relay, wait_ready
from tests.cluster.sinks import Sink
from tests.support.kubernetes.client import Client

pytestmark = pytest.mark.cluster
NAMESPACE = f"{PREFIX}again"
CLAIMS = {"data-mail-nats-0", "mail-monitor"}


async def test_a_relay_made_again_delivers_what_its_predecessor_took(
    cluster: Cluster, admin: Client, sink: Sink
) -> None:
    retry = {"initialIntervalSeconds": 2}
    await make_relay(admin, NAMESPACE, sink, sender={"replicas": 0, "batchSize": 5, "retry": retry})
    await wait_ready(admin, NAMESPACE)
    async with load(cluster, admin, "again", NAME, NAMESPACE) as client:
        await client.wait_accepted(100)
        ledger = await client.finish()
    assert not sink.deliveries(client.run)  # nobody was there to deliver
    await delete_relay(admin, NAMESPACE)
    claims = await admin.list("v1", "PersistentVolumeClaim", namespace=NAMESPACE)
    assert {claim["metadata"]["name"] for claim in claims} == CLAIMS
    for claim in claims:
        volume = await admin.get("v1", "PersistentVolume", claim["spec"]["volumeName"])
        assert volume["status"]["phase"] == "Bound"
    await make_relay(admin, NAMESPACE, sink, sender={"batchSize": 5, "retry": retry})
    await wait_ready(admin, NAMESPACE)
    verdict = await sink.wait_kept(ledger, client.run)
    report.count("the relay is deleted and made again", ledger, verdict)
    await admin.delete("v1", "Namespace", NAMESPACE)
