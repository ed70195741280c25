"""Failed records go by hand, past a limit, or without the monitor, and it is told."""

from __future__ import annotations

import sqlite3
import time

import pytest
from structlog.testing import LogCapture

from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.rights import Role
from mailrelay.queue.wire import encode_events
from mailrelay_monitor import failed_index
from tests.monitor.admin_rig import Start, discarded, job, stored_body
from tests.monitor.conftest import Background, Connect
from tests.monitor.story import SENT, attempted, queue_id, summary
from tests.support.wait import wait_until


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"maxRecords": 2}, "max_records"),
        ({"maxBytes": 4000}, "max_bytes"),
        ({"maxAgeSeconds": 5000}, "max_age"),
    ],
    ids=["records", "octets", "age"],
)
async def test_past_a_limit_the_oldest_go_and_it_is_told(
    start: Start, lines: LogCapture, options: dict[str, int], reason: str
) -> None:
    admin = await start(**options)
    now = time.time()
    records = [
        await admin.fail(job(content=b"x" * 1000, accepted_at=now - age))
        for age in (9000, 8000, 100, 50)
    ]
    for record in records[2:]:
        await admin.wait_file(record)

    async def two_left() -> bool:
        return bool((await admin.client.get("/api/failed")).json()["matching"] == 2)

    await wait_until(two_left, 20, "the oldest are gone")
    for record in records[:2]:
        await admin.wait_gone(record)
        assert await admin.store.last(record.job.submission, 0) is None
    for record in records[2:]:
        assert await admin.store.last(record.job.submission, 0) is not None

    async def told() -> bool:
        return len(await discarded(admin)) == 2

    await wait_until(told, 10, "both are told")
    assert {each.reason for each in await discarded(admin)} == {reason}
    count = admin.registry.get_sample_value
    assert count("mailrelay_failed_discarded_total", {"reason": reason}) == 2
    assert count("mailrelay_failed_discarded_total", {"reason": "by_hand"}) == 0
    assert count("mailrelay_failed_limit_records") == options.get("maxRecords", 100_000)
    most_bytes = count("mailrelay_failed_limit_bytes")
    assert most_bytes is not None
    assert most_bytes == options.get("maxBytes", most_bytes) > 0

    async def shown() -> bool:
        return count("mailrelay_failed_records") == 2

    await wait_until(shown, 10, "what is left is shown")
    logged = [each for each in lines.entries if each["event"] == "failed.discarded"]
    assert {each["id"] for each in logged} == {each.job.submission for each in records[:2]}


async def test_what_the_stream_dropped_while_the_monitor_was_away_is_noticed_and_its_file_kept(
    start: Start, connect: Connect
) -> None:
    admin = await start(run=False)
    dropped, kept = await admin.fail(job()), await admin.fail(job())
    await admin.parts.follower.catch_up()
    await admin.parts.files.turn()
    server = await connect(Role.ADMIN)
    await server.api("STREAM.MSG.DELETE.mailrelay-failed", {"seq": 1})
    later = await start()

    async def told() -> bool:
        return bool(await discarded(later))

    await wait_until(told, 10, "it is told")
    (one,) = await discarded(later)
    assert (one.reason, one.summary.submission) == ("dropped_by_stream", dropped.job.submission)
    assert later.file(dropped).exists()
    assert later.file(kept).exists()
    assert (await later.client.get("/api/failed")).json()["matching"] == 1


async def test_a_deleted_failure_is_gone_with_its_file_and_its_content_may_go(
    start: Start,
) -> None:
    admin = await start()
    body = await stored_body(admin, submission := queue_id())
    record = await admin.fail(job(submission=submission, content=b"", body=body))
    other = await admin.fail(job())
    await admin.wait_file(record)
    answer = await admin.client.delete(f"/api/failed/{submission}/0")
    assert answer.json() == {"deleted": 1}
    assert not admin.file(record).exists()
    assert admin.prompted == [submission]
    assert (await discarded(admin))[0].reason == "by_hand"
    assert (await admin.client.delete(f"/api/failed/{submission}")).status_code == 404
    assert (await admin.client.delete("/api/failed")).status_code == 422
    assert (await admin.client.delete("/api/failed?all=true&sender=x")).status_code == 422
    assert (await admin.client.delete("/api/failed?all=true")).json() == {"deleted": 1}
    assert await admin.store.last(other.job.submission, 0) is None


async def test_a_removal_that_was_broken_off_is_finished_and_not_taken_for_a_loss(
    start: Start,
) -> None:
    admin = await start(run=False)
    record = await admin.fail(job())
    await admin.parts.follower.catch_up()
    await admin.parts.files.turn()
    path = admin.file(record)
    assert path.exists()

    def note(database: sqlite3.Connection) -> None:
        row = failed_index.get(database, record.job.submission, 0)
        assert row is not None
        failed_index.set_removing(database, row, "by_hand")

    await admin.parts.database.run(note)  # and here it was killed, before or after the purge
    later = await start()
    await wait_until(lambda: not path.exists(), 10, "the file is gone")

    async def told() -> bool:
        return [each.reason for each in await discarded(later)] == ["by_hand"]

    await wait_until(told, 10, "it is told as what it was")
    assert await later.store.last(record.job.submission, 0) is None


async def test_what_was_delivered_while_the_monitor_was_away_is_not_told_before_it_is_counted(
    start: Start, connect: Connect, background: Background
) -> None:
    admin = await start(run=False)
    record = await admin.fail(job())
    await admin.parts.follower.catch_up()
    await admin.parts.files.turn()
    await admin.settle(record)
    about = summary(record.job.submission)
    told = Record(
        admin.sender.names.event_subject("sender"), encode_events([attempted(about, {0: SENT})]), ""
    )
    await Publisher(admin.sender).store(told)
    server = await connect(Role.ADMIN)
    place = admin.sender.names.failed_subject(record.job.submission, 0)
    await server.api(
        "STREAM.PURGE.mailrelay-failed", {"filter": place}
    )  # as its tombstone's age does
    follower = admin.parts.follower
    await follower._look_for_gone()
    assert admin.file(record).exists(), "nothing is known of it yet"
    background(admin.collector.run())
    await follower._look_for_gone()
    await admin.parts.files.turn()
    assert not admin.file(record).exists()
    assert await discarded(admin) == []
