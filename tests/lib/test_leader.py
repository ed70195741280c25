from __future__ import annotations

from typing import Any

import pytest

from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.leader import leads, stream_info

SECOND = 1_000_000_000


def info(*replicas: dict[str, Any]) -> dict[str, Any]:
    return {"cluster": {"leader": "n1", "replicas": list(replicas)}}


def replica(active: float, **fields: bool) -> dict[str, Any]:
    return {"name": "n", "active": int(active * SECOND), **fields}


def test_a_server_alone_leads() -> None:
    assert leads({})
    assert leads({"cluster": {"leader": "mailrelay"}})


@pytest.mark.parametrize(
    "replicas",
    [
        (replica(0.01), replica(1.1)),
        (replica(0.5), replica(600, current=False)),
        (replica(0.5), replica(0, current=False)),
        (replica(0.5), replica(0.5), replica(9), replica(9)),
    ],
)
def test_a_leader_that_has_just_heard_from_a_majority_leads(
    replicas: tuple[dict[str, Any], ...],
) -> None:
    assert leads(info(*replicas))


@pytest.mark.parametrize(
    "replicas",
    [
        # As measured of one that stood still: it takes all for current.
        (replica(7.296, current=True), replica(7.296, current=True)),
        (replica(2.6), replica(2.6)),
        (replica(0), replica(0)),
        (replica(0.5, offline=True), replica(5)),
        (replica(0.5), replica(9), replica(9), replica(9)),
    ],
)
def test_one_that_has_not_may_lead_no_more(replicas: tuple[dict[str, Any], ...]) -> None:
    assert not leads(info(*replicas))


async def test_a_stream_tells_its_subjects(admin: QueueConnection) -> None:
    found = await stream_info(admin, "mailrelay-in-0", subjects="mailrelay.in.>")
    assert found["state"]["messages"] == 0
    assert not found["state"].get("subjects")
