from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from nats.aio.msg import Msg

from mailrelay.queue import publish
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.errors import (
    QueueFullError,
    QueueUnavailableError,
    RecordTooLargeError,
)
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.streams import ensure
from tests.support.nats import LIMITS, NatsServer

MEGABYTE = 1024 * 1024


@pytest.fixture
def publisher(ingress: QueueConnection) -> Publisher:
    return Publisher(ingress)


def record(name: str, payload: bytes = b"x") -> Record:
    return Record("mailrelay.in.0.-", payload, name)


def batch(count: int) -> list[Record]:
    name = secrets.token_hex(4)
    return [record(f"{name}.{number}") for number in range(count)]


async def stored(admin: QueueConnection, stream: str = "mailrelay-in-0") -> int:
    return int((await admin.api(f"STREAM.INFO.{stream}"))["state"]["messages"])


@pytest.fixture
async def size_three(admin: QueueConnection) -> AsyncIterator[None]:
    await ensure(admin, replace(LIMITS, queue_size=3))
    yield
    await ensure(admin, LIMITS)


async def test_a_record_is_stored_once_under_its_id(
    publisher: Publisher, admin: QueueConnection
) -> None:
    first = await publisher.store(record("once"))
    second = await publisher.store(record("once"))
    assert not first.duplicate
    assert second.duplicate
    assert first.sequence == second.sequence
    assert await stored(admin) == 1


async def test_records_without_an_id_are_each_stored(
    publisher: Publisher, admin: QueueConnection
) -> None:
    assert not (await publisher.store(record(""))).duplicate
    assert not (await publisher.store(record(""))).duplicate
    assert await stored(admin) == 2


@pytest.mark.usefixtures("size_three")
async def test_a_full_queue_refuses_and_takes_again_when_there_is_room(
    publisher: Publisher, admin: QueueConnection
) -> None:
    for number in range(3):
        await publisher.store(record(f"fill {number}"))
    with pytest.raises(QueueFullError):
        await publisher.store(record("one more"))
    await admin.api("STREAM.PURGE.mailrelay-in-0")
    await publisher.store(record("one more"))


async def test_a_record_above_the_servers_limit_is_too_large(publisher: Publisher) -> None:
    with pytest.raises(RecordTooLargeError):
        await publisher.store(record("big", b"x" * (8 * MEGABYTE + 1)))


async def test_a_full_store_by_bytes_is_full(publisher: Publisher, admin: QueueConnection) -> None:
    await ensure(admin, replace(LIMITS, store_bytes=20 * MEGABYTE))
    try:
        await publisher.store(record("four", b"x" * 3 * MEGABYTE))
        with pytest.raises(QueueFullError):
            await publisher.store(record("four more", b"x" * 3 * MEGABYTE))
    finally:
        await ensure(admin, LIMITS)


@pytest.mark.parametrize("count", [2, 3, 50, publish.MAX_BATCH])
async def test_a_batch_is_stored_whole_in_its_order(
    publisher: Publisher, admin: QueueConnection, count: int
) -> None:
    records = [record(f"{count}.{number}", b"%d" % number) for number in range(count)]
    await publisher.store_together(records)
    assert await stored(admin) == count
    last = await admin.api("STREAM.MSG.GET.mailrelay-in-0", {"last_by_subj": "mailrelay.in.0.-"})
    assert last["message"]["hdrs"]


async def test_a_batch_of_one_is_a_plain_record(
    publisher: Publisher, admin: QueueConnection
) -> None:
    await publisher.store_together([record("single")])
    await publisher.store_together([record("single")])
    assert await stored(admin) == 1


@pytest.mark.usefixtures("size_three")
async def test_a_batch_for_which_there_is_no_room_is_not_stored_at_all(
    publisher: Publisher, admin: QueueConnection
) -> None:
    await publisher.store(record("already"))
    with pytest.raises(QueueFullError):
        await publisher.store_together(batch(3))
    assert await stored(admin) == 1
    await publisher.store_together([record("a"), record("b")])
    assert await stored(admin) == 3


async def test_a_batch_with_a_record_too_large_is_not_stored_at_all(
    publisher: Publisher, admin: QueueConnection
) -> None:
    large = record("too large", b"x" * (8 * MEGABYTE + 1))
    for place in range(3):
        records = [record(f"{place}.{number}") for number in range(2)]
        records.insert(place, large)
        with pytest.raises(RecordTooLargeError):
            await publisher.store_together(records)
    assert await stored(admin) == 0


async def test_a_batch_whose_beginning_the_server_forgot_is_no_refusal_of_the_mail(
    publisher: Publisher,
    ingress: QueueConnection,
    admin: QueueConnection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As after a change of the stream's leader in the middle: it knows of no such batch.
    forgotten: list[str] = []
    original = ingress.request

    async def forget_once(subject: str, payload: bytes = b"", **more: Any) -> Msg:  # noqa: ANN401
        headers = more.get("headers") or {}
        if "Nats-Batch-Commit" in headers and not forgotten:
            forgotten.append(headers["Nats-Batch-Id"])
            more["headers"] = {**headers, "Nats-Batch-Id": "another"}
        return await original(subject, payload, **more)

    monkeypatch.setattr(ingress, "request", forget_once)
    await publisher.store_together([record(f"half.{number}") for number in range(4)])
    assert forgotten
    assert await stored(admin) == 4


async def test_a_server_that_is_away_is_unavailable_within_the_deadline(
    server: NatsServer, publisher: Publisher
) -> None:
    server.stop()
    loop = asyncio.get_running_loop()
    for store in (
        lambda: publisher.store(record("away"), deadline_seconds=0.6),
        lambda: publisher.store_together([record("a1"), record("a2")], deadline_seconds=0.6),
    ):
        started = loop.time()
        with pytest.raises(QueueUnavailableError):
            await store()
        assert loop.time() - started < 2


async def test_a_record_is_stored_once_when_the_server_comes_back(
    server: NatsServer, publisher: Publisher, admin: QueueConnection
) -> None:
    server.kill()
    storing = asyncio.create_task(publisher.store(record("back")))
    together = asyncio.create_task(publisher.store_together(batch(3)))
    await asyncio.sleep(0.3)  # some tries fail; how many plays no part
    assert not storing.done()
    server.start()
    assert (await storing).sequence > 0
    await together
    assert await stored(admin) == 4
    assert (await publisher.store(record("back"))).duplicate


async def test_what_a_frozen_server_took_is_known_again_when_it_goes_on(
    server: NatsServer,
    publisher: Publisher,
    admin: QueueConnection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publish, "TRY_TIMEOUT_SECONDS", 0.3)
    server.freeze()
    storing = asyncio.create_task(publisher.store(record("frozen")))
    together = asyncio.create_task(publisher.store_together(batch(5)))
    await asyncio.sleep(1.0)  # several tries time out; the server reads them all afterwards
    assert not storing.done()
    assert not together.done()
    server.thaw()
    await storing
    await together
    assert await stored(admin) == 6
