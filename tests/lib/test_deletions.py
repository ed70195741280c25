"""What is deleted stays deleted, also when nats-server is killed right behind it.

It rebuilds a stream from its file then, where a record that was only overwritten still stands.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable

import pytest

from mailrelay.mail.disposition import Disposition
from mailrelay.mail.ids import QueueId
from mailrelay.mail.job import FailedRecord, ResendMark
from mailrelay.queue import failed
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.failed import FailedStore, ResendClaim
from mailrelay.queue.publish import Publisher
from mailrelay.queue.rights import Role
from mailrelay.runtime.logging import Logger
from tests.lib.jobs import make_job, queue_id
from tests.support.nats import NatsServer
from tests.support.wait import wait_until

_numbers = itertools.count(5000)
STREAM = "mailrelay-failed"


def failure(submission: QueueId) -> FailedRecord:
    return FailedRecord(make_job(submission=submission), Disposition.BOUNCED, 1.0)


async def claimed(store: FailedStore, record: FailedRecord) -> ResendClaim:
    """Have a resend overwrite a failed record with its copy."""
    last = await store.last(record.job.submission, 0)
    assert last is not None
    job = make_job(submission=record.job.submission, resend_of=last.sequence)
    claim = await store.claim_resend(job, ResendMark("mailrelay-lane", 1, 1.0))
    assert claim is not None
    return claim


async def removed(removing: FailedStore, _: FailedStore, record: FailedRecord) -> None:
    last = await removing.last(record.job.submission, 0)
    assert last is not None
    assert await removing.remove_up_to(record.job.submission, 0, last.sequence)


async def delivered(_: FailedStore, store: FailedStore, record: FailedRecord) -> None:
    """Put the tombstone there and wait until it has gone by its age."""
    last = await store.last(record.job.submission, 0)
    assert last is not None
    await store.store_done(record.job, ResendClaim(last.sequence))

    async def is_gone() -> bool:
        return await store.last(record.job.submission, 0) is None

    await wait_until(is_gone, 10, "the tombstone is gone")


Way = Callable[[FailedStore, FailedStore, FailedRecord], Awaitable[None]]


@pytest.mark.parametrize("remove", [removed, delivered])
async def test_a_removed_failure_that_a_resend_overwrote_is_still_gone_after_kill_9(
    server: NatsServer,
    log: Logger,
    sender: QueueConnection,
    monitor: QueueConnection,
    remove: Way,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(failed, "_TOMBSTONE_TTL", "1s")
    store = FailedStore(sender, Publisher(sender))
    other, gone = (failure(queue_id(next(_numbers))) for _ in range(2))
    await store.store(other)
    await store.store(gone)
    await claimed(store, gone)
    await remove(FailedStore(monitor, Publisher(monitor)), store, gone)
    server.kill()
    server.start()
    async with server.connected(Role.MONITOR, log) as again:
        reader = FailedStore(again, Publisher(again))
        assert [each.record async for each in reader.walk()] == [other]
        assert await reader.last(gone.job.submission, 0) is None


async def test_an_overwritten_failure_is_not_left_beside_the_one_that_took_its_place(
    sender: QueueConnection, admin: QueueConnection
) -> None:
    store = FailedStore(sender, Publisher(sender))
    record = failure(queue_id(next(_numbers)))
    await store.store(record)
    claim = await claimed(store, record)
    await store.store_again(record, claim)
    await store.store_done(record.job, await claimed(store, record))
    info = await admin.api(f"STREAM.INFO.{STREAM}", {"subjects_filter": ">"})
    subject = sender.names.failed_subject(record.job.submission, 0)
    assert info["state"]["subjects"] == {subject: 1}
