"""What the streams hold and since when, asked of a real server and shown to Prometheus."""

from __future__ import annotations

import time
from pathlib import Path

from prometheus_client import CollectorRegistry

from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.rights import Role
from mailrelay.queue.wire import encode_jobs
from mailrelay_monitor.backlog import BacklogMetrics, BacklogWatch
from mailrelay_monitor.index_file import IndexUnwritableError
from tests.monitor.conftest import LIMITS, Connect
from tests.monitor.story import job, queue_id

LATER = 100.0  # of the monitor's clock, so that no test waits for something to grow old


async def test_depth_age_limits_and_disk_are_shown(connect: Connect, tmp_path: Path) -> None:
    registry = CollectorRegistry()
    now = time.time() + LATER
    accepted_at = now - 500.0

    async def oldest_open() -> float:
        return accepted_at

    monitor = await connect(Role.MONITOR)
    watch = BacklogWatch(
        monitor,
        tmp_path,
        clock=lambda: now,
        metrics=BacklogMetrics(registry),
        oldest_open=oldest_open,
    )
    value = registry.get_sample_value
    await watch.look()
    assert value("mailrelay_queue_oldest_seconds") == 0
    assert value("mailrelay_store_limit_records", {"stream": "in"}) == LIMITS.queue_size
    assert value("mailrelay_store_limit_records", {"stream": "lane"}) is None

    submission = queue_id()
    ingress = Publisher(await connect(Role.INGRESS))
    subject = monitor.names.in_subject(submission)
    stored = await ingress.store(Record(subject, encode_jobs([job(submission)]), ""))
    await watch.look()
    age = value("mailrelay_queue_oldest_seconds")
    assert age is not None
    # Stored before `now - LATER` plus what the test has taken since: the clock stands still.
    assert 0 < age <= LATER
    assert value("mailrelay_queue_jobs", {"state": "new"}) == 1
    assert value("mailrelay_oldest_email_seconds") == 500
    size, free = value("mailrelay_disk_size_bytes"), value("mailrelay_disk_free_bytes")
    assert size is not None
    assert free is not None
    assert 0 < free < size

    admin = await connect(Role.ADMIN)
    await admin.api(f"STREAM.MSG.DELETE.{monitor.names.in_stream()}", {"seq": stored.sequence})
    accepted_at = 0.0
    await watch.look()
    assert value("mailrelay_queue_oldest_seconds") == 0
    assert value("mailrelay_oldest_email_seconds") == 0


async def test_while_the_index_cannot_be_read_the_last_age_goes_on(
    connect: Connect, tmp_path: Path
) -> None:
    registry = CollectorRegistry()
    now = 2000.0
    answers = [1000.0]

    async def oldest_open() -> float:
        if not answers:
            raise IndexUnwritableError("no space")
        return answers.pop()

    watch = BacklogWatch(
        await connect(Role.MONITOR),
        tmp_path,
        clock=lambda: now,
        metrics=BacklogMetrics(registry),
        oldest_open=oldest_open,
    )
    await watch.look()
    now = 2005.0
    await watch.look()
    assert registry.get_sample_value("mailrelay_oldest_email_seconds") == 1005
    assert not watch.backlog.fault
