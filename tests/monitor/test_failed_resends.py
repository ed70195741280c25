"""Failed mail is sent again: what is asked for, by whom, and what became of it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from mailrelay.config.model import Failed
from mailrelay.mail.disposition import Disposition
from mailrelay.mail.job import Recipient, ResendMark
from mailrelay.queue.events import epoch_seconds
from mailrelay.queue.lanes import NOW
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.rights import Role
from mailrelay_monitor import lane_room
from tests.monitor.admin_rig import LATER, Start, job
from tests.monitor.conftest import Connect
from tests.monitor.story import queue_id
from tests.support.wait import wait_until


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
    # They are queued side by side.
    resends = sorted(await admin.lane(), key=lambda each: each.resend_of or 0)
    assert [each.submission for each in resends] == [one.job.submission, two.job.submission]
    assert [each.resend_of for each in resends] == [1, 2]
    assert (resends[0].attempt, resends[0].due, resends[0].content) == (1, 0.0, one.job.content)
    assert resends[0].recipients == one.job.recipients


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"sender": "b@from.example"}, "b"),
        ({"sender": "<>"}, "c"),
        ({"recipient_domain": "OTHER.example"}, "d"),
        ({"reply_code": "451"}, "e"),
        ({"reply_code": 451}, "e"),
        ({"reply_code": "4.7.1"}, "e"),
        ({"until": "2001-09-09T01:46:41Z"}, "f"),
        ({"since": "2001-09-09T01:46:39+00:00", "until": 1e9}, "f"),
        ({"since": "2001-09-09T01:46:41"}, "abcde"),
        ({"sender": "a@from.example", "reply_code": "550"}, "adf"),
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
        ({"sendr": "x"}, "sendr: no such filter; there are id, sender, recipient_domain"),
        ({"id": "x"}, "id: 'x' is no queue id"),
        ({"id": []}, "id: must be a queue id or a list"),
        ({"id": [5]}, "id: must be a queue id or a list"),
        ({"reply_code": "250"}, "reply_code: '250' is no 4xx or 5xx code"),
        ({"reply_code": True}, "reply_code: must be a text"),
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
