"""Captured mail as people ask for it over HTTP."""

from __future__ import annotations

from tests.monitor.admin_rig import Start, captured, job, stored_body
from tests.monitor.story import queue_id


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
    body = await stored_body(admin, submission := queue_id())
    await admin.fail(job(submission=submission, content=b"", body=body))
    answer = await admin.client.get(f"/api/messages/{submission}/content")
    assert answer.content == b"Subject: b\r\n\r\n" + b"x" * 600_000


async def test_deleting_captured_mail_lets_its_content_go(start: Start) -> None:
    admin = await start(run=False)
    body = await stored_body(admin, submission := queue_id())
    await captured(admin, job(submission=submission, content=b"", body=body))
    await captured(admin)
    answer = await admin.client.delete(f"/api/captured/{submission}")
    assert answer.json() == {"deleted": 1}
    assert admin.prompted == [submission]
    assert (await admin.client.delete(f"/api/captured/{submission}")).status_code == 404
    assert (await admin.client.delete("/api/captured")).status_code == 422
    assert (await admin.client.delete("/api/captured?all=true")).json() == {"deleted": 1}
