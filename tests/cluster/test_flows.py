"""NetworkPolicies, enforced: a connection is made where the table has a flow, and nowhere else."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from mailrelay_operator.desired.labels import selector
from mailrelay_operator.desired.names import Component
from tests.cluster import report
from tests.cluster.clusters import Cluster
from tests.cluster.flow_probe import listeners, see
from tests.cluster.flow_rules import Try, matrix, may, may_send, wrong
from tests.cluster.flow_scene import DOORS, NAMESPACE, Scene, make_scene
from tests.cluster.mail import load
from tests.cluster.relays import NAME
from tests.cluster.sinks import Sink
from tests.support.kubernetes.client import Client, Manifest
from tests.support.ledger import Outcome
from tests.support.wait import wait_until

pytestmark = pytest.mark.cluster
SETTLE_SECONDS = 240.0  # the engine follows within a second; the rest is for a machine that is busy

HOLE: Manifest = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "hole", "namespace": NAMESPACE},
    "spec": {
        "podSelector": {"matchLabels": selector(NAME, Component.NATS)},
        "policyTypes": ["Ingress"],
        "ingress": [{}],
    },
}


async def test_a_connection_is_made_where_the_table_has_a_flow_and_nowhere_else(
    cluster: Cluster, admin: Client, willing_sink: Sink
) -> None:
    async with (
        make_scene(cluster, admin, willing_sink) as scene,
        listeners(scene.listening(), DOORS, scene.networks),
    ):
        began = time.monotonic()
        seen = await _settled(scene, may)
        report.lines += [*matrix(seen), f"tried in {time.monotonic() - began:.1f} s"]

        async with load(cluster, admin, "flows", NAME, NAMESPACE) as client:
            await client.wait_accepted(100)
            ledger = await client.finish()
        verdict = await willing_sink.wait_kept(ledger, client.run)
        report.count("policies are enforced", ledger, verdict)
        assert not [*ledger.with_outcome(Outcome.REFUSED), *ledger.with_outcome(Outcome.NOT_SENT)]

        # A policy that lets in too many is noticed, connection by connection.
        await admin.apply(HOLE)
        found = wrong(await _settled(scene, _may_through_hole, _to_queue))
        assert found
        assert all("made, and is no flow" in each for each in found)
        await admin.delete(HOLE["apiVersion"], HOLE["kind"], "hole", namespace=NAMESPACE)
        await _settled(scene, may, _to_queue)


def _to_queue(tried: Try) -> bool:
    part = tried.target.part
    return part is not None and part.component is Component.NATS


def _may_through_hole(tried: Try) -> bool:
    return tried.source.is_node or may_send(tried)


async def _settled(
    scene: Scene, expected: Callable[[Try], bool], chosen: Callable[[Try], bool] = lambda _: True
) -> dict[Try, bool]:
    """Try everything; what is not as expected again, until it is, and then all of it once more."""
    tries = [tried for tried in scene.tries() if chosen(tried)]
    assert {expected(tried) for tried in tries} == {True, False}
    seen = await see(tries, scene.networks, expected)
    odd = [tried for tried in tries if seen[tried] != expected(tried)]
    if not odd:
        return seen

    async def are_as_expected() -> bool:
        nonlocal odd
        seen = await see(odd, scene.networks, expected)
        odd = [tried for tried, made in seen.items() if made != expected(tried)]
        assert not odd, "\n".join([f"{len(odd)} connections:", *wrong(seen, expected)[:40]])
        return True

    await wait_until(are_as_expected, SETTLE_SECONDS, "policies hold", 1.0)
    seen = await see(tries, scene.networks, expected)
    assert not wrong(seen, expected), "\n".join(wrong(seen, expected)[:40])
    return seen
