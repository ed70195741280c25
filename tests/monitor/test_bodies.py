from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from prometheus_client import CollectorRegistry

from mailrelay.mail.ids import QueueId
from mailrelay.mail.job import CaptureRecord
from mailrelay.queue.bodies import BodyStore, Deletion
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.failed import FailedStore, ResendClaim
from mailrelay.queue.lanes import LADDER
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.rights import Role
from mailrelay.queue.wire import encode_capture, encode_failed, encode_jobs
from mailrelay.runtime.logging import Logger
from mailrelay_monitor import bodies
from mailrelay_monitor.bodies import UNSPOKEN_AGE_SECONDS, BodyCleaner, BodyMetrics
from tests.monitor.conftest import Connect
from tests.monitor.story import failed, job, queue_id
from tests.support.wait import wait_until

Background = Callable[[Awaitable[object]], "asyncio.Future[object]"]
CONTENT = b"x" * 600_000  # two chunks
HOLDERS = ["in", "lane", "failed", "capture"]


class Clock:
    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class Store:
    """Large mail as ingress and senders store it."""

    def __init__(self, ingress: QueueConnection, sender: QueueConnection) -> None:
        self.names = ingress.names
        self._ingress, self._sender = Publisher(ingress), Publisher(sender)
        self._bodies = BodyStore(ingress, self._ingress)

    async def body(self, submission: QueueId) -> None:
        await self._bodies.store_content(submission, CONTENT)

    async def record(self, holder: str, submission: QueueId) -> int:
        names = self.names
        body = await self._bodies.store_content(submission, CONTENT)
        named = job(submission, body=body)
        subject, payload = {
            "in": (names.in_subject(submission), encode_jobs([named])),
            "lane": (names.lane_subject(LADDER[-1], submission), encode_jobs([named])),
            "failed": (names.failed_subject(submission, 2), encode_failed(failed(named))),
            "capture": (
                names.capture_subject(submission, 1, "hash"),
                encode_capture(CaptureRecord(named, 1.0)),
            ),
        }[holder]
        publisher = self._ingress if holder == "in" else self._sender
        return (await publisher.store(Record(subject, payload, ""))).sequence


@pytest.fixture
async def store(connect: Connect) -> Store:
    return Store(await connect(Role.INGRESS), await connect(Role.SENDER))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cleaner(connection: QueueConnection, clock: Clock, log: Logger) -> BodyCleaner:
    return BodyCleaner(
        connection,
        BodyStore(connection, Publisher(connection)),
        clock=clock,
        log=log,
        metrics=BodyMetrics(CollectorRegistry()),
    )


async def chunks(connection: QueueConnection, submission: QueueId) -> int:
    info = await connection.api(
        f"STREAM.INFO.{connection.names.body_stream}",
        {"subjects_filter": f"{connection.names.prefix}.body.{submission}.>"},
    )
    return len(info["state"].get("subjects") or {})


async def test_prompted_body_that_nothing_names_is_deleted_whole(
    cleaner: BodyCleaner, store: Store, connection: QueueConnection, background: Background
) -> None:
    unused, other = queue_id(), queue_id()
    await store.body(unused)
    await store.body(other)
    background(cleaner.run_prompted())
    cleaner.prompt(unused)

    async def gone() -> bool:
        return await chunks(connection, unused) == 0

    await wait_until(gone, 5, "the body is deleted")
    assert await chunks(connection, other) == 2


async def test_a_chunk_that_comes_late_of_content_stored_in_vain_goes_too(
    cleaner: BodyCleaner,
    store: Store,
    connection: QueueConnection,
    background: Background,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bodies, "LATE_CHUNK_SECONDS", 2.0)
    left, named = queue_id(), queue_id()
    await store.body(left)
    await store.record("lane", named)
    background(cleaner.run_prompted())
    for submission in (left, named):
        cleaner.prompt_abandoned(submission)

    async def gone() -> bool:
        return await chunks(connection, left) == 0

    await wait_until(gone, 5, "the body is deleted")
    await store.body(left)
    await wait_until(gone, 10, "what came late is deleted")
    await wait_until(lambda: left not in cleaner._waiting, 5, "it is not asked about any more")
    assert await chunks(connection, named) == 2
    assert cleaner._metrics.deleted.labels("event")._value.get() == 1


@pytest.mark.parametrize("holder", HOLDERS)
async def test_body_that_a_record_names_stays(
    cleaner: BodyCleaner,
    store: Store,
    connection: QueueConnection,
    clock: Clock,
    holder: str,
) -> None:
    named = queue_id()
    await store.record(holder, named)
    clock.ahead = UNSPOKEN_AGE_SECONDS + 60
    assert await cleaner.sweep() == 0
    assert await cleaner._delete_unused(named, "event") is Deletion.IN_USE
    assert await chunks(connection, named) == 2


async def test_prompt_is_asked_again_until_the_jobs_own_record_is_acked(
    cleaner: BodyCleaner,
    store: Store,
    connect: Connect,
    connection: QueueConnection,
    background: Background,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bodies, "ASK_DELAYS_SECONDS", (0.01,) * 500)
    asked = 0
    is_in_use = cleaner._store.is_in_use

    async def counted(submission: QueueId) -> bool:
        nonlocal asked
        asked += 1
        return await is_in_use(submission)

    monkeypatch.setattr(cleaner._store, "is_in_use", counted)
    named = queue_id()
    sequence = await store.record("in", named)
    background(cleaner.run_prompted())
    cleaner.prompt(named)
    await wait_until(lambda: asked >= 3, 5, "asked three times")
    assert await chunks(connection, named) == 2
    admin = await connect(Role.ADMIN)
    await admin.api(f"STREAM.MSG.DELETE.{admin.names.in_stream()}", {"seq": sequence})

    async def gone() -> bool:
        return await chunks(connection, named) == 0

    await wait_until(gone, 5, "the body is deleted")


async def test_prompt_is_given_up_while_another_job_of_the_submission_waits(
    cleaner: BodyCleaner,
    store: Store,
    connection: QueueConnection,
    background: Background,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bodies, "ASK_DELAYS_SECONDS", (0.01, 0.01))
    named = queue_id()
    await store.record("lane", named)
    background(cleaner.run_prompted())
    cleaner.prompt(named)
    await wait_until(lambda: not cleaner._waiting, 5, "given up")
    assert not cleaner._due
    assert await chunks(connection, named) == 2


async def test_body_is_deleted_once_its_failed_record_is_done(
    cleaner: BodyCleaner, store: Store, connect: Connect, connection: QueueConnection
) -> None:
    named = queue_id()
    await store.record("failed", named)
    sender = await connect(Role.SENDER)
    store_of_failed = FailedStore(sender, Publisher(sender))
    last = await store_of_failed.last(named, 2)
    assert last is not None
    await store_of_failed.store_done(job(named), ResendClaim(last.sequence))
    assert await cleaner._delete_unused(named, "event") is Deletion.DONE
    assert await chunks(connection, named) == 0


async def test_sweep_takes_what_no_event_speaks_of_once_it_is_old_enough(
    cleaner: BodyCleaner, store: Store, connection: QueueConnection, clock: Clock
) -> None:
    unspoken = queue_id()
    await store.body(unspoken)
    assert await cleaner.sweep() == 0
    clock.ahead = UNSPOKEN_AGE_SECONDS + 60
    assert await cleaner.sweep() == 1
    assert await chunks(connection, unspoken) == 0


async def test_sweep_leaves_content_that_was_written_lately_for_an_old_submission(
    cleaner: BodyCleaner, store: Store, connection: QueueConnection
) -> None:
    old = queue_id(time.time() - 5 * UNSPOKEN_AGE_SECONDS)
    await store.body(old)
    assert await cleaner.sweep() == 0
    assert await chunks(connection, old) == 2


async def test_prompts_beyond_the_bound_are_left_to_the_sweep(
    cleaner: BodyCleaner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "MAX_WAITING", 2)
    for _ in range(5):
        cleaner.prompt(queue_id())
    assert len(cleaner._waiting) == len(cleaner._due) == 2
