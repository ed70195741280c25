"""Claims on a real server: pulled, held, given back, acked, and none lost whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.consume import Claim, PullLoop
from mailrelay.queue.errors import QueueUnavailableError
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.rights import Role
from mailrelay.queue.streams import ensure
from mailrelay.runtime.logging import Logger
from tests.support.nats import LIMITS, NatsServer
from tests.support.wait import wait_until

ACK_WAIT_SECONDS = 1.0


@pytest.fixture
async def short_ack_wait(admin: QueueConnection) -> AsyncIterator[None]:
    await ensure(admin, replace(LIMITS, ack_wait_seconds=ACK_WAIT_SECONDS))
    yield
    await ensure(admin, LIMITS)


class Claims:
    """A pull loop at work; `room` is how many claims may be unsettled."""

    def __init__(self, connection: QueueConnection, room: int) -> None:
        self.room = room
        self.most = 0
        self.open: list[Claim] = []
        self.seen: list[tuple[bytes, int]] = []
        names = connection.names
        self.loop = PullLoop(
            connection,
            names.in_stream(),
            names.in_consumer,
            room=lambda: self.room - len(self.open),
            take=self._take,
        )

    async def _take(self, claim: Claim) -> None:
        self.open.append(claim)
        self.most = max(self.most, len(self.open))
        self.seen.append((claim.payload, claim.delivered))

    async def wait(self, count: int, seconds: float = 5) -> None:
        await wait_until(
            lambda: len(self.seen) >= count, seconds, f"{count} claims, {self.seen} were seen"
        )

    async def ack_all(self) -> None:
        """Ack what can be acked."""

        async def ack(claim: Claim) -> None:
            with contextlib.suppress(QueueUnavailableError):
                await claim.ack()
                self.open.remove(claim)

        await asyncio.gather(*(ack(claim) for claim in list(self.open)))
        self.loop.wake()


@contextlib.asynccontextmanager
async def claiming(connection: QueueConnection, room: int = 10) -> AsyncIterator[Claims]:
    claims = Claims(connection, room)
    task = asyncio.create_task(claims.loop.run())
    try:
        yield claims
    finally:
        await claims.loop.stop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def put(connection: QueueConnection, *payloads: bytes) -> None:
    for payload in payloads:
        await Publisher(connection).store(Record("mailrelay.in.0.-", payload, ""))


async def left(admin: QueueConnection) -> int:
    return int((await admin.api("STREAM.INFO.mailrelay-in-0"))["state"]["messages"])


async def test_records_come_in_order_and_go_when_acked(
    ingress: QueueConnection, sender: QueueConnection, admin: QueueConnection
) -> None:
    payloads = [b"%d" % number for number in range(5)]
    await put(ingress, *payloads)
    async with claiming(sender) as claims:
        await claims.wait(5)
        assert claims.seen == [(payload, 1) for payload in payloads]
        assert len({claim.key for claim in claims.open}) == 5
        assert await left(admin) == 5
        await claims.ack_all()
        assert await left(admin) == 0


async def test_no_more_comes_than_there_is_room_for(
    ingress: QueueConnection, sender: QueueConnection, admin: QueueConnection
) -> None:
    await put(ingress, *[b"x"] * 20)
    async with claiming(sender, room=3) as claims:
        while len(claims.seen) < 20:
            await claims.wait(len(claims.seen) + 1)
            await claims.ack_all()
        await claims.ack_all()
        assert claims.most <= 3
    assert await left(admin) == 0


async def test_a_record_that_comes_later_is_claimed_at_once(
    ingress: QueueConnection, sender: QueueConnection
) -> None:
    async with claiming(sender) as claims:
        for number in range(1, 4):
            await put(ingress, b"x")
            await claims.wait(number, 1)
            await claims.ack_all()


@pytest.mark.usefixtures("short_ack_wait")
async def test_a_claim_that_is_held_is_kept_beyond_ack_wait_and_one_that_is_not_comes_back(
    ingress: QueueConnection, sender: QueueConnection
) -> None:
    await put(ingress, b"held", b"left")
    async with claiming(sender) as claims:
        await claims.wait(2)
        held = next(claim for claim in claims.open if claim.payload == b"held")
        for _ in range(8):
            await held.hold()
            await asyncio.sleep(ACK_WAIT_SECONDS / 4)
        assert [payload for payload, _ in claims.seen].count(b"held") == 1
        assert (b"left", 2) in claims.seen
        await claims.ack_all()


@pytest.mark.parametrize("delay", [0.0, 0.5])
async def test_a_record_given_back_comes_again_after_the_delay(
    delay: float, ingress: QueueConnection, sender: QueueConnection
) -> None:
    await put(ingress, b"x")
    async with claiming(sender) as claims:
        await claims.wait(1)
        loop = asyncio.get_running_loop()
        started = loop.time()
        await claims.open.pop().give_back(delay)
        await claims.wait(2, 3)
        assert loop.time() - started >= delay * 0.9
        assert claims.seen[1] == (b"x", 2)
        await claims.ack_all()


async def test_acking_twice_is_harmless(
    ingress: QueueConnection, sender: QueueConnection, admin: QueueConnection
) -> None:
    await put(ingress, b"x", b"y")
    async with claiming(sender) as claims:
        await claims.wait(2)
        first = claims.open[0]
        await first.ack()
        await first.ack()
        assert await left(admin) == 1
        await claims.ack_all()


async def test_a_paused_loop_pulls_again_when_the_pause_is_over(
    ingress: QueueConnection, sender: QueueConnection
) -> None:
    claims = Claims(sender, 5)
    claims.loop.pause(0.5)
    started = asyncio.get_running_loop().time()
    task = asyncio.create_task(claims.loop.run())
    await put(ingress, b"x")
    await claims.wait(1, 3)
    assert asyncio.get_running_loop().time() - started >= 0.4
    await claims.ack_all()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.usefixtures("short_ack_wait")
async def test_two_processes_share_the_records(
    server: NatsServer, log: Logger, ingress: QueueConnection, sender: QueueConnection
) -> None:
    await put(ingress, *[b"%d" % number for number in range(10)])
    async with (
        server.connected(Role.SENDER, log) as other,
        claiming(sender, 5) as one,
        claiming(other, 5) as two,
    ):
        await wait_until(lambda: len(one.seen) + len(two.seen) >= 10, 5, "all are claimed")
        assert {p for p, _ in one.seen}.isdisjoint({p for p, _ in two.seen})
        await one.ack_all()
        await two.ack_all()


@pytest.mark.usefixtures("short_ack_wait")
@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_nothing_is_lost_and_nothing_stalls_when_the_server_is(
    how: str,
    server: NatsServer,
    ingress: QueueConnection,
    sender: QueueConnection,
    admin: QueueConnection,
) -> None:
    before = [b"before %d" % number for number in range(10)]
    await put(ingress, *before)
    async with claiming(sender, room=8) as claims:
        claims.room = 30  # what the killed server forgot is acked only once it came again
        await claims.wait(8)
        if how == "killed":
            server.kill()
            server.start()
        else:
            server.freeze()
            await asyncio.sleep(0.5)
            server.thaw()
        await put(ingress, b"after")

        async def all_came() -> bool:
            await claims.ack_all()
            return {payload for payload, _ in claims.seen} == {*before, b"after"}

        await wait_until(all_came, 15, "all come, also those claimed before")

        async def all_gone() -> bool:
            await claims.ack_all()
            return await left(admin) == 0

        await wait_until(all_gone, 10, "all are acked")


@pytest.mark.usefixtures("short_ack_wait")
async def test_a_claim_that_the_killed_server_forgot_is_acked_once_the_record_came_again(
    server: NatsServer, ingress: QueueConnection, sender: QueueConnection, admin: QueueConnection
) -> None:
    """The server keeps what it delivered in memory for up to 100 ms; acks of it go unanswered."""
    await put(ingress, *[b"x"] * 6)
    async with claiming(sender, room=6) as claims:
        await claims.wait(6)
        server.kill()
        server.start()
        old = list(claims.open)
        claims.open.clear()  # room for all of them to come again
        claims.loop.wake()
        await claims.wait(12, 15)

        async def all_gone() -> bool:
            for claim in old:
                with contextlib.suppress(QueueUnavailableError):
                    await claim.ack()
            return await left(admin) == 0

        await wait_until(all_gone, 15, "the old claims could be acked")


async def test_a_stop_that_gives_up_on_a_hanging_server_leaves_a_connection_that_hears(
    server: NatsServer, ingress: QueueConnection, sender: QueueConnection
) -> None:
    async with claiming(sender) as claims:
        await put(ingress, b"mail")
        await claims.wait(1)
        server.freeze()
        try:
            await claims.loop.stop()
        finally:
            server.thaw()
        generation = sender.generation
        await sender.api("STREAM.INFO.mailrelay-lane")  # raises when nothing is heard
        assert sender.generation == generation
