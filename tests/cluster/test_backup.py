"""A queue that is lost with its volume comes back from the back-up of the guide's examples."""

from __future__ import annotations

import pytest

from tests.cluster import report
from tests.cluster.clusters import Cluster
from tests.cluster.mail import load
from tests.cluster.names import PREFIX
from tests.cluster.relays import delete_relay, make_relay, wait_ready
from tests.cluster.sinks import Sink
from tests.support.command import ROOT
from tests.support.kubernetes.client import Client
from tests.support.wait import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.long]
NAMESPACE = f"{PREFIX}backup"
RELAY = "relay"  # what the examples call it
EXAMPLES = ROOT / "examples" / "backup"
IMAGE = "mailrelay-tools:0.1.0"
JOB_SECONDS = 300.0


async def test_what_was_backed_up_is_delivered_once_by_the_relay_that_is_made_anew(
    cluster: Cluster, admin: Client, sink: Sink
) -> None:
    retry = {"initialIntervalSeconds": 2}
    await make_relay(admin, NAMESPACE, sink, RELAY, sender={"replicas": 0, "batchSize": 5})
    await wait_ready(admin, NAMESPACE, RELAY)
    async with load(cluster, admin, "backup", RELAY, NAMESPACE) as client:
        await client.wait_accepted(200)
        ledger = await client.finish()
    await apply(cluster, "back-up.yaml")
    now = ("job", "relay-backup-now", "--from=cronjob/relay-backup")
    await cluster.kubectl("create", *now, "--namespace", NAMESPACE)
    await wait_done(cluster, admin, "relay-backup-now")

    await delete_relay(admin, NAMESPACE, RELAY)
    for claim in await admin.list("v1", "PersistentVolumeClaim", namespace=NAMESPACE):
        if (name := claim["metadata"]["name"]) != "relay-backup":
            await admin.delete("v1", "PersistentVolumeClaim", name, namespace=NAMESPACE)
    assert not sink.deliveries(client.run)

    await make_relay(admin, NAMESPACE, sink, RELAY, sender={"batchSize": 5, "retry": retry})
    await wait_ready(admin, NAMESPACE, RELAY)
    await apply(cluster, "restore.yaml")
    await wait_done(cluster, admin, "relay-restore")
    verdict = await sink.wait_kept(ledger, client.run)
    assert not verdict.duplicated
    report.count("the queue is lost, and restored from a back-up", ledger, verdict)
    await admin.delete("v1", "Namespace", NAMESPACE)


async def apply(cluster: Cluster, example: str) -> None:
    """Apply an example, with the image that the cluster has."""
    text = (EXAMPLES / example).read_text()
    assert IMAGE in text
    text = text.replace(IMAGE, cluster.images.reference("mailrelay-tools"))
    await cluster.kubectl("apply", "--namespace", NAMESPACE, "--filename", "-", stdin=text)


async def wait_done(cluster: Cluster, client: Client, name: str) -> None:
    """Wait until a Job has done its work; what it said stands in the failure otherwise."""

    async def is_done() -> bool:
        status = (await client.get("batch/v1", "Job", name, namespace=NAMESPACE))["status"]
        if status.get("failed"):
            said = await cluster.kubectl("logs", f"job/{name}", "--namespace", NAMESPACE)
            pytest.fail(f"{name}: {said}")
        return bool(status.get("succeeded"))

    await wait_until(is_done, JOB_SECONDS, f"{name} is done", 0.5)
