from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
from dataclasses import replace

import pytest

from mailrelay.mail.disposition import Disposition
from mailrelay.mail.ids import QueueId
from mailrelay.mail.job import Body, FailedRecord, Job, ResendMark
from mailrelay.queue.bodies import CHUNK_BYTES, BodyStore, BodyUnreadableError, Deletion
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.events import epoch_seconds
from mailrelay.queue.failed import FailedStore, ResendClaim
from mailrelay.queue.lanes import LADDER
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.rights import Role
from mailrelay.queue.wire import encode_jobs
from mailrelay.runtime.logging import Logger
from tests.lib.jobs import make_job, queue_id
from tests.support.nats import NatsServer

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
    for record in records:
        await failed.store(record)
    for number in (2, 0):
        await done(failed, records[number])
        assert await looking.is_in_use(submission)
    await done(failed, records[1])
    assert not await looking.is_in_use(submission)


async def test_deleting_a_body_leaves_the_others(
    submission: QueueId, bodies: BodyStore, looking: BodyStore
) -> None:
    other = queue_id(next(_numbers))
    content = b"x" * (CHUNK_BYTES + 1)
    body = await bodies.store_content(submission, content)
    await bodies.store_content(other, content)
    assert await looking.delete_unused(submission) is Deletion.DONE
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


async def last_sequence(store: FailedStore, record: FailedRecord) -> int:
    last = await store.last(record.job.submission, record.recipient.number)
    return last.sequence if last is not None else 0


_lane_sequences = itertools.count(1_000_000)


def mark() -> ResendMark:
    """Name a record in the lane that is not there."""
    return ResendMark("mailrelay-lane", next(_lane_sequences), 1.0)


async def claimed(
    store: FailedStore, record: FailedRecord, by: ResendMark, sequence: int | None = None
) -> ResendClaim | None:
    of = sequence or await last_sequence(store, record)
    return await store.claim_resend(replace(record.job, resend_of=of), by)


async def done(store: FailedStore, record: FailedRecord) -> None:
    claim = await claimed(store, record, mark())
    assert claim is not None
    await store.store_done(record.job, claim)


async def test_a_failure_is_stored_once_and_found_again(
    submission: QueueId, sender: QueueConnection, monitor: QueueConnection
) -> None:
    store = FailedStore(sender, Publisher(sender))
    record = failure(submission)
    assert await store.last(submission, 0) is None
    await store.store(record)
    first = await last_sequence(store, record)
    await store.store(replace(record, failed_at=2.0))  # as a crashed attempt is repeated
    assert await last_sequence(store, record) == first > 0
    reader = FailedStore(monitor, Publisher(monitor))
    found = [each async for each in reader.walk()]
    assert [each.record for each in found] == [record]
    assert found[0].sequence == first


async def test_a_resend_that_fails_takes_the_place_of_the_failure(
    submission: QueueId, sender: QueueConnection, monitor: QueueConnection
) -> None:
    store = FailedStore(sender, Publisher(sender))
    record = failure(submission)
    await store.store(record)
    claim = await claimed(store, record, mark())
    assert claim is not None
    later = replace(failure(submission), failed_at=2.0)
    await store.store_again(later, claim)
    after = await last_sequence(store, record)
    assert after > claim.sequence
    await store.store_again(later, claim)  # its answer was lost, so it is stored again
    assert await last_sequence(store, record) == after
    reader = FailedStore(monitor, Publisher(monitor))
    assert [each.record async for each in reader.walk()] == [later]


async def test_a_failure_that_is_done_is_gone(
    submission: QueueId, sender: QueueConnection, monitor: QueueConnection, admin: QueueConnection
) -> None:
    store = FailedStore(sender, Publisher(sender))
    record = failure(submission)
    await store.store(record)
    await done(store, record)
    last = await store.last(submission, 0)
    assert last is not None
    assert last.is_done
    reader = FailedStore(monitor, Publisher(monitor))
    assert [each async for each in reader.walk()] == []
    await store.store(record)  # a crashed attempt is repeated: the mail was delivered meanwhile
    assert await last_sequence(store, record) == last.sequence
    stored = await admin.api(
        "STREAM.MSG.GET.mailrelay-failed", {"last_by_subj": f"mailrelay.failed.{submission}.0"}
    )
    assert stored["message"]["hdrs"]


# --- One resend alive ---------------------------------------------------------------------------


async def lane_record(sender: QueueConnection) -> ResendMark:
    """A record that is in the lane."""
    subject = sender.names.lane_subject(LADDER[0], None)
    stored = await Publisher(sender).store(Record(subject, encode_jobs([make_job()]), ""))
    answer = await sender.api("STREAM.MSG.GET.mailrelay-lane", {"seq": stored.sequence})
    return ResendMark("mailrelay-lane", stored.sequence, epoch_seconds(answer["message"]["time"]))


async def test_of_two_resends_of_one_record_one_may_go_on_in_whatever_order(
    submission: QueueId, sender: QueueConnection, server: NatsServer, log: Logger
) -> None:
    record = failure(submission)
    await FailedStore(sender, Publisher(sender)).store(record)
    marks = [await lane_record(sender) for _ in range(8)]
    async with contextlib.AsyncExitStack() as stack:
        stores = []
        for _ in marks:
            connection = await stack.enter_async_context(server.connected(Role.SENDER, log))
            stores.append(FailedStore(connection, Publisher(connection)))
        of = await last_sequence(stores[0], record)
        claims = await asyncio.gather(
            *(claimed(store, record, by, of) for store, by in zip(stores, marks, strict=True))
        )
        assert sum(claim is not None for claim in claims) == 1
        winner = next(number for number, claim in enumerate(claims) if claim is not None)
        # Its record in the lane comes back after a crash: to any sender, and it goes on.
        for store in stores:
            assert await claimed(store, record, marks[winner], of) == claims[winner]
            assert await claimed(store, record, marks[winner - 1], of) is None


async def test_a_resend_of_a_claimed_record_waits_for_the_end_of_the_one_that_is_alive(
    submission: QueueId, sender: QueueConnection, admin: QueueConnection
) -> None:
    store = FailedStore(sender, Publisher(sender))
    record = failure(submission)
    await store.store(record)
    first, second = await lane_record(sender), await lane_record(sender)
    claim = await claimed(store, record, first)
    assert claim is not None
    # Somebody made a resend of the very copy that carries the mark.
    assert await claimed(store, record, second, claim.sequence) is None
    await admin.api("STREAM.MSG.DELETE.mailrelay-lane", {"seq": first.sequence})
    taken_over = await claimed(store, record, second, claim.sequence)
    assert taken_over is not None
    await store.store_done(record.job, claim)  # the first was only slow: it settles nothing now
    last = await store.last(submission, 0)
    assert last is not None
    assert last.sequence == taken_over.sequence


async def test_a_removed_record_does_not_come_back_when_its_resend_ends(
    submission: QueueId, sender: QueueConnection, monitor: QueueConnection
) -> None:
    store = FailedStore(sender, Publisher(sender))
    record = failure(submission)
    await store.store(record)
    claim = await claimed(store, record, await lane_record(sender))
    assert claim is not None
    removing = FailedStore(monitor, Publisher(monitor))
    assert await removing.remove_up_to(submission, 0, claim.sequence)
    await store.store_again(record, claim)
    assert await store.last(submission, 0) is None
    assert await claimed(store, record, await lane_record(sender), claim.sequence) is None


async def test_removing_a_record_leaves_the_one_that_came_after_it(
    submission: QueueId, sender: QueueConnection, monitor: QueueConnection
) -> None:
    store = FailedStore(sender, Publisher(sender))
    record = failure(submission)
    await store.store(record)
    first = await last_sequence(store, record)
    claim = await claimed(store, record, mark())
    assert claim is not None
    removing = FailedStore(monitor, Publisher(monitor))
    assert not await removing.remove_up_to(submission, 0, first)
    assert await last_sequence(store, record) == claim.sequence
    assert await removing.remove_up_to(submission, 0, claim.sequence)
    assert await store.last(submission, 0) is None


async def test_the_failure_of_a_release_is_stored_over_an_older_one_but_not_over_a_live_resend(
    submission: QueueId, sender: QueueConnection, admin: QueueConnection
) -> None:
    store = FailedStore(sender, Publisher(sender))
    older, released = failure(submission), replace(failure(submission), failed_at=9.0)
    await store.store_released(older)
    resend = await lane_record(sender)
    claim = await claimed(store, older, resend)
    assert claim is not None
    await store.store_released(released)
    assert await last_sequence(store, older) == claim.sequence
    await admin.api("STREAM.MSG.DELETE.mailrelay-lane", {"seq": resend.sequence})
    await store.store_released(released)
    last = await store.last(submission, 0)
    assert last is not None
    assert last.record == released


async def test_a_walk_goes_through_all_pages_and_past_what_it_cannot_read(
    sender: QueueConnection, monitor: QueueConnection
) -> None:
    publisher = Publisher(sender)
    store = FailedStore(sender, publisher)
    records = [failure(queue_id(next(_numbers))) for _ in range(150)]
    await asyncio.gather(*(store.store(each) for each in records))
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
