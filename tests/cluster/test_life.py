"""Under load, whatever happens: no mail is lost, and no client is refused for good."""

from __future__ import annotations

import re

import pytest

from tests.cluster import report
from tests.cluster.changes import TOLD
from tests.cluster.clusters import Cluster
from tests.cluster.install import Release
from tests.cluster.mail import load
from tests.cluster.relays import NAME, NAMESPACE, wait_ready
from tests.cluster.scenarios import LONG, SCENARIOS
from tests.cluster.scene import Scene
from tests.cluster.sinks import Sink
from tests.support.kubernetes.client import Client
from tests.support.ledger import Outcome

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("relay")]
# An ingress process that ends says 421, and a client connects anew.
GOODBYE = 421


@pytest.mark.parametrize(
    "what",
    [pytest.param(what, marks=[pytest.mark.long] if what in LONG else []) for what in SCENARIOS],
)
async def test_nothing_is_lost_when(
    what: str, cluster: Cluster, admin: Client, sink: Sink, release: Release
) -> None:
    await wait_ready(admin, NAMESPACE)
    run = re.sub(r"[^a-z0-9]+", "-", what.lower())
    async with load(cluster, admin, run, NAME, NAMESPACE) as client:
        await client.wait_accepted(100)
        await SCENARIOS[what](Scene(cluster, admin, client, sink, release))
        await client.wait_accepted(100)
        await client.wait_caught_up()
        ledger = await client.finish()
    verdict = await sink.wait_kept(ledger, client.run)
    report.count(what, ledger, verdict)
    refused = [*ledger.with_outcome(Outcome.REFUSED), *ledger.with_outcome(Outcome.NOT_SENT)]
    assert not refused, f"{len(refused)} refused, the first one: {refused[0]}"
    told = ledger.told.keys() - {GOODBYE} - TOLD.get(what, set())
    assert not told, f"the client was refused for a time by {sorted(told)}"
