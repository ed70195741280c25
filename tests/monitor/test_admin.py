"""Failed and captured mail as people ask for it over HTTP, on a real queue."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sqlite3
import stat
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest
from structlog.testing import LogCapture

from mailrelay.config.model import Failed
from mailrelay.mail.disposition import Disposition
from mailrelay.mail.event import Discarded
from mailrelay.mail.ids import QueueId
from mailrelay.mail.job import CaptureRecord, FailedRecord, Job, Recipient, ResendMark, Try
from mailrelay.queue.bodies import BodyStore
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.events import EventReader, epoch_seconds
from mailrelay.queue.lanes import NOW
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.rights import Role
from mailrelay.queue.wire import encode_capture, encode_failed, encode_jobs
from mailrelay_monitor import failed_index, lane_room
from tests.monitor.admin_rig import LATER, Admin, Start, job
from tests.monitor.conftest import Connect
from tests.monitor.story import queue_id
from tests.support.wait import wait_until

# --- Resending ------------------------------------------------------------------------------------


async def test_an_empty_request_resends_everything_once(start: Start) -> None:
    admin = await start()
    one, two = await admin.fail(job()), await admin.fail(job())
    done = await admin.fail(job())
    await admin.settle(done)
    await Publisher(admin.sender).store(
        Record(admin.sender.names.failed_subject(queue_id(), 0), b"\x63?", "")
    )
    answer = await admin.client.post("/admin/retry-failed")
    assert answer.json() == {
        "request": 1,
        "matching": 3,
        "resent": 2,
        "already_resending": 0,
        "unreadable": 1,
    }
    again = (await admin.client.post("/admin/retry-failed", content=b"")).json()
    assert (again["resent"], again["already_resending"]) == (0, 2)

    async def both_queued() -> bool:
        return len(await admin.lane()) == 2

    await wait_until(both_queued, 10, "both are in the lane")
    resends = await admin.lane()
    assert [each.submission for each in resends] == [one.job.submission, two.job.submission]
    assert [each.resend_of for each in resends] == [1, 2]
    assert (resends[0].attempt, resends[0].due, resends[0].content) == (1, 0.0, one.job.content)
    assert resends[0].recipients == one.job.recipients


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"sender": "b@from.example"}, "b"),
        ({"sender": "<>"}, "c"),
        ({"recipientDomain": "OTHER.example"}, "d"),
        ({"replyCode": "451"}, "e"),
        ({"replyCode": 451}, "e"),
        ({"replyCode": "4.7.1"}, "e"),
        ({"until": "2001-09-09T01:46:41Z"}, "f"),
        ({"since": "2001-09-09T01:46:39+00:00", "until": 1e9}, "f"),
        ({"since": "2001-09-09T01:46:41"}, "abcde"),
        ({"sender": "a@from.example", "replyCode": "550"}, "adf"),
        ({}, "abcdef"),
    ],
    ids=str,
)
async def test_a_filter_means_what_it_says_in_body_and_query(
    start: Start, asked: dict[str, Any], expected: str
) -> None:
    admin = await start(run=False)
    made = {
        "a": await admin.fail(job()),
        "b": await admin.fail(job(sender="b@from.example")),
        "c": await admin.fail(job(sender="")),
        "d": await admin.fail(job("r@Other.example")),
        "e": await admin.fail(job(reply=LATER, sender="e@from.example")),
        "f": await admin.fail(job(), failed_at=1e9),
    }
    by_id = {record.job.submission: name for name, record in made.items()}
    shown = await admin.client.get("/api/failed", params=asked)
    assert {by_id[each["id"]] for each in shown.json()["failed"]} == set(expected)
    body = (await admin.client.post("/admin/retry-failed", json=asked)).json()
    assert (body["matching"], body["resent"]) == (len(expected), len(expected))
    query = (await admin.client.post("/admin/retry-failed", params=asked)).json()
    assert (query["matching"], query["already_resending"]) == (len(expected), len(expected))


async def test_ids_name_a_submission_or_one_recipient_of_it(start: Start) -> None:
    admin = await start(run=False)
    first, other = queue_id(), queue_id()
    for number in range(3):
        await admin.fail(job(submission=first, recipients=(Recipient(number, f"r{number}@x"),)))
    await admin.fail(job(submission=other))
    post, failed = "/admin/retry-failed", admin.client
    assert (await failed.post(post, json={"id": f"{first}/1"})).json()["resent"] == 1
    assert (await failed.post(post, params={"id": [first, other]})).json()["resent"] == 3
    assert (await failed.post(post, json={"id": [queue_id()]})).json()["matching"] == 0


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"sendr": "x"}, "sendr: no such filter; there are id, sender, recipientDomain"),
        ({"id": "x"}, "id: 'x' is no queue id"),
        ({"id": []}, "id: must be a queue id or a list"),
        ({"id": [5]}, "id: must be a queue id or a list"),
        ({"replyCode": "250"}, "replyCode: '250' is no 4xx or 5xx code"),
        ({"replyCode": True}, "replyCode: must be a text"),
        ({"since": "yesterday"}, "since: 'yesterday' is no time such as"),
        ({"since": 1000000005, "until": "1000000004.5"}, "since: must not be later than until"),
        ({"sender": ""}, "sender: must be a text that is not empty"),
    ],
    ids=str,
)
async def test_a_filter_that_cannot_be_meant_is_refused_and_nothing_is_resent(
    start: Start, asked: dict[str, Any], words: str
) -> None:
    admin = await start(run=False)
    await admin.fail(job())
    answer = await admin.client.post("/admin/retry-failed", json=asked)
    assert answer.status_code == 422
    assert words in answer.json()["error"]
    assert (await admin.client.get("/admin/retry-failed")).json() == {"requests": []}


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b'"x"', b"\xff", b'{"sender": "\\ud800"}', b'{"\\ud800": 1}', b"[" * 200_000],
    ids=lambda body: body[:20].decode("latin-1"),
)
async def test_a_body_that_is_no_object_is_refused(start: Start, body: bytes) -> None:
    admin = await start(run=False)
    assert (await admin.client.post("/admin/retry-failed", content=body)).status_code == 400
    both = await admin.client.post("/admin/retry-failed?sender=a", json={"sender": "a"})
    assert "in the body and in the query" in both.json()["error"]
    large = await admin.client.post("/admin/retry-failed", content=b" " * 300_000)
    assert large.status_code == 413


async def test_progress_tells_what_became_of_each(start: Start) -> None:
    admin = await start()
    delivered, again, removed = [await admin.fail(job()) for _ in range(3)]
    await admin.client.post("/admin/retry-failed")

    async def all_queued() -> bool:
        return bool((await admin.progress())["queued"] == 3)

    await wait_until(all_queued, 10, "all are queued")
    await admin.settle(delivered)
    await admin.settle(again, replace(again, failed_at=time.time()))
    await admin.client.delete(f"/api/failed/{removed.job.submission}")

    async def ended() -> bool:
        found = await admin.progress()
        numbers = {key: found[key] for key in ("asked", "waiting", "queued", "gone")}
        assert numbers == {"asked": 3, "waiting": 0, "queued": 0, "gone": 1}
        return bool((found["delivered"], found["failed_again"]) == (1, 1))

    await wait_until(ended, 10, "each has its end")


async def test_resends_wait_until_the_lane_has_room(
    start: Start, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane_room, "MAX_IN_LANE", 3)
    admin = await start()
    records = [await admin.fail(job()) for _ in range(7)]
    assert (await admin.client.post("/admin/retry-failed")).json()["resent"] == 7

    async def three_queued() -> bool:
        found = await admin.progress()
        return bool((found["waiting"], found["queued"]) == (4, 3))

    await wait_until(three_queued, 10, "the lane is as full as it may be")
    await asyncio.sleep(0.5)  # several more turns
    assert len(await admin.lane()) == 3
    server = await connect(Role.ADMIN)
    for sequence in (1, 2, 3):  # as a sender acks them
        await server.api("STREAM.MSG.DELETE.mailrelay-lane", {"seq": sequence})

    async def three_more() -> bool:
        return {each.submission for each in await admin.lane()} == {
            each.job.submission for each in records[3:6]
        }

    await wait_until(three_more, 10, "the next ones follow, in order")


async def test_a_record_whose_resend_is_alive_from_before_is_not_resent_beside_it(
    start: Start,
) -> None:
    admin = await start(run=False)
    record = await admin.fail(job())
    subject = admin.sender.names.lane_subject(NOW, None)
    stored = await Publisher(admin.sender).store(Record(subject, b"x", ""))
    answer = await admin.sender.api("STREAM.MSG.GET.mailrelay-lane", {"seq": stored.sequence})
    at = answer["message"]["time"]
    mark = ResendMark("mailrelay-lane", stored.sequence, epoch_seconds(at))
    assert await admin.store.claim_resend(replace(record.job, resend_of=1), mark)
    asked = (await admin.client.post("/admin/retry-failed")).json()
    assert (asked["resent"], asked["already_resending"]) == (0, 1)
    # Its sender is gone and its record in the lane too: now it is nobody's.
    other = await admin.fail(job())
    dead = ResendMark("mailrelay-lane", 77, 1.0)
    assert await admin.store.claim_resend(replace(other.job, resend_of=3), dead)
    asked = (await admin.client.post("/admin/retry-failed")).json()
    assert (asked["resent"], asked["already_resending"]) == (1, 1)


async def test_what_expired_is_resent_once_an_interval_and_bounces_only_when_wanted(
    start: Start,
) -> None:
    admin = await start(run=False, resendIntervalSeconds=600)
    expired = await admin.fail(job(), disposition=Disposition.EXPIRED)
    await admin.fail(job())
    resender, follower = admin.parts.resender, admin.parts.follower
    assert await resender.ask_due(follower) is None
    admin.ahead = 601
    report = await resender.ask_due(follower)
    assert report is not None
    assert (report.matching, report.resent) == (1, 1)
    assert await resender.ask_due(follower) is None, "it is on its way"
    assert await resender._turn() == 1
    again = replace(expired, failed_at=time.time() + 601, disposition=Disposition.EXPIRED)
    await admin.settle(expired, again)
    assert await resender.ask_due(follower) is None, "it was tried just now"
    admin.ahead = 1300
    resender._options = Failed(resendIntervalSeconds=600, resendBounced=True)
    report = await resender.ask_due(follower)
    assert report is not None
    assert report.resent == 2


# --- Files ----------------------------------------------------------------------------------------


async def test_a_failure_is_a_private_file_with_everything_in_it(start: Start) -> None:
    admin = await start()
    content = (
        "From: Ada <a@from.example>\r\nSubject: Grüße\r\nMessage-ID: <1@x>\r\n\r\n"
        '..dot\r\n"quoted" \\ tab\t end\r\n'
    ).encode()
    record = await admin.fail(job(content=content, reply=LATER))
    found = await admin.wait_file(record)
    assert found["content"].encode() == content.replace(b"\r\n..dot", b"\r\n.dot")
    assert "contentBase64" not in found
    assert found["headers"]["Subject"] == "Grüße"
    assert found["headers"]["Message-ID"] == "<1@x>"
    assert (found["id"], found["recipient"]) == (record.job.submission, "r@to.example")
    assert (found["sender"], found["disposition"]) == ("a@from.example", "bounced")
    (one,) = found["tries"]
    assert (one["code"], one["enhancedCode"], one["text"]) == (451, "4.7.1", "not now")
    assert one["nextHop"] == "mx.to.example:25"
    assert stat.S_IMODE(admin.file(record).stat().st_mode) == 0o600
    assert stat.S_IMODE(admin.file(record).parent.stat().st_mode) == 0o700
    assert not list(admin.file(record).parent.glob(".*"))


async def test_content_that_is_no_utf8_is_base64_in_a_field_that_says_so(start: Start) -> None:
    admin = await start()
    content = b"Subject: x\r\n\r\n" + bytes(range(256)) * 2000 + b"\r\n..\r\n"
    found = await admin.wait_file(record := await admin.fail(job(content=content)))
    assert "content" not in found
    expected = content.replace(b"\r\n..", b"\r\n.")
    assert base64.b64decode(found["contentBase64"]) == expected
    cut = b"Subject: x\r\n\r\n\xc3"  # ends inside a character
    found = await admin.wait_file(await admin.fail(job(content=cut)))
    assert base64.b64decode(found["contentBase64"]) == cut
    assert record.job.submission


async def test_fifty_megabytes_are_filed_in_bounded_memory(start: Start, connect: Connect) -> None:
    ingress = await connect(Role.INGRESS)
    line = "zwölf Boxkämpfer jagen Viktor\r\n".encode()
    content = b"Subject: big\r\n\r\n" + line * (50 * 1024 * 1024 // len(line))
    submission = queue_id()
    body = await BodyStore(ingress, Publisher(ingress)).store_content(submission, content)
    size = len(content)
    admin = await start(run=False)
    record = await admin.fail(job(submission=submission, content=b"", body=body, size_bytes=size))
    del content
    await admin.parts.follower.catch_up()
    before = peak = psutil.Process().memory_info().rss
    filing = asyncio.create_task(admin.parts.files.turn())
    while not filing.done():
        peak = max(peak, psutil.Process().memory_info().rss)
        await asyncio.sleep(0.002)  # a sampling interval
    await filing
    assert (peak - before) / 1024**2 < 25
    found = json.loads(admin.file(record).read_bytes())
    assert len(found["content"].encode()) == size


async def test_the_file_follows_the_record_and_goes_with_its_tombstone(start: Start) -> None:
    admin = await start()
    record = await admin.fail(job())
    await admin.wait_file(record)
    latest = Try(2, time.time(), "mx2:25", LATER)
    recipient = record.recipient.tried(latest)
    again = replace(record, job=replace(record.job, recipients=(recipient,)), failed_at=9e8)
    await admin.settle(record, again)

    async def says_so() -> bool:
        return len((await admin.wait_file(record))["tries"]) == 2

    await wait_until(says_so, 10, "the file has both tries")
    await admin.settle(again)
    await admin.wait_gone(record)
    assert (await admin.client.get("/api/failed")).json() == {"matching": 0, "failed": []}


async def test_a_monitor_that_was_away_catches_up_and_a_lost_cursor_only_rewrites(
    start: Start,
) -> None:
    admin = await start(run=False)
    first, second = await admin.fail(job()), await admin.fail(job())
    await admin.parts.follower.catch_up()
    assert await admin.parts.files.turn() == 2
    await admin.settle(first)
    third = await admin.fail(job())
    for file in admin.parts.database.path.parent.glob("admin.sqlite3*"):
        file.unlink()
    later = await start()
    await later.wait_file(third)
    await later.wait_file(second)
    await later.wait_gone(first)
    shown = (await later.client.get("/api/failed")).json()
    assert shown["matching"] == 2


@pytest.mark.parametrize(
    ("size_bytes", "failed_at"), [(21, 1e20), (2**64 - 1, 1e9)], ids=["time", "number"]
)
async def test_a_record_that_no_calendar_or_database_takes_is_listed_as_unreadable(
    start: Start, size_bytes: int, failed_at: float
) -> None:
    admin = await start()
    odd = await admin.fail(job(size_bytes=size_bytes), failed_at=failed_at)
    other = await admin.fail(job())
    await admin.wait_file(other)
    listed = (await admin.client.get("/api/failed")).json()["failed"]
    assert [each["disposition"] for each in listed] == ["unreadable", "bounced"]
    assert listed[0]["id"] == odd.job.submission


async def test_a_record_whose_submission_is_a_path_writes_no_file_there(start: Start) -> None:
    admin = await start()
    odd = FailedRecord(job(submission=QueueId("../../elsewhere")), Disposition.BOUNCED, time.time())
    subject = admin.sender.names.failed_subject(queue_id(), 0)
    await Publisher(admin.sender).store(Record(subject, encode_failed(odd), ""))
    await admin.wait_file(await admin.fail(job()))
    assert not (admin.folder / "elsewhere-0.json").exists()


async def test_a_damaged_database_is_put_aside_and_made_anew(start: Start) -> None:
    admin = await start(run=False)
    record = await admin.fail(job())
    path = admin.parts.database.path
    path.write_bytes(b"this is no database, but long enough to look like a file" * 100)
    later = await start()
    await later.wait_file(record)
    assert path.with_name(path.name + ".damaged").exists()


async def test_a_database_that_is_damaged_inside_is_put_aside_too(start: Start) -> None:
    """SQLite has error codes of its own for damage within an index."""
    admin = await start(run=False)
    record = await admin.fail(job())
    await admin.parts.follower.catch_up()
    path = admin.parts.database.path
    _lose_from_index(path, "failed_sequence")
    later = await start()
    await later.settle(record)  # which changes the row, and so the index
    await wait_until(path.with_name(path.name + ".damaged").exists, 10, "it is put aside")
    await later.wait_file(await later.fail(job()))


def _lose_from_index(path: Path, name: str) -> None:
    """Have an index miss what its table holds."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA writable_schema = ON")
        entry = database.execute("SELECT * FROM sqlite_schema WHERE name = ?", (name,)).fetchone()
        database.execute("DELETE FROM sqlite_schema WHERE name = ?", (name,))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("UPDATE failed SET sequence = sequence + 1000")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA writable_schema = ON")
        database.execute("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", entry)


# --- Limits and removal ---------------------------------------------------------------------------


async def discarded(admin: Admin) -> list[Discarded]:
    records = await EventReader(admin.reader).read(0)
    return [each for record in records for each in record.events if isinstance(each, Discarded)]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"maxRecords": 2}, "maxRecords"),
        ({"maxBytes": 4000}, "maxBytes"),
        ({"maxAgeSeconds": 5000}, "maxAge"),
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
    assert (one.reason, one.summary.submission) == ("droppedByStream", dropped.job.submission)
    assert later.file(dropped).exists()
    assert later.file(kept).exists()
    assert (await later.client.get("/api/failed")).json()["matching"] == 1


async def test_a_deleted_failure_is_gone_with_its_file_and_its_content_may_go(
    start: Start,
) -> None:
    admin = await start()
    body = await _stored_body(admin, submission := queue_id())
    record = await admin.fail(job(submission=submission, content=b"", body=body))
    other = await admin.fail(job())
    await admin.wait_file(record)
    answer = await admin.client.delete(f"/api/failed/{submission}/0")
    assert answer.json() == {"deleted": 1}
    assert not admin.file(record).exists()
    assert admin.prompted == [submission]
    assert (await discarded(admin))[0].reason == "byHand"
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

    def note(database: Any) -> None:  # noqa: ANN401
        row = failed_index.get(database, record.job.submission, 0)
        assert row is not None
        failed_index.set_removing(database, row, "byHand")

    await admin.parts.database.run(note)  # and here it was killed, before or after the purge
    later = await start()
    await wait_until(lambda: not path.exists(), 10, "the file is gone")

    async def told() -> bool:
        return [each.reason for each in await discarded(later)] == ["byHand"]

    await wait_until(told, 10, "it is told as what it was")
    assert await later.store.last(record.job.submission, 0) is None


async def _stored_body(admin: Admin, submission: QueueId) -> Any:  # noqa: ANN401
    store = BodyStore(admin.sender, Publisher(admin.sender))
    return await store.store_content(submission, b"Subject: b\r\n\r\n" + b"x" * 600_000)


# --- Captured mail --------------------------------------------------------------------------------


async def captured(admin: Admin, made: Job | None = None) -> Job:
    made = made or job()
    subject = admin.sender.names.capture_subject(made.submission, made.batch, "hash")
    record = CaptureRecord(made, time.time())
    await Publisher(admin.sender).store(Record(subject, encode_capture(record), ""))
    return made


async def test_captured_mail_is_listed_shown_and_downloaded(start: Start) -> None:
    admin = await start(run=False)
    content = b"Subject: dots\r\n\r\n..one\r\n"
    one = await captured(admin, job(content=content))
    two = await captured(admin)
    listed = (await admin.client.get("/api/captured?limit=1")).json()
    assert listed["records"] == 2
    assert [each["id"] for each in listed["captured"]] == [one.submission]
    rest = (await admin.client.get(f"/api/captured?after={listed['after']}")).json()
    assert [each["id"] for each in rest["captured"]] == [two.submission]
    shown = (await admin.client.get(f"/api/captured/{one.submission}")).json()
    assert shown["captured"][0]["recipients"] == ["r@to.example"]
    answer = await admin.client.get(f"/api/messages/{one.submission}/content")
    assert answer.headers["content-type"] == "message/rfc822"
    assert answer.content == b"Subject: dots\r\n\r\n.one\r\n"
    for path in (
        f"/api/messages/{queue_id()}/content",
        "/api/captured/x",
        "/api/messages/x/content",
    ):
        assert (await admin.client.get(path)).status_code == 404


async def test_the_content_of_failed_mail_can_be_downloaded_from_its_body(start: Start) -> None:
    admin = await start(run=False)
    body = await _stored_body(admin, submission := queue_id())
    await admin.fail(job(submission=submission, content=b"", body=body))
    answer = await admin.client.get(f"/api/messages/{submission}/content")
    assert answer.content == b"Subject: b\r\n\r\n" + b"x" * 600_000


async def test_deleting_captured_mail_lets_its_content_go(start: Start) -> None:
    admin = await start(run=False)
    body = await _stored_body(admin, submission := queue_id())
    await captured(admin, job(submission=submission, content=b"", body=body))
    await captured(admin)
    answer = await admin.client.delete(f"/api/captured/{submission}")
    assert answer.json() == {"deleted": 1}
    assert admin.prompted == [submission]
    assert (await admin.client.delete(f"/api/captured/{submission}")).status_code == 404
    assert (await admin.client.delete("/api/captured")).status_code == 422
    assert (await admin.client.delete("/api/captured?all=true")).json() == {"deleted": 1}


async def test_a_release_without_an_upstream_says_what_to_set(start: Start) -> None:
    admin = await start(run=False)
    one = await captured(admin)
    answer = await admin.client.post("/admin/release", json={"ids": [one.submission]})
    assert answer.status_code == 409
    assert "set forwardSMTP and forwardHost" in answer.json()["error"]
    assert "nextHop" in answer.json()["error"]


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        ({}, 422, "say which"),
        ({"all": True, "ids": ["x"]}, 422, "say which"),
        ({"ids": ["x"]}, 422, "'x' is no queue id"),
        ({"ids": ["0" * 22]}, 404, "nothing is captured under"),
        ({"all": True, "nextHop": "mx:0"}, 422, "nextHop: 'mx:0' is no next hop"),
        ({"all": True, "next": "mx"}, 422, "next: no such key; there are ids, all, nextHop"),
        ({"all": True, "request": "a b"}, 422, "request: must be 1 to 64 of"),
        ({"all": "yes"}, 422, "all: must be true or false"),
    ],
    ids=str,
)
async def test_a_release_that_cannot_be_meant_is_refused(
    start: Start, asked: dict[str, Any], status: int, words: str
) -> None:
    admin = await start(run=False, forward=True)
    await captured(admin)
    answer = await admin.client.post("/admin/release", json=asked)
    assert answer.status_code == status
    assert words in answer.json()["error"]


async def test_each_release_is_a_job_and_the_captured_copy_stays(start: Start) -> None:
    admin = await start()
    one, two = await captured(admin), await captured(admin)
    asked: dict[str, Any]
    asked = {"ids": [one.submission], "nextHop": "mx.other.example:2525", "request": "first"}
    noted = (await admin.client.post("/admin/release", json=asked)).json()
    assert (noted["request"], noted["asked"]) == ("first", 1)
    assert (await admin.client.post("/admin/release", json=asked)).json()["request"] == "first"
    changed = {**asked, "nextHop": "mx.elsewhere.example"}
    assert (await admin.client.post("/admin/release", json=changed)).status_code == 409
    asked = {"all": True, "nextHop": "[::1]:26"}
    assert (await admin.client.post("/admin/release", json=asked)).json()["asked"] == 2

    async def finished() -> bool:
        requests = (await admin.client.get("/admin/release")).json()["requests"]
        return all(each["finished"] for each in requests)

    await wait_until(finished, 10, "both requests are carried out")
    jobs = await admin.lane()
    assert [(each.submission, each.release.next_hop) for each in jobs if each.release] == [
        (one.submission, "mx.other.example:2525"),
        (one.submission, "[::1]:26"),
        (two.submission, "[::1]:26"),
    ]
    assert len({each.release.id for each in jobs if each.release}) == 3
    assert (jobs[0].attempt, jobs[0].recipients) == (1, one.recipients)
    assert await admin.parts.captured.count() == 2


class _Turn(asyncio.Lock):
    """A lock that says when somebody wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted = asyncio.Event()

    async def acquire(self) -> Literal[True]:
        self.wanted.set()
        return await super().acquire()


async def test_captured_mail_deleted_before_its_release_is_queued_is_not_released(
    start: Start,
) -> None:
    turn = _Turn()
    admin = await start(forward=True, asking=turn)
    one = await captured(admin)
    await turn.acquire()  # as whoever asks whether its body is in use
    turn.wanted.clear()
    await admin.client.post("/admin/release", json={"ids": [one.submission], "request": "r"})
    await asyncio.wait_for(turn.wanted.wait(), 10)
    deleted = await admin.client.delete(f"/api/captured/{one.submission}")
    assert deleted.json() == {"deleted": 1}
    turn.release()

    async def finished() -> bool:
        requests = (await admin.client.get("/admin/release")).json()["requests"]
        return [each["finished"] for each in requests] == [True]

    await wait_until(finished, 10, "it is carried out")
    assert await admin.lane() == []


async def test_a_release_that_the_monitors_end_broke_off_goes_on_and_repeats_nothing(
    start: Start,
) -> None:
    admin = await start(run=False, forward=True)
    made = [await captured(admin) for _ in range(40)]
    await admin.client.post("/admin/release", json={"all": True, "request": "r"})
    running = asyncio.create_task(admin.parts.releaser.run())

    async def some_queued() -> bool:
        return len(await admin.lane()) >= 5

    await wait_until(some_queued, 10, "some are queued")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    late = await captured(admin)  # what comes after the request is not part of it
    later = await start(forward=True)

    async def finished() -> bool:
        requests = (await later.client.get("/admin/release")).json()["requests"]
        return [each["finished"] for each in requests] == [True]

    await wait_until(finished, 20, "it is carried out")
    released = [each.submission for each in await later.lane()]
    assert sorted(released) == sorted(each.submission for each in made)
    assert late.submission not in released


async def forget_ids_soon(admin: QueueConnection) -> None:
    """Make the lanes' duplicate window as short as the server takes it."""
    config = (await admin.api("STREAM.INFO.mailrelay-lane"))["config"]
    await admin.api("STREAM.UPDATE.mailrelay-lane", config | {"duplicate_window": 100_000_000})


async def test_a_release_of_a_message_with_many_jobs_goes_on_behind_those_that_it_queued(
    start: Start, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = await start(run=False, forward=True)
    await forget_ids_soon(await connect(Role.ADMIN))
    monkeypatch.setattr(lane_room, "MAX_IN_LANE", 5)
    submission, jobs = queue_id(), 12
    for batch in range(1, jobs + 1):
        await captured(admin, job(submission=submission, batch=batch, batches=jobs))
    await admin.client.post("/admin/release", json={"ids": [submission], "request": "r"})
    running = asyncio.create_task(admin.parts.releaser.run())

    async def some_noted() -> bool:
        (request,) = (await admin.client.get("/admin/release")).json()["requests"]
        return bool(request["queued"] == 5)

    await wait_until(some_noted, 10, "as many as there is room for are queued")
    running.cancel()  # as when the lanes are full: it begins again later
    await asyncio.gather(running, return_exceptions=True)
    monkeypatch.undo()
    probe = Record(admin.sender.names.lane_subject(NOW, None), encode_jobs([job()]), "probe")
    await Publisher(admin.sender).store(probe)

    async def forgotten() -> bool:
        return not (await Publisher(admin.sender).store(probe)).duplicate

    await wait_until(forgotten, 10, "the server has forgotten the names")
    later = await start(forward=True)

    async def finished() -> bool:
        requests = (await later.client.get("/admin/release")).json()["requests"]
        return [each["finished"] for each in requests] == [True]

    await wait_until(finished, 20, "it is carried out")
    released = [each.batch for each in await later.lane() if each.submission == submission]
    assert sorted(released) == list(range(1, jobs + 1))
