"""The content of failed mail is on disk once a submission, and only while there is room."""

from __future__ import annotations

import base64
import json
import stat
from dataclasses import replace

import pytest
from structlog.testing import LogCapture

from mailrelay.mail.ids import QueueId
from mailrelay.mail.job import FailedRecord
from mailrelay_monitor import failed_content
from tests.monitor.admin_rig import Admin, Start, job, stored_body
from tests.monitor.story import queue_id
from tests.support.wait import wait_until

CONTENT = b"Subject: b\r\n\r\n" + b"x" * 600_000  # as stored_body stores it
MORE_THAN_ANY_DISK_HAS = 2**62


async def fail_all(admin: Admin, submission: QueueId, recipients: int) -> list[FailedRecord]:
    """Have each recipient of a message with large content fail."""
    body = await stored_body(admin, submission)
    made = job(
        submission=submission,
        content=b"",
        body=body,
        size_bytes=body.size_bytes,
        total_recipients=recipients,
    )
    (first,) = made.recipients
    return [
        await admin.fail(replace(made, recipients=(replace(first, number=number),)))
        for number in range(recipients)
    ]


async def test_large_content_lies_once_beside_the_files_of_all_its_recipients(
    start: Start,
) -> None:
    admin = await start()
    records = await fail_all(admin, submission := queue_id(), 20)
    for record in records:
        found = await admin.wait_file(record)
        assert found["content_file"] == f"{submission}.eml"
        assert found["headers"] == {"Subject": "b"}
        assert not {"content", "content_base64", "content_left_out"} & set(found)
    folder = admin.file(records[0]).parent
    assert (folder / f"{submission}.eml").read_bytes() == CONTENT
    assert stat.S_IMODE((folder / f"{submission}.eml").stat().st_mode) == 0o600
    assert sum(each.stat().st_size for each in folder.iterdir()) < len(CONTENT) + 20 * 4096
    assert len(list(folder.iterdir())) == 21


async def test_large_content_goes_with_the_last_file_that_names_it(start: Start) -> None:
    admin = await start()
    *others, last = await fail_all(admin, submission := queue_id(), 3)
    for record in (*others, last):
        await admin.wait_file(record)
    content = admin.file(last).with_name(f"{submission}.eml")
    await admin.client.delete(f"/api/failed/{submission}/0")
    await admin.settle(others[1])
    await admin.wait_gone(others[1])
    assert content.exists()
    await admin.settle(last)
    await wait_until(lambda: not content.exists(), 10, "the content is gone")
    assert list(content.parent.iterdir()) == []


async def test_content_that_no_file_names_goes_when_the_monitor_starts(start: Start) -> None:
    admin = await start(run=False)
    (record,) = await fail_all(admin, submission := queue_id(), 1)
    await admin.parts.follower.catch_up()
    await admin.parts.files.turn()
    folder = admin.file(record).parent
    orphan = folder / f"{queue_id()}.eml"
    orphan.write_bytes(b"its last file was removed, and then the monitor was killed")
    await start()
    await wait_until(lambda: not orphan.exists(), 10, "it is gone")
    assert (folder / f"{submission}.eml").read_bytes() == CONTENT


async def test_content_is_left_out_while_the_disk_is_nearly_full_and_follows_when_there_is_room(
    start: Start, lines: LogCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = await start(run=False)
    records = await fail_all(admin, queue_id(), 2)
    records.append(await admin.fail(job(content=b"Subject: small\r\n\r\n\xff\r\n")))
    small = records[-1]
    monkeypatch.setattr(failed_content, "FREE_FLOOR_BYTES", MORE_THAN_ANY_DISK_HAS)
    await admin.parts.follower.catch_up()
    await admin.parts.files.turn()
    for record in records:
        found = await admin.wait_file(record)
        assert "the queue has it" in found["content_left_out"]
        assert not {"content", "content_base64", "content_file"} & set(found)
        assert found["headers"]["Subject"] in {"b", "small"}
    assert not list(admin.file(small).parent.glob("*.eml"))
    logged = [each for each in lines.entries if each["event"] == "failed_files.content_left_out"]
    assert len(logged) == 1, "it is told, and not once a file"

    lacking = "mailrelay_failed_files_without_content"
    assert admin.registry.get_sample_value(lacking) == 3
    await admin.settle(
        small, replace(small, failed_at=small.failed_at + 1)
    )  # claimed, failed again
    await admin.parts.follower.catch_up()
    await admin.parts.files.turn()
    await admin.parts.files.look_for_room()
    assert await admin.parts.files.turn() == 0, "there is no room yet, and nothing is written anew"

    monkeypatch.undo()
    await admin.parts.files.look_for_room()
    assert await admin.parts.files.turn() == 3
    assert admin.registry.get_sample_value(lacking) == 0
    for record in records[:2]:
        found = json.loads(admin.file(record).read_bytes())
        assert admin.file(record).with_name(found["content_file"]).read_bytes() == CONTENT
        assert "content_left_out" not in found
    found = json.loads(admin.file(small).read_bytes())
    assert base64.b64decode(found["content_base64"]) == small.job.content
