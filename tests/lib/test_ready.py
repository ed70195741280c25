from __future__ import annotations

import secrets
import time

import pytest

from mailrelay.mail.ids import QueueId
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.errors import QueueError
from mailrelay.queue.lanes import LADDER
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.ready import ReadyJobs, ready_jobs
from tests.support.nats import NatsServer
from tests.support.wait import wait_until

LANES = {lane.name: lane for lane in LADDER}
BODY = QueueId("1m84yg1qqwew6knq7z4qbz")


async def store(
    sender: QueueConnection, lane: str, count: int, body: QueueId | None = None
) -> None:
    publisher = Publisher(sender)
    for _ in range(count):
        subject = sender.names.lane_subject(LANES[lane], body)
        # The server is shared, and knows names of records that another test stored.
        await publisher.store(Record(subject, b"x", secrets.token_hex(8)))


async def test_an_empty_queue_has_nothing_ready(monitor: QueueConnection) -> None:
    assert await ready_jobs(monitor, time.time()) == ReadyJobs(0, 0)


async def test_new_mail_is_ready(ingress: QueueConnection, monitor: QueueConnection) -> None:
    for _ in range(3):
        subject = ingress.names.in_subject(None)
        await Publisher(ingress).store(Record(subject, b"x", secrets.token_hex(8)))
    assert await ready_jobs(monitor, time.time()) == ReadyJobs(3, 0)


async def test_what_is_in_short_lanes_is_ready_and_what_is_deferred_for_long_is_not(
    sender: QueueConnection, monitor: QueueConnection
) -> None:
    await store(sender, "now", 1)
    await store(sender, "5s", 2, BODY)
    await store(sender, "30s", 3)
    await store(sender, "2m", 5)
    await store(sender, "4h", 8, BODY)
    assert await ready_jobs(monitor, time.time()) == ReadyJobs(0, 6)


@pytest.mark.parametrize(("lane", "delay"), [("2m", 120), ("10m", 600), ("1h", 3600)])
async def test_deferred_mail_is_ready_from_30_s_before_it_comes_up(
    sender: QueueConnection, monitor: QueueConnection, lane: str, delay: int
) -> None:
    await store(sender, lane, 4)
    stored = time.time()
    assert await ready_jobs(monitor, stored + delay - 35) == ReadyJobs(0, 0)
    assert await ready_jobs(monitor, stored + delay - 29) == ReadyJobs(0, 4)


async def test_of_a_lane_only_the_older_ones_are_ready(
    sender: QueueConnection, monitor: QueueConnection
) -> None:
    await store(sender, "2m", 3)
    between = time.time()  # the server's clock is this one
    await wait_until(lambda: time.time() > between + 0.05, 5, "the clock goes on")
    await store(sender, "2m", 4, BODY)
    assert await ready_jobs(monitor, between + 0.02 + 120 - 30) == ReadyJobs(0, 3)


async def test_a_queue_that_does_not_answer_is_no_empty_one(
    server: NatsServer, monitor: QueueConnection
) -> None:
    server.kill()
    with pytest.raises(QueueError):
        await ready_jobs(monitor, time.time())
