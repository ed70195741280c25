"""An operator on the real API server, and a relay that really runs: what one tells the other."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.operator.operators import (
    SOON,
    kept_relay,
    wait_condition,
    wait_replicas,
)
from tests.operator.pods_as_processes import get
from tests.operator.relay_of_cluster import cluster_relay
from tests.support.kubernetes.client import Client
from tests.support.kubernetes.cluster import ApiServer
from tests.support.ports import free_port
from tests.support.scripts import DEFERRAL, accept_all, per_recipient
from tests.support.upstream import ScriptedUpstream
from tests.support.wait import wait_until

pytestmark = [pytest.mark.operator, pytest.mark.timeout(600)]

DEPLOYMENT = ("apps/v1", "Deployment")
RETRY_SECONDS = 170  # less a tenth or two by chance: longer than the two minutes of a lane
QUEUE = {"storage": {"size": "1Gi"}}


def autoscaling(least: int) -> dict[str, Any]:
    return {"minReplicas": least, "maxReplicas": 3, "scaleDownSeconds": 0}


async def told_as_lost(admin: Client) -> list[str]:
    """What Events said of streams that the queue lost."""
    told = await admin.list("events.k8s.io/v1", "Event")
    return [each["note"] for each in told if each["reason"] == "QueueReadyStreamsMissing"]


async def test_streams_that_the_queue_has_lost_are_made_again(
    api_server: ApiServer, admin: Client, tmp_path: Path
) -> None:
    port = free_port()
    where = f"http://127.0.0.1:{port}"
    spec = {"queue": QUEUE, "sender": {"autoscaling": autoscaling(1)}}
    async with (
        kept_relay(api_server, admin, tmp_path / "operator", spec, monitor_url=where),
        cluster_relay(admin, tmp_path, port) as living,
    ):
        await living.start("nats")
        await living.start("monitor")
        await wait_condition(admin, "Degraded", "True", "Health")  # what it says of a new queue
        first = await living.run_job()
        await wait_condition(admin, "QueueReady", "True", "Ready")
        assert not await told_as_lost(admin), "they were not there yet"
        await living.stop("nats")
        living.lose_volume()
        await living.start("nats")
        assert await living.run_job() != first

        async def was_told() -> bool:
            # The condition is another one as soon as there is a new Job; an Event stays.
            return any("mailrelay-in-0" in note for note in await told_as_lost(admin))

        await wait_until(was_told, SOON, "it is told what was lost", interval=0.2)
        await wait_condition(admin, "QueueReady", "True", "Ready")

        async def is_whole() -> bool:
            token = living.secrets["relay-http-token"]["token"].decode()
            headers = {"Authorization": f"Bearer {token}"}
            status, text = await asyncio.to_thread(get, port, "/api/backlog", headers)
            assert status == 200, text
            return bool(json.loads(text)["missing"] == [])

        await wait_until(is_whole, SOON, "the queue has all its streams", interval=0.2)


async def test_deferred_mail_alone_wakes_senders_when_it_is_due_and_a_killed_monitor_wakes_one(
    api_server: ApiServer, admin: Client, tmp_path: Path
) -> None:
    port = free_port()
    where = f"http://127.0.0.1:{port}"
    # It waits two minutes in its lane, and for the first minute and a half nobody is needed for it.
    retry = {"initialIntervalSeconds": RETRY_SECONDS, "maxIntervalSeconds": RETRY_SECONDS}
    sender = {"autoscaling": autoscaling(0), "retry": retry}
    async with ScriptedUpstream(script=per_recipient({"b@example.net": DEFERRAL})) as upstream:
        host = {"host": "127.0.0.1", "port": upstream.port, "tls": "Opportunistic"}
        routes = [{"name": "all", "smartHosts": [host]}]
        spec = {"queue": QUEUE, "sender": sender, "routes": routes}
        async with (
            kept_relay(api_server, admin, tmp_path / "operator", spec, monitor_url=where),
            cluster_relay(admin, tmp_path, port) as living,
        ):
            await living.start("nats")
            await living.run_job()
            for component in ("ingress", "sender", "monitor"):
                await living.start(component)
            await living.send()
            await wait_until(lambda: upstream.attempts, SOON, "the first attempt", interval=0.2)
            await wait_replicas(admin, "relay-sender", 0)
            await living.stop("sender")
            upstream.script = accept_all

            await wait_replicas(admin, "relay-sender", 1, RETRY_SECONDS + SOON)
            await living.start("sender")
            await wait_until(lambda: upstream.received, SOON, "it is delivered", interval=0.2)

            await wait_replicas(admin, "relay-sender", 0)
            await living.stop("monitor", kill=True)
            await wait_replicas(admin, "relay-sender", 1)
