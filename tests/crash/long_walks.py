"""Walks that are too slow to be crossed with every step: each kind of process dies once in each.

They last until something is full, an hour has passed, or ten thousand are delivered; the steps that
they pass are those of the other walks.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from mailrelay.mail.ids import new_queue_id
from mailrelay.mail.job import Job, Recipient
from mailrelay.queue.lanes import lane_for
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.rights import Role
from mailrelay.queue.wire import encode_jobs
from tests.crash.cells import open_at, revived
from tests.crash.rig import QUICK, Rig
from tests.crash.trip import SENDER, Findings, Letter, Trip
from tests.support import dots
from tests.support.ledger import Outcome
from tests.support.wait import wait_until

VICTIMS = ("ingress", "sender", "monitor", "nats", "supervisor")
DEFERRED = 10_000
_HOUR = 3700.0  # and what the sweep wants on top
_AT_ONCE = 64
_numbers = itertools.count(1)

Kill = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class LongResult:
    """What a walk with one victim came to."""

    walk: str
    victim: str
    findings: Findings
    unexplained: tuple[str, ...]
    seconds: float

    @property
    def is_good(self) -> bool:
        """Whether every promise was kept."""
        found = self.findings
        return not (found.lost or found.strange or found.left or self.unexplained)

    def __str__(self) -> str:
        found = self.findings
        return (
            f"{self.walk} | {self.victim} killed | lost {len(found.lost)}, duplicated "
            f"{len(found.duplicated)}, without excuse {len(self.unexplained)}, left "
            f"{len(found.left)} | {self.seconds:.1f} s"
            + "".join(
                f"\n  {line}"
                for line in (*found.lost, *found.strange, *found.left, *self.unexplained)[:30]
            )
        )


async def run_long(
    rig: Rig, name: str, walk: Callable[[Trip, Kill, str], Awaitable[None]], victim: str
) -> LongResult:
    """Take the walk, in which the victim dies once; judge what it came to."""
    trip = Trip(rig, f"w{next(_numbers)}")
    started = time.monotonic()
    killed_at: list[float] = []

    async def kill() -> None:
        killed_at.append(await rig.kill(victim))

    async with revived(rig):
        await rig.wait_whole()
        await trip.begin()
        rig.arming.record(trip.cell)
        await walk(trip, kill, victim)
        findings = await trip.finish(180)
        await rig.wait_whole()
    rig.arming.disarm()
    assert killed_at, "the walk killed nobody"
    unexplained = tuple(
        f"{recipient} taken {times} times"
        for recipient, times in findings.duplicated.items()
        if times > 2 or not open_at(trip, recipient, victim, killed_at[0])
    )
    return LongResult(name, victim, findings, unexplained, time.monotonic() - started)


async def lanes_full(trip: Trip, kill: Kill, _: str) -> None:
    """The upstream is away until the lanes and then the new mail are full; then it is back."""
    while await trip.submit_once("gate", size=58_000) is Outcome.ACCEPTED:
        pass
    assert len(trip.ledger.accepted) > 50
    await kill()
    await trip.rig.wait_restarted()
    trip.rig.opened.add("gate")


async def monitor_away(trip: Trip, kill: Kill, victim: str) -> None:
    """The monitor hangs while mail flows, and comes back an hour later."""
    rig = trip.rig
    rig.freeze("monitor")
    await trip.submit("ok", "later1", "refuse")
    await trip.submit(*["ok"] * 3, size=5_000_000)
    await trip.submit("ok", "later1", size=100_000)
    await kill()
    await trip.submit("ok", "later1", size=1_500_000)
    await trip.wait_idle()
    if victim != "monitor":
        await rig.wait_replaced()
    await rig.shift_clock("monitor", _HOUR)

    async def is_swept() -> bool:
        return not (await rig.state()).bodies

    await wait_until(is_swept, 60, "the monitor's sweep has deleted the bodies", interval=0.2)
    await rig.shift_clock("monitor", 0)


async def server_empty(trip: Trip, kill: Kill, _: str) -> None:
    """nats-server comes back without its data while jobs are claimed; new mail must be safe."""
    rig = trip.rig
    for kind in ("slow", "slow", "gate", "gate", "gate"):
        await trip.submit(kind)
    await wait_until(lambda: len(rig.tried) >= 5, 20, "all of it is tried")
    await rig.wipe_server()
    trip.give_up()
    for number in range(12):
        await trip.submit("ok", "later1")
        if number == 5:
            await kill()
    rig.opened.add("gate")
    await wait_until(lambda: not rig.upstream.in_flight, 30, "the late answers are given")


async def schedule_changed(trip: Trip, kill: Kill, _: str) -> None:
    """Ten thousand are deferred, the schedule is changed to hours, and each is tried when due."""
    rig = trip.rig
    await _store_deferred(trip)
    assert await rig.relay.stop() == 0
    rig.relay.config["retry"] = QUICK | {
        "initialIntervalSeconds": 7200,
        "maxIntervalSeconds": 7200,
        "maxAgeSeconds": 86400,
    }
    await rig.relay.start()
    await wait_until(lambda: rig.upstream.received_count >= 1000, 120, "a tenth is delivered")
    await kill()


async def _store_deferred(trip: Trip) -> None:
    """Write the jobs as a sender does that has deferred them under the old schedule."""
    sender = await trip.rig.connection(Role.SENDER)
    publisher, names, now = Publisher(sender), sender.names, time.time()

    def record(written: Letter, number: int) -> Record:
        trip.accepted(written)
        content = dots.stuff(written.content).removesuffix(b".\r\n")
        due = now + 10 + 15 * number / DEFERRED
        job = Job(
            submission=new_queue_id(now, int.from_bytes(os.urandom(8))),
            batch=1,
            batches=1,
            total_recipients=1,
            accepted_at=now,
            reverse_path=SENDER,
            recipients=(Recipient(0, written.recipients[0]),),
            size_bytes=len(content),
            content=content,
            attempt=2,
            due=due,
        )
        lane = lane_for(due - time.time())
        name = f"{job.name}/1/deferred/{trip.cell}"
        return Record(names.lane_subject(lane, None), encode_jobs([job]), name)

    for start in range(0, DEFERRED, _AT_ONCE):
        numbers: Sequence[int] = range(start, min(start + _AT_ONCE, DEFERRED))
        records = [record(trip.write(["ok"], 300), number) for number in numbers]
        await asyncio.gather(*(publisher.store(each) for each in records))


LONG_WALKS: dict[str, tuple[str, Callable[[Trip, Kill, str], Awaitable[None]]]] = {
    "lanes full, upstream back": ("small", lanes_full),
    "monitor away for an hour": ("forward", monitor_away),
    "server restarted empty": ("forward", server_empty),
    "schedule changed with 10,000 deferred": ("forward", schedule_changed),
}
