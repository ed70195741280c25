from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from mailrelay.mail.event import Accepted, Summary
from mailrelay.queue import events, publish
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.errors import QueueUnavailableError
from mailrelay.queue.events import BatchReader, EventReader, EventWriter
from mailrelay.queue.publish import Publisher, Record
from tests.lib.jobs import make_job
from tests.support.nats import NatsServer
from tests.support.wait import wait_until

SUMMARY = Summary.of(make_job())


def event(number: int, recipients: int = 1) -> Accepted:
    return Accepted(SUMMARY, float(number), ("a@b.test",) * recipients)


class Gaps:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self, count: int) -> None:
        self.count += count


@contextlib.asynccontextmanager
async def writing(connection: QueueConnection) -> AsyncIterator[tuple[EventWriter, Gaps]]:
    gaps = Gaps()
    writer = EventWriter(connection, Publisher(connection), gaps)
    task = asyncio.create_task(writer.run())
    try:
        yield writer, gaps
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def read_all(connection: QueueConnection) -> list[float]:
    """The numbers of all events, in their order."""
    reader, after, found = EventReader(connection), 0, []
    while records := await reader.read(after):
        for record in records:
            assert record.sequence > after
            after = record.sequence
            assert abs(time.time() - record.stored_at) < 60
            found += [each.at for each in record.events]
    return found


async def test_events_come_back_in_their_order(
    sender: QueueConnection, monitor: QueueConnection
) -> None:
    async with writing(sender) as (writer, gaps):
        told = [writer.tell(event(number)) for number in range(1500)]
        await asyncio.gather(*told)
        assert await read_all(monitor) == [float(number) for number in range(1500)]
        assert gaps.count == 0


async def test_what_waits_goes_out_together(
    sender: QueueConnection, monitor: QueueConnection, admin: QueueConnection
) -> None:
    async with writing(sender) as (writer, _):
        await asyncio.gather(*(writer.tell(event(number)) for number in range(1000)))
        info = await admin.api("STREAM.INFO.mailrelay-event")
        assert info["state"]["messages"] <= 20
    assert len(await read_all(monitor)) == 1000


async def test_an_event_of_very_many_recipients_has_a_record_of_its_own(
    sender: QueueConnection, monitor: QueueConnection
) -> None:
    async with writing(sender) as (writer, gaps):
        await asyncio.gather(*(writer.tell(event(number, 20_000)) for number in range(4)))
        assert gaps.count == 0
    assert await read_all(monitor) == [0, 1, 2, 3]


async def test_a_reader_goes_on_where_it_was(
    sender: QueueConnection, monitor: QueueConnection
) -> None:
    reader = EventReader(monitor)
    assert await reader.read(0) == []
    async with writing(sender) as (writer, _):
        await writer.tell_and_wait(event(1))
        [first] = await reader.read(0)
        assert await reader.read(first.sequence) == []
        await writer.tell_and_wait(event(2))
        [second] = await reader.read(first.sequence)
        assert [each.at for each in second.events] == [2.0]


async def test_a_record_that_cannot_be_read_is_passed_on_as_such(
    sender: QueueConnection, monitor: QueueConnection
) -> None:
    await Publisher(sender).store(Record("mailrelay.event.sender", b"\x09rubbish", ""))
    [record] = await EventReader(monitor).read(0)
    assert record.events == []
    assert "unknown format version 9" in record.unreadable


async def test_events_told_while_the_server_is_away_are_kept_and_what_is_too_much_is_counted(
    server: NatsServer,
    sender: QueueConnection,
    monitor: QueueConnection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "_CAPACITY", 50)
    monkeypatch.setattr(publish, "DEADLINE_SECONDS", 0.3)
    async with writing(sender) as (writer, gaps):
        await writer.tell_and_wait(event(0))
        server.kill()
        told = [writer.tell(event(number)) for number in range(1, 121)]
        waiting = asyncio.create_task(writer.tell_and_wait(event(121)))
        await asyncio.wait({waiting}, timeout=1.5 * events.WAIT_SECONDS)
        assert not waiting.done(), "a record is not acked while its event cannot be stored"
        assert gaps.count > 0
        server.start()
        await asyncio.wait_for(waiting, 20)
        async with asyncio.timeout(20):
            await asyncio.gather(*told)
        await writer.wait_written(20)

        async def all_there() -> bool:
            with contextlib.suppress(QueueUnavailableError):
                found = dict.fromkeys(await read_all(monitor))  # a batch may have come twice
                assert len(found) == 122 - gaps.count, (len(found), gaps.count)
                assert list(found) == sorted(found)
                return True
            return False

        await wait_until(all_there, 10, "all but the counted ones are there, in order")


async def test_a_queue_that_is_there_and_stores_no_events_holds_nobody_up(
    server: NatsServer, sender: QueueConnection
) -> None:
    async with writing(sender) as (writer, _):
        server.freeze()
        try:
            started = time.monotonic()
            await writer.tell_and_wait(event(1))
            assert time.monotonic() - started < events.WAIT_SECONDS + 1
        finally:
            server.thaw()


async def test_waiting_for_what_was_written_has_a_limit(
    server: NatsServer, sender: QueueConnection
) -> None:
    async with writing(sender) as (writer, _):
        server.kill()
        writer.tell(event(1))
        started = time.monotonic()
        await writer.wait_written(0.3)
        assert time.monotonic() - started < 1


@pytest.mark.parametrize("page", [1, 7, 100])
async def test_batches_follow_each_other_without_gap_or_repeat(
    page: int, sender: QueueConnection, monitor: QueueConnection
) -> None:
    publisher = Publisher(sender)
    payloads = [b"%d" % number for number in range(30)]
    for number, payload in enumerate(payloads):
        await publisher.store(Record(f"mailrelay.capture.x.{number}", payload, ""))
    reader = BatchReader(monitor, "mailrelay-capture", "mailrelay.capture.>")
    after, found = 0, []
    while batch := await reader.read(after + 1, page):
        assert len(batch) <= page
        found += [(each.subject, each.payload) for each in batch]
        after = batch[-1].sequence
    assert found == [
        (f"mailrelay.capture.x.{number}", payload) for number, payload in enumerate(payloads)
    ]


async def test_reading_from_a_server_that_is_away_is_unavailable(
    server: NatsServer, monitor: QueueConnection
) -> None:
    server.kill()
    with pytest.raises(QueueUnavailableError):
        await EventReader(monitor).read(0)
