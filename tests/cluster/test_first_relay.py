"""From nothing to the first mail: the operator's image, ten lines, a Service that takes mail."""

from __future__ import annotations

import time

import pytest

from tests.cluster import report
from tests.cluster.clusters import Cluster
from tests.cluster.mail import load
from tests.cluster.names import PREFIX
from tests.cluster.relays import make_relay, wait_ready
from tests.cluster.sinks import Sink
from tests.support.kubernetes.client import Client
from tests.support.wait import wait_until

pytestmark = pytest.mark.cluster
NAMESPACE = f"{PREFIX}first"


async def test_ten_lines_make_a_relay_that_takes_mail(
    cluster: Cluster, admin: Client, willing_sink: Sink
) -> None:
    began = time.monotonic()
    await make_relay(admin, NAMESPACE, willing_sink)
    await wait_ready(admin, NAMESPACE)
    ready = time.monotonic() - began
    async with load(cluster, admin, "first", "mail", NAMESPACE) as client:
        await wait_until(
            lambda: willing_sink.deliveries(client.run), 120.0, "the first mail arrives", 0.1
        )
        first = time.monotonic() - began
        await client.wait_accepted(20)
        ledger = await client.finish()
    await willing_sink.wait_kept(ledger, client.run)
    report.lines.append(
        f"ready {ready:.1f} s after the apply, the first mail delivered {first:.1f} s"
    )
    await admin.delete("v1", "Namespace", NAMESPACE)
