from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import LogCapture

from mailrelay.mail.event import Abandoned, Event
from mailrelay.mail.ids import QueueId
from mailrelay.queue.connection import QueueConnection, open_connection
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.rights import Role
from mailrelay.queue.streams import ensure
from mailrelay.queue.wire import encode_events
from mailrelay.runtime.clock import system_clock
from mailrelay.runtime.lifecycle import end_tasks
from mailrelay.runtime.logging import Logger
from mailrelay_monitor.checkpoint import Checkpoint
from mailrelay_monitor.collect import Collector, CollectorMetrics, missed_records
from mailrelay_monitor.index_thread import IndexThread
from mailrelay_monitor.totals import Ledger
from tests.monitor.conftest import LIMITS, Connect
from tests.monitor.nats import NatsServer
from tests.monitor.story import (
    BOUNCED,
    DEFERRED,
    SENT,
    accepted,
    attempted,
    queue_id,
    record,
    summary,
)
from tests.support.wait import wait_until

Background = Callable[[Awaitable[object]], "asyncio.Future[object]"]


class Rig:
    """A collector that can be stopped anywhere and begun anew, as by a restart of the process."""

    def __init__(self, connection: QueueConnection, folder: Path, log: Logger) -> None:
        self.connection = connection
        self.path = folder / "index.sqlite3"
        self.log = log
        self.prompted: list[QueueId] = []
        self.abandoned: list[QueueId] = []
        self._begin()

    def _begin(self) -> None:
        self.index = IndexThread(self.path, system_clock)
        self.checkpoint = Checkpoint(
            self.connection, Publisher(self.connection), system_clock, self.log
        )
        self.collector = Collector(
            self.connection,
            self.index,
            self.checkpoint,
            clock=system_clock,
            log=self.log,
            metrics=CollectorMetrics(CollectorRegistry()),
            prompt=self.prompted.append,
            prompt_abandoned=self.abandoned.append,
        )
        self.task = asyncio.ensure_future(self.collector.run())

    async def stop(self) -> Ledger:
        """Stop at whatever it is doing; return what the file holds then."""
        await end_tasks([self.task])
        if not self.collector.ledger.created:
            await self.index.close()
            return self.collector.ledger
        ledger = await self.index.run(lambda index: index.ledger)
        await self.index.close()
        return ledger

    async def restart(self) -> None:
        await self.stop()
        self._begin()

    async def wait_read_to(self, sequence: int) -> Ledger:
        await wait_until(
            lambda: self.collector.ledger.sequence >= sequence, 10, f"read to {sequence}"
        )
        return self.collector.ledger


@pytest.fixture
async def rig(connection: QueueConnection, tmp_path: Path, log: Logger) -> AsyncIterator[Rig]:
    rig = Rig(connection, tmp_path / "monitor", log)
    yield rig
    await rig.stop()


class Teller:
    """Stores events as a sender does."""

    def __init__(self, connection: QueueConnection) -> None:
        self._publisher = Publisher(connection)
        self._subject = connection.names.event_subject("sender")

    async def tell(self, *events: Event) -> int:
        return await self.store(encode_events(list(events)))

    async def store(self, payload: bytes) -> int:
        stored = await self._publisher.store(Record(self._subject, payload, ""))
        return stored.sequence


@pytest.fixture
async def teller(connect: Connect) -> Teller:
    return Teller(await connect(Role.SENDER))


async def test_events_are_counted_and_the_collector_says_it_is_caught_up(
    rig: Rig, teller: Teller
) -> None:
    about = summary(queue_id(), 2)
    await teller.tell(accepted(about), attempted(about, {0: SENT}))
    ledger = await rig.wait_read_to(await teller.tell(attempted(about, {1: BOUNCED})))
    assert (ledger.totals.total_emails, ledger.totals.failed_emails) == (1, 1)
    assert rig.collector.is_caught_up
    assert rig.collector.fault == ""


async def test_nothing_in_the_stream_is_caught_up_too(rig: Rig) -> None:
    await wait_until(lambda: rig.collector.is_caught_up, 5, "caught up")


@pytest.fixture
async def early(server: NatsServer, tmp_path: Path, log: Logger) -> AsyncIterator[Rig]:
    """A collector that was there before the queue's streams."""
    connection = await open_connection(server.connection_settings(Role.MONITOR), log)
    rig = Rig(connection, tmp_path / "monitor", log)
    yield rig
    await rig.stop()
    await connection.close()


async def test_waiting_for_the_first_streams_is_no_fault(
    early: Rig, server: NatsServer, log: Logger, lines: LogCapture
) -> None:
    def waits() -> bool:
        return "collector.waits" in [line["event"] for line in lines.entries]

    await wait_until(waits, 60, "it is said that the streams are waited for")
    assert early.collector.fault == "the queue has no streams yet"
    admin = await open_connection(server.connection_settings(Role.ADMIN), log)
    await ensure(admin, LIMITS)
    await wait_until(lambda: early.collector.is_caught_up, 60, "caught up")
    assert early.collector.fault == ""
    assert not [line for line in lines.entries if line["log_level"] in {"error", "critical"}]
    await admin.close()


async def test_a_stream_that_was_there_and_is_gone_is_a_fault(
    rig: Rig, connect: Connect, lines: LogCapture
) -> None:
    await wait_until(lambda: rig.collector.is_caught_up, 10, "caught up")
    admin = await connect(Role.ADMIN)
    await admin.api(f"STREAM.DELETE.{admin.names.event_stream}")

    def is_told() -> bool:
        return ("collector.fault", "error") in [
            (line["event"], line["log_level"]) for line in lines.entries
        ]

    await wait_until(is_told, 60, "the lost stream is told")


async def test_totals_are_exact_when_the_collector_is_stopped_at_random_points(
    rig: Rig, teller: Teller, background: Background
) -> None:
    chance = random.Random(2026)  # noqa: S311
    emails, sequence = 300, 0

    async def tell_all() -> None:
        nonlocal sequence
        for number in range(emails):
            about = summary(queue_id(), 2)
            first = {0: SENT, 1: DEFERRED}
            later = attempted(about, {1: BOUNCED if number % 4 == 0 else SENT}, after=9)
            await teller.tell(accepted(about), attempted(about, first))
            sequence = await teller.tell(later, attempted(about, first))

    telling = background(tell_all())
    restarts = 0
    while not telling.done():
        await asyncio.sleep(chance.random() * 0.05)
        await rig.restart()
        restarts += 1
    ledger = await rig.wait_read_to(sequence)
    assert restarts > 3
    assert ledger.sequence == sequence
    totals = ledger.totals
    assert (totals.total_emails, totals.total_recipients) == (emails, 2 * emails)
    assert (totals.failed_emails, totals.queued_emails) == (emails / 4, 0)
    assert ledger.missed_events == 0


async def test_lost_index_goes_on_from_the_checkpoint_exactly(
    rig: Rig, teller: Teller, lines: LogCapture
) -> None:
    first, second, third = (summary(queue_id()) for _ in range(3))
    await teller.tell(accepted(first), attempted(first, {0: SENT}), accepted(second))
    await rig.checkpoint.store(await rig.wait_read_to(1))
    await teller.tell(attempted(second, {0: SENT}))
    await rig.wait_read_to(2)
    await rig.stop()
    for file in rig.path.parent.iterdir():
        file.unlink()
    await teller.tell(accepted(third), attempted(first, {0: SENT}))
    rig._begin()
    ledger = await rig.wait_read_to(3)
    assert (ledger.totals.total_emails, ledger.totals.successful_emails) == (3, 2)
    rows = await rig.index.run(lambda index: index.newest(10))
    assert {row.id for row in rows} == {first.submission, second.submission, third.submission}
    assert [line["total_emails"] for line in lines.entries if "made_anew" in line["event"]] == [
        0,
        2,
    ]


async def test_damaged_index_is_made_anew_while_running(rig: Rig, teller: Teller) -> None:
    about = summary(queue_id())
    await rig.checkpoint.store(await rig.wait_read_to(await teller.tell(accepted(about))))
    await rig.stop()
    rig.path.write_bytes(b"\0" * 8192)
    rig._begin()
    ledger = await rig.wait_read_to(await teller.tell(attempted(about, {0: SENT})))
    assert (ledger.totals.total_emails, ledger.totals.successful_emails) == (1, 1)


async def test_unreadable_records_are_counted_and_passed_over(
    rig: Rig, teller: Teller, lines: LogCapture
) -> None:
    await teller.store(b"\x63 of another version")
    ledger = await rig.wait_read_to(await teller.tell(accepted(summary(queue_id()))))
    assert (ledger.unreadable_records, ledger.totals.total_emails) == (1, 1)
    assert [line["sequence"] for line in lines.entries if line["event"] == "events.unreadable"] == [
        1
    ]


@pytest.mark.parametrize("keep", [0, 2])
async def test_events_that_went_before_they_were_read_are_a_gap(
    rig: Rig, teller: Teller, connect: Connect, keep: int
) -> None:
    await rig.wait_read_to(await teller.tell(accepted(summary(queue_id()))))
    await rig.stop()
    for _ in range(5):
        await teller.tell(accepted(summary(queue_id())))
    admin = await connect(Role.ADMIN)
    await admin.api(f"STREAM.PURGE.{admin.names.event_stream}", {"keep": keep} if keep else None)
    rig._begin()
    ledger = await rig.wait_read_to(6)
    assert (ledger.totals.total_emails, ledger.missed_events) == (1 + keep, 5 - keep)
    assert ledger.missed_at > 0


async def test_server_that_was_killed_and_started_again_is_the_same_queue(
    rig: Rig, teller: Teller, server: NatsServer
) -> None:
    await rig.wait_read_to(await teller.tell(accepted(summary(queue_id()))))
    server.kill()
    await wait_until(lambda: rig.collector.fault, 10, "the collector notices")
    server.start()
    await wait_until(lambda: not rig.collector.fault, 10, "the collector goes on")
    ledger = await rig.wait_read_to(await teller.tell(accepted(summary(queue_id()))))
    assert (ledger.queue_losses, ledger.totals.total_emails, ledger.missed_events) == (0, 2, 0)


async def test_queue_that_lost_its_data_is_told_loudly_and_the_totals_stay(
    rig: Rig, teller: Teller, connect: Connect, lines: LogCapture
) -> None:
    done, waiting = summary(queue_id()), summary(queue_id())
    await teller.tell(accepted(done), attempted(done, {0: SENT}))
    await rig.wait_read_to(await teller.tell(accepted(waiting)))
    await rig.stop()
    admin = await connect(Role.ADMIN)
    await admin.api(f"STREAM.DELETE.{admin.names.event_stream}")
    await ensure(admin, LIMITS)
    for _ in range(5):  # beyond where the old stream ended
        await teller.tell(accepted(summary(queue_id())))
    rig._begin()
    await wait_until(lambda: rig.collector.ledger.totals.total_emails == 7, 10, "all counted")
    ledger = rig.collector.ledger
    assert (ledger.queue_losses, ledger.totals.lost_emails, ledger.totals.queued_emails) == (
        1,
        1,
        5,
    )
    assert ledger.missed_events == 0
    loud = [line for line in lines.entries if line["event"] == "queue.data_lost"]
    assert [line["log_level"] for line in loud] == ["critical"]


async def test_final_event_of_stored_content_prompts_its_deletion(rig: Rig, teller: Teller) -> None:
    inline, deferred, final = (
        summary(queue_id(), 2, stored_body=stored) for stored in (False, True, True)
    )
    await rig.wait_read_to(
        await teller.tell(
            attempted(inline, {0: SENT, 1: SENT}),
            attempted(deferred, {0: SENT, 1: DEFERRED}),
            attempted(final, {0: SENT, 1: BOUNCED}),
        )
    )
    assert rig.prompted == [final.submission]


async def test_content_that_was_stored_in_vain_is_asked_about_and_counts_as_no_mail(
    rig: Rig, teller: Teller
) -> None:
    left = Abandoned(summary(queue_id(), 2, stored_body=True), 1.0)
    known = summary(queue_id(), 1)
    await rig.wait_read_to(await teller.tell(left, accepted(known)))
    assert rig.abandoned == [left.summary.submission]
    assert rig.prompted == []
    assert rig.collector.ledger.totals.total_emails == 1
    found = await rig.index.run(lambda index: index.newest(10))
    assert [row.id for row in found] == [known.submission]


def test_gap_within_what_is_counted_already_is_none() -> None:
    ledger = Ledger(sequence=0, counted_to=10)
    assert missed_records(ledger, [record(4), record(9), record(12), record(14)]) == 2
    assert missed_records(Ledger(sequence=3), [record(4), record(5)]) == 0
