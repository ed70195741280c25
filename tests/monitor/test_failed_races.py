"""A removal and what becomes of its record meanwhile: each failure is told of once, and truly."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from mailrelay.mail.job import FailedRecord
from mailrelay_monitor import failed_index
from mailrelay_monitor.failed_row import DONE, FailedRow
from tests.monitor.admin_rig import Admin, Start, discarded, job
from tests.monitor.conftest import Background
from tests.support.wait import wait_until


async def row_of(admin: Admin, record: FailedRecord) -> FailedRow:
    """Return the row, as a page of them shows it."""
    await admin.parts.follower.catch_up()
    row = await admin.parts.database.run(
        lambda database: failed_index.get(database, record.job.submission, 0)
    )
    assert row is not None
    return row


async def reasons(admin: Admin) -> list[str]:
    return [each.reason for each in await discarded(admin)]


@pytest.mark.parametrize("knows", [True, False], ids=["read", "not read"])
async def test_what_was_delivered_since_it_was_listed_is_not_deleted_by_hand(
    start: Start, background: Background, *, knows: bool
) -> None:
    admin = await start(run=False)
    background(admin.parts.events.run())
    record = await admin.fail(job())
    row = await row_of(admin, record)
    await admin.settle(record)
    if knows:
        await admin.parts.follower.catch_up()
    assert not await admin.parts.remover.remove(row)
    await admin.parts.remover.keep_limits()
    assert await reasons(admin) == []
    assert (await row_of(admin, record)).removing == DONE


@pytest.mark.parametrize("knows", [True, False], ids=["read", "not read"])
async def test_what_a_resend_took_up_since_it_was_listed_is_deleted_by_hand_and_told_once(
    start: Start, background: Background, *, knows: bool
) -> None:
    admin = await start(run=False)
    background(admin.parts.events.run())
    record = await admin.fail(job())
    row = await row_of(admin, record)
    await admin.claim(record)
    if knows:
        await admin.parts.follower.catch_up()
    assert await admin.parts.remover.remove(row)
    await admin.parts.follower.catch_up()
    await admin.parts.remover.keep_limits()
    assert await reasons(admin) == ["by_hand"]
    assert await admin.store.last(record.job.submission, 0) is None
    assert (await admin.client.get("/api/failed")).json()["matching"] == 0


async def test_what_failed_again_since_it_was_listed_is_not_deleted_by_hand(
    start: Start, background: Background
) -> None:
    admin = await start(run=False)
    background(admin.parts.events.run())
    record = await admin.fail(job())
    row = await row_of(admin, record)
    await admin.settle(record, replace(record, failed_at=time.time() + 5))
    assert not await admin.parts.remover.remove(row)
    await admin.parts.remover.keep_limits()
    assert await reasons(admin) == []
    assert (await admin.client.get("/api/failed")).json()["matching"] == 1


async def test_what_is_delivered_while_a_limit_removes_it_stays_delivered(
    start: Start, background: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = await start(run=False, maxRecords=1)
    background(admin.parts.events.run())
    record, _ = await admin.fail(job()), await admin.fail(job())
    await admin.parts.follower.catch_up()
    remove = admin.parts.failed.remove_up_to

    async def delivered_meanwhile(*place: object) -> bool:
        monkeypatch.undo()
        await admin.settle(record)
        await admin.parts.follower.catch_up()  # as any request does
        return await remove(*place)  # type: ignore[arg-type]

    monkeypatch.setattr(admin.parts.failed, "remove_up_to", delivered_meanwhile)
    await admin.parts.remover.keep_limits()
    assert await reasons(admin) == []
    assert (await row_of(admin, record)).removing == DONE
    shown = (await admin.client.get("/api/failed")).json()["failed"]
    assert record.job.submission not in {each["id"] for each in shown}


@pytest.mark.parametrize("removed", [True, False], ids=["behind the removal", "before it"])
async def test_a_removal_that_was_broken_off_leaves_what_failed_in_its_place_since(
    start: Start, *, removed: bool
) -> None:
    admin = await start(run=False)
    record = await admin.fail(job())
    row = await row_of(admin, record)
    await admin.parts.database.run(lambda db: failed_index.set_removing(db, row, "by_hand"))
    if removed:
        await admin.parts.failed.remove_up_to(record.job.submission, 0, row.sequence)
    # And here the monitor was killed. A release of the same recipient fails.
    newer = replace(record, failed_at=time.time() + 5)
    await admin.store.store_released(newer)
    later = await start()
    await later.wait_file(newer)

    async def has_looked() -> bool:
        rows = await later.parts.database.run(lambda db: failed_index.being_removed(db, 10))
        return not rows

    await wait_until(has_looked, 10, "what was broken off is done with")
    last = await later.store.last(record.job.submission, 0)
    assert last is not None
    assert last.record is not None
    assert last.record.failed_at == pytest.approx(newer.failed_at)
    assert (await later.client.get("/api/failed")).json()["matching"] == 1
