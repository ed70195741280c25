"""A job that is divided by route: its parts take its place, each stored once."""

from __future__ import annotations

import base64
import contextlib
import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from mailrelay.mail.job import Job, Recipient
from mailrelay.queue.bodies import BodyStore
from mailrelay.queue.errors import QueueFullError
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.rights import Role
from mailrelay.queue.wire import decode_jobs, encode_jobs
from mailrelay_sender.remains import Division
from tests.sender.settling import Rig, rig
from tests.support.nats import LIMITS, limits
from tests.support.wait import wait_until


def parts_of(job: Job, count: int) -> list[Job]:
    return [
        replace(job, recipients=(Recipient(number, f"r{number}@route{number}.test"),))
        for number in range(count)
    ]


async def in_lanes(made: Rig) -> list[Job]:
    async with made.server.connected(Role.ADMIN, made.log) as admin:
        stream = admin.names.lane_stream
        state = (await admin.api(f"STREAM.INFO.{stream}"))["state"]
        found = []
        for sequence in range(max(1, state["first_seq"]), state["last_seq"] + 1):
            answer = await admin.api(f"STREAM.MSG.GET.{stream}", {"seq": sequence})
            found += decode_jobs(base64.b64decode(answer["message"]["data"]))
        return found


async def test_the_parts_of_a_job_share_one_body_and_take_its_place(tmp_path: Path) -> None:
    async with rig(tmp_path, LIMITS) as made:
        parts = parts_of(made.job, 3)
        division = Division.of(parts, of=made.job)
        await made.settler.divide(await made.claim(), division)
        stored = await in_lanes(made)
        assert [job.recipients for job in stored] == [part.recipients for part in parts]
        assert {job.content for job in stored} == {b""}
        [body] = {job.body for job in stored}
        assert body is not None
        bodies = BodyStore(made.sender, Publisher(made.sender))
        pieces = [piece async for piece in bodies.pieces(stored[0])]
        assert b"".join(pieces) == made.job.content
        async with made.server.connected(Role.ADMIN, made.log) as admin:
            info = await admin.api(f"STREAM.INFO.{admin.names.in_stream()}")
            assert info["state"]["messages"] == 0


async def test_a_division_whose_record_another_sender_settled_stores_nothing(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path, LIMITS) as made:
        claim = await made.claim()
        await made.server.purge(made.log, made.sender.names.in_stream())
        await made.settler.divide(claim, Division.of(parts_of(made.job, 2), of=made.job))
        assert await in_lanes(made) == []


async def test_a_lane_that_is_full_in_the_middle_keeps_what_is_stored_out_of_the_next_try(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path, limits(store_bytes=8_000_000)) as made:
        small = replace(made.job, content=b"x" * 50_000, size_bytes=50_000)  # copied into each
        parts = parts_of(small, 2)
        octets = len(encode_jobs([parts[0]]))
        publisher = Publisher(made.sender)
        room: int | None = None
        for size in (900_000, octets + 500, 100):
            with contextlib.suppress(QueueFullError):
                for number in itertools.count():
                    filler = Record("mailrelay.lane.4h.-", b"x" * size, f"filler/{size}/{number}")
                    await publisher.store(filler)
                    if size == octets + 500 and room is None:
                        room = await last_sequence(made)
        assert room is not None
        claim = await made.claim()
        division = Division.of(parts, of=small)
        with pytest.raises(QueueFullError):
            await made.settler.divide(claim, division)
        assert len(division.left) == 2
        async with made.server.connected(Role.ADMIN, made.log) as admin:
            lane = admin.names.lane_stream
            await admin.api(f"STREAM.MSG.DELETE.{lane}", {"seq": room})
        with pytest.raises(QueueFullError):
            await made.settler.divide(claim, division)
        assert division.is_begun
        assert [part.recipients for part, _ in division.left] == [parts[1].recipients]
        await made.server.purge(made.log, lane)
        await made.settler.divide(claim, division)
        assert [job.recipients for job in await in_lanes(made)] == [parts[1].recipients]

        async def is_acked() -> bool:
            info = await made.monitor.api(f"STREAM.INFO.{made.sender.names.in_stream()}")
            return bool(info["state"]["messages"] == 0)

        await wait_until(is_acked, 20, "the record is acked")


async def last_sequence(made: Rig) -> int:
    info = await made.monitor.api(f"STREAM.INFO.{made.sender.names.lane_stream}")
    return int(info["state"]["last_seq"])
