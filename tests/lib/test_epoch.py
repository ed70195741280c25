"""A server that came back empty: what was claimed before says nothing of what is there now."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.consume import Claim, PullLoop
from mailrelay.queue.errors import ClaimVoidError
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.rights import Role
from mailrelay.runtime.logging import Logger
from mailrelay_cli.nats_server import find_nats_server
from tests.support.nats import LIMITS, NatsServer
from tests.support.wait import wait_until


@pytest.fixture
async def server(tmp_path: Path, log: Logger) -> AsyncIterator[NatsServer]:
    """A server whose streams count from 1."""
    server = NatsServer(find_nats_server(print), tmp_path / "server")
    server.start()
    await server.ensure(log, LIMITS)
    yield server
    server.kill()


class Claims:
    """A pull loop with room for all."""

    def __init__(self, connection: QueueConnection, ack_wait_seconds: float) -> None:
        self.claimed: list[Claim] = []
        names = connection.names
        self.loop = PullLoop(
            connection,
            names.in_stream(),
            names.in_consumer,
            room=lambda: 10,
            take=self._take,
            ack_wait_seconds=ack_wait_seconds,
        )

    async def _take(self, claim: Claim) -> None:
        self.claimed.append(claim)

    async def wait(self, count: int) -> None:
        await wait_until(lambda: len(self.claimed) >= count, 15, f"{count} claims")


@contextlib.asynccontextmanager
async def claiming(
    connection: QueueConnection, ack_wait_seconds: float = 30.0
) -> AsyncIterator[Claims]:
    claims = Claims(connection, ack_wait_seconds)
    task = asyncio.create_task(claims.loop.run())
    try:
        yield claims
    finally:
        await claims.loop.stop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def put(server: NatsServer, log: Logger, payload: bytes) -> None:
    async with server.connected(Role.INGRESS, log) as ingress:
        await Publisher(ingress).store(Record("mailrelay.in.0.-", payload, ""))


async def left(server: NatsServer, log: Logger) -> int:
    async with server.connected(Role.ADMIN, log) as admin:
        return int((await admin.api("STREAM.INFO.mailrelay-in-0"))["state"]["messages"])


def surely_ours(claim: Claim) -> bool:
    """Asked anew each time: it changes by itself, which a type checker does not expect."""
    return claim.is_surely_ours


async def wait_back(connection: QueueConnection, generation: int) -> None:
    await wait_until(
        lambda: connection.generation > generation and connection.is_connected,
        10,
        "the connection broke and is back",
    )


async def test_a_claim_of_the_lost_queue_settles_no_new_record_of_the_same_number(
    server: NatsServer, sender: QueueConnection, log: Logger
) -> None:
    await put(server, log, b"old")
    async with claiming(sender) as claims:
        await claims.wait(1)
        old = claims.claimed[0]
    generation = sender.generation
    await server.lose_data(log)
    await wait_back(sender, generation)
    await put(server, log, b"new")
    assert old.sequence == 1
    for say in (old.ack, old.give_back, old.hold):
        with pytest.raises(ClaimVoidError, match="made anew"):
            await say()
    assert await left(server, log) == 1


async def test_a_new_record_is_claimed_and_acked_beside_a_void_claim(
    server: NatsServer, sender: QueueConnection, log: Logger
) -> None:
    await put(server, log, b"old")
    async with claiming(sender) as claims:
        await claims.wait(1)
        await server.lose_data(log)
        await put(server, log, b"new")
        await claims.wait(2)
        old, new = claims.claimed
        assert (old.payload, new.payload) == (b"old", b"new")
        assert old.key == new.key
        with pytest.raises(ClaimVoidError):
            await old.ack()
        await new.ack()
        assert await left(server, log) == 0


async def test_a_claim_is_good_for_a_server_that_came_back_with_its_data(
    server: NatsServer, sender: QueueConnection, log: Logger
) -> None:
    await put(server, log, b"mail")
    async with claiming(sender) as claims:
        await claims.wait(1)
        generation = sender.generation
        server.stop()
        server.start()
        await wait_back(sender, generation)
        await claims.claimed[0].ack()
        assert await left(server, log) == 0


async def test_a_claim_is_not_surely_ours_once_the_connection_broke(
    server: NatsServer, sender: QueueConnection, log: Logger
) -> None:
    await put(server, log, b"mail")
    async with claiming(sender) as claims:
        await claims.wait(1)
        claim = claims.claimed[0]
        generation = sender.generation
        assert surely_ours(claim)
        server.stop()
        server.start()
        await wait_back(sender, generation)
        await claim.hold()
        assert not surely_ours(claim), "the server may have forgotten that it gave it to us"
        assert await claim.is_still_there()
        await claim.ack()
        assert not await claim.is_still_there()


async def test_a_claim_is_not_surely_ours_when_it_was_not_held_in_time(
    server: NatsServer, sender: QueueConnection, log: Logger
) -> None:
    await put(server, log, b"mail")
    async with claiming(sender, ack_wait_seconds=0.8) as claims:
        await claims.wait(1)
        claim = claims.claimed[0]
        await claim.hold()
        assert surely_ours(claim)
        await wait_until(lambda: not claim.is_surely_ours, 2, "ack_wait is over")
        await claim.hold()
        assert not surely_ours(claim), "a hold brings nothing back that another may have by now"


async def test_a_record_that_came_while_its_process_was_stopped_is_not_surely_ours(
    server: NatsServer, sender: QueueConnection, log: Logger
) -> None:
    async with claiming(sender, ack_wait_seconds=2.0) as claims:
        await put(server, log, b"before")
        await claims.wait(1)
        assert surely_ours(claims.claimed[0])
        storing = threading.Thread(target=lambda: asyncio.run(put(server, log, b"meanwhile")))
        storing.start()
        time.sleep(3.0)  # noqa: ASYNC251 — the loop stands still, as under SIGSTOP
        await wait_until(lambda: not storing.is_alive(), 10, "it is stored")
        await claims.wait(2)
        assert not surely_ours(claims.claimed[1]), "the server gave it to us when it was stored"
