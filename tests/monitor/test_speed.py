"""How long people and probes wait for an answer when much mail is queued."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from mailrelay.queue.publish import MAX_BATCH, Publisher, Record
from mailrelay.queue.rights import Role
from mailrelay.queue.streams import ensure
from mailrelay.queue.wire import encode_events, encode_jobs
from tests.monitor.conftest import LIMITS, Connect
from tests.monitor.nats import NatsServer
from tests.monitor.story import accepted, job, queue_id, summary
from tests.monitor.test_process import Process
from tests.support.wait import wait_until

QUEUED = 100_000
ASKED = 100
LIMIT_SECONDS = 0.05
PROMETHEUS = {"Accept": "text/plain;version=0.0.4"}


@pytest.fixture
async def process(server: NatsServer, connect: Connect, tmp_path: Path) -> AsyncIterator[Process]:
    await ensure(await connect(Role.ADMIN), replace(LIMITS, queue_size=2 * QUEUED))
    process = Process(server, tmp_path)
    yield process
    process.kill()
    process.listener.close()


@pytest.mark.timeout(240)
async def test_health_and_metrics_are_told_within_50_ms_with_100000_messages_queued(
    process: Process, connect: Connect
) -> None:
    """Tells the quarters, 95th percentile and worst of each path (pytest -s)."""
    publisher = Publisher(await connect(Role.INGRESS))
    for _ in range(QUEUED // MAX_BATCH):
        ids = [queue_id() for _ in range(MAX_BATCH)]
        jobs = [Record("mailrelay.in.0.-", encode_jobs([job(each)]), str(each)) for each in ids]
        await publisher.store_together(jobs)
        events = encode_events([accepted(summary(each)) for each in ids])
        await publisher.store(Record("mailrelay.event.ingress", events, ""))
    process.start()
    await process.wait_ready()
    async with httpx.AsyncClient(base_url=process.url) as client:

        async def counted() -> bool:
            found = (await client.get("/health")).json()["details"]
            return bool(found["queued_emails"] == QUEUED)

        await wait_until(counted, 60, "all are counted", interval=0.2)
        gauge = (await client.get("/metrics", headers=PROMETHEUS)).text
        assert f'mailrelay_queue_jobs{{state="new"}} {float(QUEUED)}' in gauge
        for path, headers in (("/health", {}), ("/metrics", {}), ("/metrics", PROMETHEUS)):
            seconds = []
            for _ in range(ASKED):
                started = time.perf_counter()
                assert (await client.get(path, headers=headers)).status_code == 200
                seconds.append(time.perf_counter() - started)
            quarters = statistics.quantiles(seconds, n=4)
            figures = (*quarters, statistics.quantiles(seconds, n=20)[-1], max(seconds))
            told = " / ".join(f"{each * 1000:.1f}" for each in figures)
            sys.stdout.write(f"{path} {headers.get('Accept', 'JSON')}: {told} ms\n")
            # What the relay does for an answer it does for each: other tests that keep the machine
            # busy slow some of them down, its own work all of them.
            assert quarters[0] < LIMIT_SECONDS, path
