"""Under load, whatever happens: no mail is lost, and no client is refused for good."""

from __future__ import annotations

import re

import pytest

from tests.cluster import report
from tests.cluster.install import Release
from tests.cluster.mail import Sink, load
from tests.cluster.relays import NAME, NAMESPACE, wait_ready
from tests.cluster.scenarios import LONG, SCENARIOS, Scene
from tests.support.kubernetes.client import Client
from tests.support.kubernetes.node_cluster import NodeCluster
from tests.support.ledger import Outcome

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("relay")]


@pytest.mark.parametrize(
    "what",
    [pytest.param(what, marks=[pytest.mark.long] if what in LONG else []) for what in SCENARIOS],
)
async def test_nothing_is_lost_when(
    what: str, cluster: NodeCluster, admin: Client, sink: Sink, release: Release
) -> None:
    await wait_ready(admin, NAMESPACE)
    run = re.sub(r"[^a-z0-9]+", "-", what.lower())
    async with load(admin, cluster.scratch / "mail", run, NAME, NAMESPACE) as client:
        await client.wait_accepted(100)
        await SCENARIOS[what](Scene(cluster, admin, client, release))
        await client.wait_accepted(100)
        ledger = await client.finish()
    verdict = await sink.wait_kept(ledger, client.run)
    report.count(what, ledger, verdict)
    refused = [*ledger.with_outcome(Outcome.REFUSED), *ledger.with_outcome(Outcome.NOT_SENT)]
    assert not refused, f"{len(refused)} refused, the first one: {refused[0]}"
