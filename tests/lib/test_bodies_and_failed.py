from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
from dataclasses import replace

import pytest

from mailrelay.mail.disposition import Disposition
from mailrelay.mail.ids import QueueId
from mailrelay.mail.job import Body, FailedRecord, Job
from mailrelay.queue.bodies import CHUNK_BYTES, BodyStore, BodyUnreadableError
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.failed import FailedStore
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.wire import encode_jobs
from tests.lib.jobs import make_job, queue_id

_numbers = itertools.count(1000)


@pytest.fixture
def submission() -> QueueId:
    return queue_id(next(_numbers))


@pytest.fixture
def bodies(sender: QueueConnection) -> BodyStore:
    return BodyStore(sender, Publisher(sender))


@pytest.fixture
def looking(monitor: QueueConnection) -> BodyStore:
    return BodyStore(monitor, Publisher(monitor))


async def read(store: BodyStore, job: Job) -> bytes:
    return b"".join([piece async for piece in store.pieces(job)])


@pytest.mark.parametrize(
    "size", [1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 20 * 1024 * 1024]
)
async def test_a_body_comes_back_as_it_was(
    size: int, submission: QueueId, bodies: BodyStore
) -> None:
    content = os.urandom(size)
    body = await bodies.store_content(submission, content)
    assert body == Body(-(-size // CHUNK_BYTES), size, hashlib.sha256(content).hexdigest())
    job = make_job(submission=submission, body=body)
    assert len(await anext(bodies.pieces(job))) == min(size, CHUNK_BYTES)
    assert await read(bodies, job) == content


async def test_inline_content_needs_no_store(bodies: BodyStore) -> None:
    assert await read(bodies, make_job(content=b"x\r\n")) == b"x\r\n"


async def test_a_body_written_again_is_the_same(submission: QueueId, bodies: BodyStore) -> None:
    first = await bodies.store_content(submission, b"x" * 1000)
    assert await bodies.store_content(submission, b"x" * 1000) == first
    assert await read(bodies, make_job(submission=submission, body=first)) == b"x" * 1000


async def test_a_body_of_another_content_is_not_handed_out_whole(
    submission: QueueId, bodies: BodyStore
) -> None:
    body = await bodies.store_content(submission, b"x" * (CHUNK_BYTES + 10))
    await bodies.store_chunk(submission, 1, b"y" * 10)
    job = make_job(submission=submission, body=body)
    got = []
    with pytest.raises(BodyUnreadableError, match="not what was written"):  # noqa: PT012 — the loop is what raises
        async for piece in bodies.pieces(job):
            got.append(piece)  # noqa: PERF401 — what came before the error counts
    assert len(got) == 1


@pytest.mark.parametrize("missing", [0, 1])
async def test_a_missing_chunk_is_unreadable(
    missing: int, submission: QueueId, bodies: BodyStore
) -> None:
    for chunk in {0, 1} - {missing}:
        await bodies.store_chunk(submission, chunk, b"x")
    job = make_job(submission=submission, body=Body(2, 2, "0" * 64))
    with pytest.raises(BodyUnreadableError):
        await read(bodies, job)


# --- Is it in use? ------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["in", "lane", "failed", "capture"])
async def test_a_record_anywhere_keeps_the_body_in_use(
    place: str,
    submission: QueueId,
    looking: BodyStore,
    ingress: QueueConnection,
    sender: QueueConnection,
    admin: QueueConnection,
) -> None:
    other = queue_id(next(_numbers))
    stem = {
        "in": "mailrelay.in.0.{}",
        "lane": "mailrelay.lane.4h.{}",
        "failed": "mailrelay.failed.{}.3",
        "capture": "mailrelay.capture.{}.1",
    }[place]
    connection = ingress if place == "in" else sender
    payload = encode_jobs([make_job()])
    await Publisher(connection).store(Record(stem.format(other), payload, ""))
    assert not await looking.is_in_use(submission)
    await Publisher(connection).store(Record(stem.format(submission), payload, ""))
    assert await looking.is_in_use(submission)
    stream = "mailrelay-in-0" if place == "in" else f"mailrelay-{place}"
    await admin.api(f"STREAM.PURGE.{stream}", {"filter": stem.format(submission)})
    assert not await looking.is_in_use(submission)
    assert await looking.is_in_use(other)


async def test_a_tombstone_uses_nothing_but_does_not_hide_another_failure(
    submission: QueueId, looking: BodyStore, sender: QueueConnection
) -> None:
    failed = FailedStore(sender, Publisher(sender))
    records = [failure(submission, number) for number in range(3)]
    for number, record in enumerate(records):
        await failed.store(record, f"{submission}/{number}")
    for number in (2, 0):
        await failed.store_done(records[number].job, f"{submission}/done/{number}")
        assert await looking.is_in_use(submission)
    await failed.store_done(records[1].job, f"{submission}/done/1")
    assert not await looking.is_in_use(submission)


async def test_deleting_a_body_leaves_the_others(
    submission: QueueId, bodies: BodyStore, looking: BodyStore
) -> None:
    other = queue_id(next(_numbers))
    content = b"x" * (CHUNK_BYTES + 1)
    body = await bodies.store_content(submission, content)
    await bodies.store_content(other, content)
    assert await looking.delete_unused(submission)
    with pytest.raises(BodyUnreadableError):
        await read(bodies, make_job(submission=submission, body=body))
    assert await read(bodies, make_job(submission=other, body=body)) == content
    assert await bodies.store_content(submission, content) == body  # and written anew
    assert await read(bodies, make_job(submission=submission, body=body)) == content


# --- The failed store ---------------------------------------------------------------------------


def failure(submission: QueueId, number: int = 0) -> FailedRecord:
    job = make_job(number + 1, submission=submission)
    return FailedRecord(
        replace(job, recipients=(job.recipients[number],)), Disposition.BOUNCED, 1.0
    )


async def test_a_failure_is_stored_once_and_found_again(
    submission: QueueId, sender: QueueConnection, monitor: QueueConnection
) -> None:
    store = FailedStore(sender, Publisher(sender))
    record = failure(submission)
    assert await store.last_sequence(submission, 0) == 0
    await store.store(record, f"{submission}/x")
    first = await store.last_sequence(submission, 0)
    await store.store(record, f"{submission}/x")
    assert await store.last_sequence(submission, 0) == first > 0
    reader = FailedStore(monitor, Publisher(monitor))
    found = [each async for each in reader.walk()]
    assert [each.record for each in found] == [record]
    assert found[0].sequence == first


async def test_a_later_failure_of_the_same_recipient_takes_the_place(
    submission: QueueId, sender: QueueConnection, monitor: QueueConnection
) -> None:
    store = FailedStore(sender, Publisher(sender))
    await store.store(failure(submission), f"{submission}/1")
    first = await store.last_sequence(submission, 0)
    later = replace(failure(submission), failed_at=2.0)
    await store.store(later, f"{submission}/2")
    assert await store.last_sequence(submission, 0) > first
    reader = FailedStore(monitor, Publisher(monitor))
    assert [each.record async for each in reader.walk()] == [later]


async def test_a_failure_that_is_done_is_gone(
    submission: QueueId, sender: QueueConnection, monitor: QueueConnection, admin: QueueConnection
) -> None:
    store = FailedStore(sender, Publisher(sender))
    record = failure(submission)
    await store.store(record, f"{submission}/1")
    await store.store_done(record.job, f"{submission}/done")
    assert await store.last_sequence(submission, 0) == 0
    reader = FailedStore(monitor, Publisher(monitor))
    assert [each async for each in reader.walk()] == []
    stored = await admin.api(
        "STREAM.MSG.GET.mailrelay-failed", {"last_by_subj": f"mailrelay.failed.{submission}.0"}
    )
    assert stored["message"]["hdrs"]


async def test_a_walk_goes_through_all_pages_and_past_what_it_cannot_read(
    sender: QueueConnection, monitor: QueueConnection
) -> None:
    publisher = Publisher(sender)
    store = FailedStore(sender, publisher)
    records = [failure(queue_id(next(_numbers))) for _ in range(150)]
    await asyncio.gather(*(store.store(each, each.job.submission) for each in records))
    broken = queue_id(next(_numbers))
    await publisher.store(Record(f"mailrelay.failed.{broken}.0", b"\x07rubbish", ""))
    reader = FailedStore(monitor, Publisher(monitor))
    found = [each async for each in reader.walk()]
    assert len(found) == 151
    assert [each.sequence for each in found] == sorted(each.sequence for each in found)
    assert {each.record.job.submission for each in found if each.record} == {
        each.job.submission for each in records
    }
    assert found[-1].record is None
