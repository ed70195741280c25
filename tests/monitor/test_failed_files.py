"""Each failed recipient is a file for people, for as long as its record is there."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import stat
import time
from dataclasses import replace

import psutil
import pytest

from mailrelay.mail.disposition import Disposition
from mailrelay.mail.ids import QueueId
from mailrelay.mail.job import FailedRecord, Release, Try
from mailrelay.queue.bodies import BodyStore
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.rights import Role
from mailrelay.queue.wire import encode_failed
from tests.monitor.admin_rig import LATER, Start, captured, job
from tests.monitor.conftest import Connect
from tests.monitor.story import queue_id
from tests.support.wait import wait_until


async def test_a_failure_is_a_private_file_with_everything_in_it(start: Start) -> None:
    admin = await start()
    content = (
        "From: Ada <a@from.example>\r\nSubject: Grüße\r\nMessage-ID: <1@x>\r\n\r\n"
        '..dot\r\n"quoted" \\ tab\t end\r\n'
    ).encode()
    record = await admin.fail(job(content=content, reply=LATER))
    found = await admin.wait_file(record)
    assert found["content"].encode() == content.replace(b"\r\n..dot", b"\r\n.dot")
    assert "content_base64" not in found
    assert found["headers"]["Subject"] == "Grüße"
    assert found["headers"]["Message-ID"] == "<1@x>"
    assert (found["id"], found["recipient"]) == (record.job.submission, "r@to.example")
    assert (found["sender"], found["disposition"]) == ("a@from.example", "bounced")
    (one,) = found["tries"]
    assert (one["code"], one["enhanced_code"], one["text"]) == (451, "4.7.1", "not now")
    assert one["next_hop"] == "mx.to.example:25"
    assert stat.S_IMODE(admin.file(record).stat().st_mode) == 0o600
    assert stat.S_IMODE(admin.file(record).parent.stat().st_mode) == 0o700
    assert not list(admin.file(record).parent.glob(".*"))


async def test_content_that_is_no_utf8_is_base64_in_a_field_that_says_so(start: Start) -> None:
    admin = await start()
    content = b"Subject: x\r\n\r\n" + bytes(range(256)) * 200 + b"\r\n..\r\n"
    found = await admin.wait_file(record := await admin.fail(job(content=content)))
    assert "content" not in found
    expected = content.replace(b"\r\n..", b"\r\n.")
    assert base64.b64decode(found["content_base64"]) == expected
    cut = b"Subject: x\r\n\r\n\xc3"  # ends inside a character
    found = await admin.wait_file(await admin.fail(job(content=cut)))
    assert base64.b64decode(found["content_base64"]) == cut
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
    assert admin.file(record).with_name(found["content_file"]).stat().st_size == size


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


def _keys(of: object) -> set[str]:
    """Return every key of a JSON value, but for the names of a message's header fields."""
    if isinstance(of, list):
        return set[str]().union(*(_keys(each) for each in of))
    if not isinstance(of, dict):
        return set()
    return set(of).union(*(_keys(value) for key, value in of.items() if key != "headers"))


async def test_keys_of_files_and_answers_are_small_letters_with_underscores(start: Start) -> None:
    admin = await start(forward=True)
    record = await admin.fail(job(content=b"Subject: x\r\n\r\n\xff\r\n"))
    release = replace(job(), release=Release("r", time.time(), "mx.other.example:25"))
    files = [await admin.wait_file(each) for each in (record, await admin.fail(release))]
    one = await captured(admin)
    asked = {"ids": [one.submission], "next_hop": "mx.other.example:25"}
    answers = [
        await admin.client.post("/admin/retry-failed", json={"reply_code": "550"}),
        await admin.client.post("/admin/release", json=asked),
    ]
    paths = (
        "/admin/retry-failed",
        "/admin/release",
        "/api/failed?limit=1",
        f"/api/failed/{record.job.submission}",
        "/api/captured?limit=1",
        f"/api/captured/{one.submission}",
    )
    answers += [await admin.client.get(path) for path in paths]
    assert [each.status_code for each in answers] == [200] * len(answers)
    keys = _keys(files) | _keys([each.json() for each in answers])
    assert {"content_base64", "released_to", "next_hop", "captured_at"} <= keys
    assert [key for key in sorted(keys) if not re.fullmatch(r"[a-z][a-z0-9_]*", key)] == []
