"""The walks of the protocol that every step is crossed with."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from mailrelay.mail.ids import new_queue_id
from mailrelay.mail.job import Body, Job, Recipient
from mailrelay.queue.errors import QueueError
from mailrelay.queue.names import Names
from mailrelay.queue.publish import Record
from mailrelay.queue.rights import Role
from mailrelay.queue.wire import encode_jobs
from mailrelay_monitor.retry import resend_record
from tests.crash.trip import SENDER, Trip
from tests.support import dots
from tests.support.wait import wait_until

GROUP = 32
_BIG = 5_000_000
_LARGE = 100_000  # above what is copied, below what is no longer inline


@dataclass(frozen=True, slots=True)
class Walk:
    """A way through the relay. `kind` says which relay it needs (`rig.KINDS`)."""

    name: str
    kind: str
    run: Callable[[Trip], Awaitable[None]]
    single_job: bool = False  # and no resend: one job after the other is open
    has_checkpoint: bool = False  # it waits for one; in others it comes by chance


async def _one(trip: Trip) -> None:
    await trip.submit("ok")


async def _three_jobs(trip: Trip) -> None:
    await trip.submit(*["ok"] * 45)


async def _half_deferred(trip: Trip) -> None:
    await trip.submit("ok", "later1", "ok", "later1")


async def _three_routes(trip: Trip) -> None:
    """A job that is divided by route, with content that none of the parts copies."""
    await trip.submit("ok", "later1@b.test", "ok@b.test", "ok@c.test", size=_LARGE)


async def _expired(trip: Trip) -> None:
    await trip.submit("never", "never")


async def _moved(trip: Trip) -> None:
    await trip.submit("later1")


async def _resent(trip: Trip) -> None:
    """Resent in vain, then by hand twice within 50 ms, while another recipient is deferred."""
    await trip.submit("fix", "gate")
    first = await trip.wait_failed(["fix"])
    await trip.resend_failed()
    await trip.wait_failed(["fix"], min_tries=2)
    # A resend of the first record comes late: it must be dropped untried.
    names = Names(trip.rig.relay.config.get("queue", {}).get("prefix", "mailrelay"))
    for record in first.failed:
        stale = resend_record(record, 1, names)
        await _store(trip, Role.MONITOR, replace(stale, message_id=f"{stale.message_id}/late"))
    trip.rig.opened.add("fix")
    await asyncio.gather(trip.resend_failed(), _later(0.03, trip.resend_failed))
    await trip.wait_no_failed("fix")
    trip.rig.opened.add("gate")


async def _later(seconds: float, then: Callable[[], Awaitable[None]]) -> None:
    await asyncio.sleep(seconds)  # the walk's own time between the two
    await then()


async def _big(trip: Trip) -> None:
    """One recipient is deferred for longer than it takes to ask whether the body may go."""
    await trip.submit(*["ok"] * 44, "later2", size=_BIG)


async def _large_copies(trip: Trip) -> None:
    await trip.submit(*["ok"] * 21, size=_LARGE)


async def _large_rest(trip: Trip) -> None:
    await trip.submit("ok", "later1", size=_LARGE)


async def _large_failed(trip: Trip) -> None:
    """The body stays as long as the failed record names it, and goes with it."""
    await trip.submit("ok", "fix", size=_LARGE)
    await trip.wait_failed(["fix"])
    trip.rig.opened.add("fix")
    await trip.resend_failed()
    await trip.wait_no_failed("fix")


async def _group(trip: Trip) -> None:
    """A record of 32 jobs, as an ingress that bundles would write it: one refused, one poison."""
    jobs = []
    for number in range(GROUP):
        kind = {3: "refuse", 20: "poison"}.get(number, "ok")
        written = trip.write([kind])
        queue_id = new_queue_id(time.time(), hash((trip.cell, number)) & (2**65 - 1))
        trip.accepted(written, queue_id)
        content = dots.stuff(written.content).removesuffix(b".\r\n")
        job = Job(
            submission=queue_id,
            batch=1,
            batches=1,
            total_recipients=1,
            accepted_at=time.time(),
            reverse_path=SENDER,
            recipients=(Recipient(0, written.recipients[0]),),
            size_bytes=len(content),
            content=content,
        )
        # No content comes of a body without chunks: an unexpected exception at each attempt.
        jobs.append(replace(job, content=b"", body=Body(0, 0, "")) if kind == "poison" else job)
    names = Names("mailrelay")
    record = Record(names.in_subject(None), encode_jobs(jobs), f"group-{trip.cell}")
    await _store(trip, Role.INGRESS, record)


async def _unreadable(trip: Trip) -> None:
    """A record that was written by hand and that nobody can read is kept, and other mail goes."""
    names = Names("mailrelay")
    record = Record(names.in_subject(None), b"\x01not a record", f"unreadable-{trip.cell}")
    await _store(trip, Role.INGRESS, record)
    trip.set_aside = 1
    await trip.submit("ok")


async def _captured(trip: Trip) -> None:
    await trip.submit("ok", "ok", "ok")


async def _released(trip: Trip) -> None:
    """Released to a next hop named by hand, and once more; one recipient is deferred there."""
    await trip.submit("ok", "later1")
    await trip.wait_captured()
    await trip.release_all(f"{trip.cell}.first")
    await trip.wait_taken()
    await trip.release_all(f"{trip.cell}.second")


async def _captured_deleted(trip: Trip) -> None:
    """With a body of its own, which goes with it."""
    written = await trip.submit("ok", size=1_500_000)
    await trip.wait_captured()
    await trip.delete_captured(written)


async def _failed_deleted(trip: Trip) -> None:
    written = await trip.submit("ok", "refuse", size=_LARGE)
    await trip.wait_failed(["refuse"])
    # A job that is open at a kill is tried again, and its failure is stored where nothing is.
    await trip.wait_idle()
    await trip.delete_failed(written)


async def _limited(trip: Trip) -> None:
    """Counted, and what was counted and not used is given back, by who lives."""
    await trip.submit("ok")
    await trip.withdraw()
    arming = trip.rig.arming

    def is_returned() -> bool:
        if arming.killed_at(trip.cell) is not None:
            return True  # the tokens of an ingress that died may be lost
        return any(each.step == "limits.returned" for each in arming.passes(trip.cell))

    await wait_until(is_returned, 30, "the unused tokens are given back", interval=0.1)


async def _checkpointed(trip: Trip) -> None:
    """The totals are stored at NATS, every ten seconds when they changed."""

    async def stored() -> int:
        admin = await trip.rig.connection(Role.ADMIN)
        info = await admin.api(f"STREAM.INFO.{admin.names.checkpoint_stream}")
        return int(info["state"]["last_seq"])

    before = await stored()
    await trip.submit("ok")

    async def is_stored() -> bool:
        with contextlib.suppress(QueueError, AssertionError, OSError):
            return await stored() > before
        return False

    await wait_until(is_stored, 40, "a checkpoint is stored", interval=0.1)


async def _store(trip: Trip, role: Role, record: Record) -> None:
    """Store a record with a role's rights, whatever is killed meanwhile."""

    async def is_stored() -> bool:
        with contextlib.suppress(QueueError, AssertionError, OSError):
            await trip.rig.store(role, record)
            return True
        return False

    await wait_until(is_stored, 30, "the record is stored")


WALKS = (
    Walk("one recipient", "forward", _one, single_job=True),
    Walk("45 recipients, 3 jobs", "forward", _three_jobs),
    Walk("half deferred, then sent", "forward", _half_deferred, single_job=True),
    Walk("deferred twice, expired", "expire", _expired, single_job=True),
    Walk("moved down the lanes", "slow", _moved, single_job=True),
    Walk("failed, resent twice", "forward", _resent),
    Walk("5 MB to 45", "forward", _big),
    Walk("100 KB to 21", "forward", _large_copies),
    Walk("100 KB, half deferred", "forward", _large_rest, single_job=True),
    Walk("100 KB, failed, resent", "forward", _large_failed),
    Walk("100 KB by three routes", "routes", _three_routes),
    Walk("group of 32", "forward", _group),
    Walk("unreadable record", "forward", _unreadable),
    Walk("captured", "capture", _captured),
    Walk("captured, released twice", "capture", _released),
    Walk("captured, deleted", "capture", _captured_deleted),
    Walk("failed, deleted", "forward", _failed_deleted),
    Walk("counted by rate limits", "limited", _limited, single_job=True),
    Walk("checkpoint", "forward", _checkpointed, single_job=True, has_checkpoint=True),
)
