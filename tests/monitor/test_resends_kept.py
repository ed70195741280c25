"""A resend that was asked for and answered is carried out, whatever becomes of the monitor."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import replace
from typing import Any

from mailrelay.mail.job import FailedRecord
from mailrelay_monitor import failed_index, resend_book
from mailrelay_monitor.failed_filter import FailedFilter
from mailrelay_monitor.failed_row import QUEUED, WAITING
from tests.monitor.admin_rig import Admin, Start, job
from tests.support.wait import wait_until


async def wait_lane(admin: Admin, records: list[FailedRecord]) -> None:
    """Wait until the lane holds one job of each record and no other."""

    async def holds_them() -> bool:
        found = sorted(each.submission for each in await admin.lane())
        assert found == sorted(each.job.submission for each in records), found
        return True

    await wait_until(holds_them, 10, "each is in the lane once")


async def wait_progress(admin: Admin, **wanted: object) -> dict[str, Any]:
    async def is_so() -> bool:
        found = await admin.progress()
        assert {key: found[key] for key in wanted} == wanted, found
        return True

    await wait_until(is_so, 10, "the progress is told")
    return await admin.progress()


async def test_a_request_that_was_answered_is_carried_out_by_the_monitor_that_comes_next(
    start: Start,
) -> None:
    admin = await start(run=False)  # it dies before it does anything
    records = [await admin.fail(job()) for _ in range(3)]
    asked = (await admin.client.post("/admin/retry-failed")).json()
    assert asked["resent"] == 3
    admin = await start()
    await wait_lane(admin, records)
    found = await wait_progress(admin, request=asked["request"], asked=3, waiting=0, queued=3)
    assert found["by"] == "hand"


async def test_what_was_noted_as_queued_is_queued_once_whether_it_was_stored_or_not(
    start: Start,
) -> None:
    admin = await start()
    stored, not_stored = await admin.fail(job()), await admin.fail(job())
    which = {"id": stored.job.submission}
    await admin.client.post("/admin/retry-failed", json=which)
    await wait_lane(admin, [stored])
    admin = await start(run=False)
    which = {"id": not_stored.job.submission}
    await admin.client.post("/admin/retry-failed", json=which)

    def note(database: sqlite3.Connection) -> None:
        row = failed_index.get(database, not_stored.job.submission, 0)
        assert row is not None
        failed_index.set_stage(database, row, WAITING, QUEUED)

    await admin.parts.database.run(note)  # and here it was killed, before the publish
    admin = await start()
    await wait_lane(admin, [stored, not_stored])
    await wait_progress(admin, asked=1, waiting=0, queued=1)
    await wait_lane(admin, [stored, not_stored])


async def test_progress_goes_on_from_where_it_was_with_what_ended_meanwhile(start: Start) -> None:
    admin = await start()
    records = [await admin.fail(job()) for _ in range(4)]
    delivered, later, again, removed = records
    await admin.client.post("/admin/retry-failed")
    await wait_progress(admin, queued=4)
    await admin.settle(delivered)
    await wait_progress(admin, delivered=1)
    admin = await start(run=False)  # away
    await admin.settle(later)
    await admin.settle(again, replace(again, failed_at=time.time()))
    admin = await start()
    await wait_progress(admin, asked=4, delivered=2, failed_again=1, queued=1)
    await admin.client.delete(f"/api/failed/{removed.job.submission}")
    await wait_progress(admin, asked=4, delivered=2, failed_again=1, gone=1, queued=0, waiting=0)
    # What ended is not sent anew: only what was removed still has its job, which nobody will claim.
    admin = await start()
    await wait_progress(admin, asked=4, delivered=2, failed_again=1, gone=1, queued=0, waiting=0)
    await wait_lane(admin, records)
    assert (await admin.client.post("/admin/retry-failed")).json()["request"] == 2


async def test_a_stage_that_belongs_to_no_request_is_not_carried_out(start: Start) -> None:
    """As an earlier version left it, or noted of a resend that was alive when it began."""
    admin = await start(run=False)
    record, other = await admin.fail(job()), await admin.fail(job())
    await admin.parts.follower.catch_up()
    await admin.parts.database.run(
        lambda db: failed_index.mark_waiting(db, FailedFilter(ids=((_id(record), None),)), 7)
    )
    admin = await start()
    which = {"id": other.job.submission}
    assert (await admin.client.post("/admin/retry-failed", json=which)).json()["resent"] == 1
    await wait_lane(admin, [other])
    everything = (await admin.client.post("/admin/retry-failed")).json()
    assert (everything["resent"], everything["already_resending"]) == (1, 1)


async def test_of_many_requests_the_newest_are_kept_and_those_that_are_not_at_their_end(
    start: Start,
) -> None:
    admin = await start(run=False)
    record = await admin.fail(job())
    for _ in range(resend_book.KNOWN + 5):
        await admin.client.post("/admin/retry-failed")
    requests = (await admin.client.get("/admin/retry-failed")).json()["requests"]
    numbers = [each["request"] for each in requests]
    newest = list(range(resend_book.KNOWN + 5, 5, -1))
    assert numbers == newest
    kept = await admin.parts.database.run(lambda db: resend_book.newest(db, 1000))
    assert [each.request for each in kept] == [*newest, 1]
    admin = await start()
    await wait_lane(admin, [record])


async def test_a_request_is_on_disk_before_it_is_answered(start: Start) -> None:
    admin = await start(run=False)

    def synchronous(database: sqlite3.Connection) -> int:
        return int(database.execute("PRAGMA synchronous").fetchone()[0])

    normal, full = 1, 2
    assert await admin.parts.database.run(synchronous, durable=True) == full
    assert await admin.parts.database.run(synchronous) == normal


def _id(record: FailedRecord) -> str:
    return record.job.submission
