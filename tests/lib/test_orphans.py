"""A disk that takes no more writes, as nats-server meets it, and what is left behind by it.

The server's own limit on the size of files stands for the disk: a write beyond it fails as one on a
full disk does, and needs no root.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.consume import Claim, PullLoop
from mailrelay.queue.errors import QueueUnavailableError
from mailrelay.queue.orphans import remove_orphans
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.rights import Role
from mailrelay.queue.server_health import server_fault
from mailrelay.runtime.logging import Logger
from tests.support.nats import NatsServer
from tests.support.wait import wait_until

SUBJECT = "mailrelay.lane.now.-"
STREAM = "mailrelay-lane"
CONSUMER = "mailrelay-lane-now"


async def stored(admin: QueueConnection) -> int:
    return int((await admin.api(f"STREAM.INFO.{STREAM}"))["state"]["messages"])


@contextlib.asynccontextmanager
async def claiming(sender: QueueConnection) -> AsyncIterator[asyncio.Queue[Claim]]:
    claims: asyncio.Queue[Claim] = asyncio.Queue()
    pull = PullLoop(sender, STREAM, CONSUMER, room=lambda: 5 - claims.qsize(), take=claims.put)
    running = asyncio.create_task(pull.run())
    try:
        yield claims
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_server_whose_write_failed_says_so_for_as_long_as_it_lives(
    server: NatsServer, log: Logger, sender: QueueConnection
) -> None:
    async with server.connected(Role.WATCH, log) as watch:
        assert await server_fault(watch) == ""
        with server.unable_to_write():
            with pytest.raises(QueueUnavailableError):
                await Publisher(sender).store(Record(SUBJECT, b"x", ""), deadline_seconds=0.5)
            assert "write error" in await server_fault(watch)
        assert "write error" in await server_fault(watch)
        server.kill()
        server.start()

        async def is_well() -> bool:
            with contextlib.suppress(QueueUnavailableError):  # the connection is not back yet
                return await server_fault(watch) == ""
            return False

        await wait_until(is_well, 5, "the server says that it is well")


async def test_a_record_that_came_back_after_its_ack_is_removed_and_no_other(
    server: NatsServer, admin: QueueConnection, sender: QueueConnection
) -> None:
    publisher = Publisher(sender)
    for _ in range(3):
        await publisher.store(Record(SUBJECT, b"x", ""))
    async with claiming(sender) as claims:
        got = [await asyncio.wait_for(claims.get(), 5) for _ in range(3)]
        # The stream breaks, until the server's end.
        with server.unable_to_write(), pytest.raises(QueueUnavailableError):
            await publisher.store(Record(SUBJECT, b"x", ""), deadline_seconds=0.5)
        # Acks are confirmed all the same, and remove nothing.
        for claim in got:
            await claim.ack()

        await wait_until(
            lambda: server.written_ack_floor(STREAM, CONSUMER) == got[-1].sequence,
            10,
            "the acks are noted on disk",
        )
        server.kill()
        server.start()

        async def came_back() -> bool:
            with contextlib.suppress(QueueUnavailableError):  # the connection is not back yet
                return await stored(admin) == 3
            return False

        await wait_until(came_back, 5, "the acked records have come back")
        await publisher.store(Record(SUBJECT, b"new", ""))
        await asyncio.wait_for(claims.get(), 10)
        assert claims.empty()
        removed = await remove_orphans(admin)
    assert removed == [f"{STREAM} {claim.sequence}" for claim in got]
    assert await stored(admin) == 1


async def test_records_that_wait_or_are_claimed_are_no_orphans(
    admin: QueueConnection, sender: QueueConnection
) -> None:
    publisher = Publisher(sender)
    for lane in ("now", "5s", "now", "5s"):
        await publisher.store(Record(f"mailrelay.lane.{lane}.-", b"x", ""))
    async with claiming(sender) as claims:
        first, second = [await asyncio.wait_for(claims.get(), 5) for _ in range(2)]
        await second.ack()
        assert await remove_orphans(admin) == []
        await first.ack()
        assert await remove_orphans(admin) == []
    assert await stored(admin) == 2
