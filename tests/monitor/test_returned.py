"""What was deleted and stands in its stream again, because nats-server was killed, goes again.

The streams are as an earlier version made them where that is what it takes: a record that is
overwritten in those leaves no word in the file that it went.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from structlog.testing import LogCapture

from mailrelay.mail.job import FailedRecord, ResendMark
from mailrelay.queue import failed
from mailrelay.queue.failed import FailedStore
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.rights import Role
from mailrelay.queue.wire import encode_failed
from mailrelay.runtime.logging import Logger
from mailrelay_monitor import failed_index
from tests.monitor.admin_rig import Admin, Start, job
from tests.monitor.conftest import Connect
from tests.monitor.nats import NatsServer
from tests.support.wait import wait_until

FAILED = "mailrelay-failed"


async def change(connect: Connect, stream: str, **config: object) -> None:
    admin = await connect(Role.ADMIN)
    found = (await admin.api(f"STREAM.INFO.{stream}"))["config"]
    await admin.api(f"STREAM.UPDATE.{stream}", {**found, **config})


async def as_before(connect: Connect) -> None:
    """Make the failed stream as an earlier version had it."""
    await change(connect, FAILED, max_msgs_per_subject=1, allow_rollup_hdrs=True)


async def kill(server: NatsServer, admin: Admin) -> None:
    """Kill and start the server; the connections are back when this returns."""
    generations = [each.generation for each in (admin.sender, admin.reader)]
    server.kill()
    server.start()

    def are_back() -> bool:
        now = (admin.sender, admin.reader)
        return all(
            each.is_connected and each.generation > generation
            for each, generation in zip(now, generations, strict=True)
        )

    await wait_until(are_back, 15, "the connections are back")


async def overwritten(admin: Admin, record: FailedRecord) -> None:
    """Have a resend claim the record, that is, overwrite it."""
    last = await admin.store.last(record.job.submission, 0)
    assert last is not None
    resend = replace(record.job, resend_of=last.sequence)
    assert await admin.store.claim_resend(resend, ResendMark("mailrelay-lane", 999_999, 1.0))


async def is_there(admin: Admin, record: FailedRecord) -> bool:
    return await admin.store.last(record.job.submission, 0) is not None


async def wait_gone(admin: Admin, record: FailedRecord) -> None:
    """Wait until the record is gone and all that goes with it is done."""

    async def is_gone() -> bool:
        row = await admin.parts.database.run(
            lambda db: failed_index.get(db, record.job.submission, 0)
        )
        return row is None and not await is_there(admin, record)

    await wait_until(is_gone, 15, "the record is gone")


async def listed(admin: Admin) -> set[str]:
    found = (await admin.client.get("/api/failed")).json()["failed"]
    return {each["id"] for each in found}


async def by_hand(admin: Admin, record: FailedRecord) -> None:
    await overwritten(admin, record)
    answer = await admin.client.delete(f"/api/failed/{record.job.submission}/0")
    assert answer.json() == {"deleted": 1}


async def past_a_limit(admin: Admin, record: FailedRecord) -> None:
    await overwritten(admin, record)
    admin.ahead = 3600.0  # failed.maxAgeSeconds is less
    await wait_gone(admin, record)


async def by_delivery(admin: Admin, record: FailedRecord) -> None:
    """Behind the tombstone, once it went by its age."""
    await admin.settle(record)
    await admin.wait_gone(record)
    await wait_gone(admin, record)


Way = Callable[[Admin, FailedRecord], Awaitable[None]]


@pytest.mark.parametrize("monitor", ["lives", "comes later"])
@pytest.mark.parametrize("remove", [by_hand, past_a_limit, by_delivery])
async def test_a_failure_that_a_killed_server_brought_back_is_removed_again(
    start: Start,
    connect: Connect,
    server: NatsServer,
    lines: LogCapture,
    remove: Way,
    monitor: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(failed, "_TOMBSTONE_TTL", "1s")
    options = {"maxAgeSeconds": 1800} if remove is past_a_limit else {}
    admin = await start(**options)
    await as_before(connect)
    other, gone = await admin.fail(job(accepted_at=2e9)), await admin.fail(job())
    await admin.wait_file(gone)
    await remove(admin, gone)
    await wait_gone(admin, gone)
    if monitor == "comes later":
        admin = await start(run=False, **options)
    await kill(server, admin)
    if monitor == "comes later":
        assert await is_there(admin, gone), "else there is nothing to be seen here"
        admin = await start(**options)

    async def is_removed_again() -> bool:
        found = [each for each in lines.entries if each["event"] == "failed.removed_again"]
        return [each["id"] for each in found] == [gone.job.submission]

    await wait_until(is_removed_again, 15, "it is removed again")
    assert not await is_there(admin, gone)
    assert gone.job.submission in admin.prompted
    assert await listed(admin) == {other.job.submission}
    assert await is_there(admin, other)


async def test_what_was_stored_in_its_place_since_stays(
    start: Start, connect: Connect, server: NatsServer
) -> None:
    admin = await start()
    await as_before(connect)
    await admin.fail(job())  # a stream that is empty has no file to bring back from
    gone = await admin.fail(job())
    await admin.wait_file(gone)
    await by_hand(admin, gone)
    admin = await start(run=False)
    await kill(server, admin)
    assert await is_there(admin, gone)
    # As the failure of a release is: over whatever is there.
    later = replace(gone, failed_at=gone.failed_at + 1)
    await admin.store.store_released(later)
    admin = await start()
    assert (await admin.wait_file(later))["id"] == gone.job.submission
    assert await admin.parts.follower._returned._look() is False
    last = await admin.store.last(gone.job.submission, 0)
    assert last is not None
    assert last.record == later


async def test_what_the_stream_dropped_by_itself_is_listed_again_once_it_is_back(
    start: Start, connect: Connect, server: NatsServer
) -> None:
    admin = await start(run=False)
    await as_before(connect)
    await admin.fail(job())
    dropped = await admin.fail(job())
    await overwritten(admin, dropped)
    await admin.parts.follower.catch_up()
    last = await admin.store.last(dropped.job.submission, 0)
    assert last is not None
    operator = await connect(Role.ADMIN)
    await operator.api(f"STREAM.MSG.DELETE.{FAILED}", {"seq": last.sequence})
    admin = await start()

    async def is_listed(*, wanted: bool) -> bool:
        return (dropped.job.submission in await listed(admin)) is wanted

    await wait_until(lambda: is_listed(wanted=False), 15, "it is noticed")
    await kill(server, admin)
    await wait_until(lambda: is_listed(wanted=True), 15, "it is listed again")
    assert (await admin.wait_file(dropped))["id"] == dropped.job.submission
    assert await is_there(admin, dropped)


async def test_what_was_left_beside_the_record_that_took_its_place_is_removed(
    start: Start, connect: Connect
) -> None:
    admin = await start(run=False)
    record = await admin.fail(job())
    later = replace(record, failed_at=record.failed_at + 1)
    subject = admin.sender.names.failed_subject(record.job.submission, 0)
    # As when the server was killed before it removed the older one.
    await Publisher(admin.sender).store(Record(subject, encode_failed(later), ""))
    reader = FailedStore(admin.reader, Publisher(admin.reader))
    assert await reader.places() == {(record.job.submission, 0): 2}
    admin = await start()
    again = FailedStore(await connect(Role.MONITOR), Publisher(admin.reader))

    async def is_one() -> bool:
        return await again.places() == {(record.job.submission, 0): 1}

    await wait_until(is_one, 15, "one record is left")
    last = await again.last(record.job.submission, 0)
    assert last is not None
    assert last.record == later


async def test_a_removal_past_a_limit_that_was_broken_off_takes_what_came_back_with_it(
    start: Start, connect: Connect, server: NatsServer
) -> None:
    admin = await start(run=False)
    await as_before(connect)
    await admin.fail(job(accepted_at=2e9))
    record = await admin.fail(job())
    await overwritten(admin, record)
    await admin.parts.follower.catch_up()
    row = await admin.parts.database.run(lambda db: failed_index.get(db, record.job.submission, 0))
    assert row is not None
    await admin.parts.database.run(lambda db: failed_index.set_removing(db, row, "max_age"))
    reader = FailedStore(admin.reader, Publisher(admin.reader))
    assert await reader.remove_up_to(row.submission, 0, row.sequence)  # and here it was killed
    await kill(server, admin)
    assert await is_there(admin, record)
    admin = await start()
    await wait_gone(admin, record)


async def test_a_server_that_lost_its_data_loses_nothing_that_is_stored_anew(
    start: Start, server: NatsServer, log: Logger
) -> None:
    admin = await start()
    for _ in range(3):
        await admin.wait_file(await admin.fail(job()))
    assert (await admin.client.delete("/api/failed?all=true")).json() == {"deleted": 3}
    generation = admin.sender.generation
    await server.lose_data(log)
    await wait_until(
        lambda: admin.sender.is_connected and admin.sender.generation > generation,
        15,
        "the sender is back",
    )
    new = await admin.fail(job())  # its number is one that was read and removed before
    await admin.wait_file(new)
    await admin.parts.follower._returned._look()
    assert await is_there(admin, new)
