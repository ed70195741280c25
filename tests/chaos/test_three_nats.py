"""What three nats-servers answer while one leads no more, or none can store."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import replace

import psutil
import pytest
import structlog

from mailrelay.mail.disposition import Disposition
from mailrelay.mail.ids import QueueId, new_queue_id
from mailrelay.mail.job import FailedRecord, ResendMark
from mailrelay.queue import leader
from mailrelay.queue.bodies import BodyStore, Deletion
from mailrelay.queue.connection import QueueConnection, open_connection
from mailrelay.queue.errors import QueueUnavailableError
from mailrelay.queue.events import epoch_seconds
from mailrelay.queue.failed import FailedStore
from mailrelay.queue.lanes import NOW
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.rights import Role
from mailrelay_cli.nats_server import find_nats_server
from tests.lib.jobs import make_job
from tests.support.cluster_relay import LIMITS
from tests.support.nats_cluster import ClusterNode, NatsCluster

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

PATIENCE_SECONDS = 60.0
LOG = structlog.get_logger()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsCluster]:
    cluster = NatsCluster(find_nats_server(print), tmp_path_factory.mktemp("cluster") / "nats")
    try:
        asyncio.run(cluster.start(LOG, LIMITS))
        yield cluster
    finally:
        cluster.kill()


async def connect(cluster: NatsCluster, node: ClusterNode, role: Role) -> QueueConnection:
    """Connect to one of the servers and, while it lives, no other."""
    return await open_connection(replace(cluster.connection_settings(role), url=node.url), LOG)


@contextlib.contextmanager
def standing_still(*nodes: ClusterNode) -> Iterator[None]:
    for node in nodes:
        node.signal(signal.SIGSTOP)
    while any(psutil.Process(node.pid).status() != psutil.STATUS_STOPPED for node in nodes):
        time.sleep(0.001)  # not all of its threads have stopped yet
    try:
        yield
    finally:
        for node in nodes:
            node.signal(signal.SIGCONT)


async def delete_after_two_looks(bodies: BodyStore, submission: QueueId) -> Deletion:
    """Do as the monitor does."""
    deletion = await bodies.delete_unused(submission)
    if deletion is not Deletion.UNCONFIRMED:
        return deletion
    await asyncio.sleep(leader.SPOKEN_SECONDS)
    return await bodies.delete_unused(submission, confirms=True)


async def test_a_body_is_deleted_when_the_second_look_finds_no_record_either(
    cluster: NatsCluster,
) -> None:
    async with (
        cluster.connected(Role.ADMIN, LOG) as admin,
        cluster.connected(Role.SENDER, LOG) as sender,
        cluster.connected(Role.MONITOR, LOG) as monitor,
    ):
        await cluster.wait_whole(admin)
        publisher, bodies = Publisher(sender), BodyStore(monitor, Publisher(monitor))
        named, unused = (new_queue_id(time.time(), number) for number in (101, 102))
        for submission in (named, unused):
            await BodyStore(sender, publisher).store_chunk(submission, 0, b"content")
            assert await bodies.delete_unused(submission) is Deletion.UNCONFIRMED
        record = Record(cluster.names.lane_subject(NOW, named), b"x", f"{named}/1")
        await publisher.store(record)
        for submission, outcome, left in ((named, Deletion.IN_USE, 1), (unused, Deletion.DONE, 0)):
            assert await bodies.delete_unused(submission, confirms=True) is outcome
            info = await leader.stream_info(
                monitor, cluster.names.body_stream, subjects=f"mailrelay.body.{submission}.>"
            )
            assert len(info["state"].get("subjects") or {}) == left


@pytest.mark.parametrize("asks_again", range(3))
async def test_a_leader_that_stood_still_is_not_believed_to_know_what_is_there(
    cluster: NatsCluster, asks_again: int
) -> None:
    lane = cluster.names.lane_stream
    submission = new_queue_id(time.time(), asks_again)
    async with cluster.connected(Role.ADMIN, LOG) as admin:
        await cluster.wait_whole(admin)
    old = await cluster.leader_of(lane, LOG)
    other = next(node for node in cluster.nodes if node is not old)
    monitor = await connect(cluster, old, Role.MONITOR)
    sender = await connect(cluster, other, Role.SENDER)
    try:
        record = Record(cluster.names.lane_subject(NOW, submission), b"x", f"{submission}/1")
        with standing_still(old):
            stored = await Publisher(sender).store(record, deadline_seconds=PATIENCE_SECONDS)
            found = await leader.message(sender, lane, {"seq": stored.sequence})
            assert found is not None
            mark = ResendMark(lane, stored.sequence, epoch_seconds(found["time"]))
            bodies = BodyStore(monitor, Publisher(monitor))
            deleting = asyncio.create_task(delete_after_two_looks(bodies, submission))
            failed = FailedStore(monitor, Publisher(monitor))
            looking = asyncio.create_task(failed.is_in_lane(mark))
            await asyncio.sleep(0.01)  # the questions wait in its socket
        with contextlib.suppress(QueueUnavailableError):  # nothing is known: that is right, too
            assert await deleting is Deletion.IN_USE
        with contextlib.suppress(QueueUnavailableError):
            assert await looking
    finally:
        await monitor.close()
        await sender.close()


@pytest.mark.parametrize("asks_again", range(3))
async def test_a_leader_that_stood_still_is_not_believed_that_a_failed_record_is_gone(
    cluster: NatsCluster, asks_again: int
) -> None:
    async with cluster.connected(Role.ADMIN, LOG) as admin:
        await cluster.wait_whole(admin)
    old = await cluster.leader_of(cluster.names.failed_stream, LOG)
    other = next(node for node in cluster.nodes if node is not old)
    monitor = await connect(cluster, old, Role.MONITOR)
    sender = await connect(cluster, other, Role.SENDER)
    record = FailedRecord(
        make_job(submission=new_queue_id(time.time(), asks_again)), Disposition.BOUNCED, 1.0
    )
    try:
        with standing_still(old):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await FailedStore(sender, Publisher(sender)).store(record)
            asked = FailedStore(monitor, Publisher(monitor))
            asking = asyncio.create_task(asked.last(record.job.submission, 0))
            await asyncio.sleep(0.01)  # the question waits in its socket
        with contextlib.suppress(QueueUnavailableError):  # nothing is known: that is right, too
            assert await asking is not None
    finally:
        await monitor.close()
        await sender.close()


async def test_a_record_that_nobody_could_confirm_is_stored_once_when_there_is_a_quorum_again(
    cluster: NatsCluster,
) -> None:
    async with cluster.connected(Role.ADMIN, LOG) as admin:
        await cluster.wait_whole(admin)
        stored = int((await admin.api("STREAM.INFO.mailrelay-in-0"))["state"]["messages"])
    old = await cluster.leader_of("mailrelay-in-0", LOG)
    ingress = await connect(cluster, old, Role.INGRESS)
    followers = [node for node in cluster.nodes if node is not old]
    try:
        # Its repeats are told that it is being stored, which is no refusal.
        publisher = Publisher(ingress)
        with standing_still(*followers):
            storing = asyncio.create_task(
                publisher.store(
                    Record("mailrelay.in.0.-", b"x", "once"), deadline_seconds=PATIENCE_SECONDS
                )
            )
            batch = [Record("mailrelay.in.0.-", b"x", f"batch.{n}") for n in (1, 2)]
            together = asyncio.create_task(
                publisher.store_together(batch, deadline_seconds=PATIENCE_SECONDS)
            )
            done, _ = await asyncio.wait({storing, together}, timeout=5)
            assert not done, [task.exception() for task in done]
        await asyncio.gather(storing, together)
    finally:
        await ingress.close()
    async with cluster.connected(Role.ADMIN, LOG) as admin:
        await cluster.wait_whole(admin)
        state = (await leader.stream_info(admin, "mailrelay-in-0"))["state"]
    assert int(state["messages"]) == stored + 3
