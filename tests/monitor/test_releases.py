"""Captured mail is released: each record once, whatever ends meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Literal

import pytest

from mailrelay.queue.captured import StoredCapture
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.lanes import NOW
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.rights import Role
from mailrelay.queue.wire import encode_jobs
from mailrelay_monitor import lane_room
from tests.monitor.admin_rig import Start, captured, job
from tests.monitor.conftest import Background, Connect
from tests.monitor.story import queue_id
from tests.support.wait import wait_until


async def test_a_release_without_an_upstream_says_what_to_set(start: Start) -> None:
    admin = await start(run=False)
    one = await captured(admin)
    answer = await admin.client.post("/admin/release", json={"ids": [one.submission]})
    assert answer.status_code == 409
    assert "set forwardSMTP and forwardHost" in answer.json()["error"]
    assert "next_hop" in answer.json()["error"]


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        ({}, 422, "say which"),
        ({"all": True, "ids": ["x"]}, 422, "say which"),
        ({"ids": ["x"]}, 422, "'x' is no queue id"),
        ({"ids": ["0" * 22]}, 404, "nothing is captured under"),
        ({"all": True, "next_hop": "mx:0"}, 422, "next_hop: 'mx:0' is no next hop"),
        ({"all": True, "next": "mx"}, 422, "next: no such key; there are ids, all, next_hop"),
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
    asked = {"ids": [one.submission], "next_hop": "mx.other.example:2525", "request": "first"}
    noted = (await admin.client.post("/admin/release", json=asked)).json()
    assert (noted["request"], noted["asked"]) == ("first", 1)
    assert (await admin.client.post("/admin/release", json=asked)).json()["request"] == "first"
    changed = {**asked, "next_hop": "mx.elsewhere.example"}
    assert (await admin.client.post("/admin/release", json=changed)).status_code == 409
    asked = {"all": True, "next_hop": "[::1]:26"}
    assert (await admin.client.post("/admin/release", json=asked)).json()["asked"] == 2

    async def finished() -> bool:
        requests = (await admin.client.get("/admin/release")).json()["requests"]
        return all(each["finished"] for each in requests)

    await wait_until(finished, 10, "both requests are carried out")
    jobs = await admin.lane()  # those of one request are queued side by side
    assert Counter((each.submission, each.release.next_hop) for each in jobs if each.release) == {
        (one.submission, "mx.other.example:2525"): 1,
        (one.submission, "[::1]:26"): 1,
        (two.submission, "[::1]:26"): 1,
    }
    assert len({each.release.id for each in jobs if each.release}) == 3
    of_one = next(each for each in jobs if each.submission == one.submission)
    assert (of_one.attempt, of_one.recipients) == (1, one.recipients)
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


async def test_a_release_is_not_finished_by_a_replica_that_lags_behind(
    start: Start, monkeypatch: pytest.MonkeyPatch, background: Background
) -> None:
    admin = await start(run=False, forward=True)
    made = [await captured(admin) for _ in range(5)]
    store = admin.parts.captured
    read = store.read

    async def read_behind(after: int, *rest: Any, **named: Any) -> list[StoredCapture]:  # noqa: ANN401
        """Read from a server that has only the first two records yet."""
        return [each for each in await read(after, *rest, **named) if each.sequence <= 2]

    monkeypatch.setattr(store, "read", read_behind)
    some = [each.submission for each in made[1:]]
    for asked in ({"all": True}, {"ids": some}):
        await admin.client.post("/admin/release", json=asked)
    background(admin.parts.releaser.run())

    async def finished() -> bool:
        requests = (await admin.client.get("/admin/release")).json()["requests"]
        return all(each["finished"] for each in requests)

    await wait_until(finished, 20, "both requests are carried out")
    released = [each.submission for each in await admin.lane()]
    assert sorted(released) == sorted([*some, *(each.submission for each in made)])
