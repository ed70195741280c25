"""One cell of the table: a walk with one kill, and the verdict on it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tests.crash.arming import Point
from tests.crash.rig import Rig
from tests.crash.trip import Findings, Trip
from tests.crash.walks import Walk

WALK_SECONDS = 150.0
# Whose death may repeat a delivery (docs/decisions/0004).
REPEATING = ("sender", "nats", "supervisor")
_SHOWN_LINES = 40
_SHOWN_CHARACTERS = 500
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Result:
    """What a cell came to."""

    walk: Walk
    point: Point | None  # None: nobody was to be killed
    reached: bool
    findings: Findings
    unexplained: tuple[str, ...]  # duplicates that the promise does not excuse
    counts: Counter[tuple[str, str]]
    seconds: float
    error: str = ""
    evidence: tuple[str, ...] = field(default=(), repr=False)

    @property
    def is_good(self) -> bool:
        """Whether every promise was kept."""
        found = self.findings
        return not (
            found.lost or found.strange or found.left or self.unexplained or self.error
        ) and (self.reached or self.point is None)

    def __str__(self) -> str:
        found = self.findings
        rows = {
            "error": [self.error] if self.error else [],
            "lost": found.lost,
            "duplicated without excuse": self.unexplained,
            "strange": found.strange,
            "left": found.left,
            "evidence": self.evidence,
        }
        lines = [f"{self.walk.name} | {self.point} | {self.seconds:.1f} s"]
        if self.point is not None and not self.reached:
            lines.append("  the step was not passed so often")
        for what, each in rows.items():
            lines += [f"  {what}: {row}" for row in each]
        return "\n".join(lines)


async def run_cell(rig: Rig, walk: Walk, point: Point | None) -> Result:
    """Run a walk with a kill at the point, and judge it; without a point nobody is killed."""
    cell = f"c{next(_numbers)}"
    started = time.monotonic()
    trip = Trip(rig, cell)
    findings, error = Findings(), ""
    try:
        async with asyncio.timeout(WALK_SECONDS), revived(rig):
            await rig.wait_whole()
            await trip.begin()
            if point is None:
                rig.arming.record(cell)
            else:
                rig.arm(cell, point)
            await walk.run(trip)
            findings = await trip.finish()
            if rig.arming.killed_at(cell) is not None:
                # What comes back from the dead must not do anything any more.
                await rig.wait_restarted()
                findings = await trip.finish()
    except Exception as failure:  # noqa: BLE001 — the table tells of it, and the rest goes on
        error = f"{type(failure).__name__}: {failure}"
    finally:
        rig.arming.disarm()
    reached = point is not None and rig.arming.killed_at(cell) is not None
    result = Result(
        walk,
        point,
        reached,
        findings,
        tuple(_unexplained(trip, walk, point, findings)),
        rig.arming.counts(cell),
        time.monotonic() - started,
        error,
    )
    if result.is_good:
        return result
    evidence = tuple(_evidence(trip))
    await _drain(rig, trip)
    return Result(
        walk,
        point,
        reached,
        findings,
        result.unexplained,
        result.counts,
        result.seconds,
        error,
        evidence,
    )


async def _drain(rig: Rig, trip: Trip) -> None:
    """Let what a bad cell left behind come to its end, so that it is not taken for the next's."""
    rig.opened |= {"fix", "gate"}
    with contextlib.suppress(AssertionError):
        async with revived(rig):
            await rig.wait_whole()
            await trip.wait_idle()


@contextlib.asynccontextmanager
async def revived(rig: Rig) -> AsyncIterator[None]:
    """Start the relay again whenever its supervisor is gone, as an init system would."""

    async def revive() -> None:
        while True:
            if await rig.is_supervisor_gone():
                await rig.relay.start(wait_ready=False)
            await asyncio.sleep(0.05)  # how often it looks

    task = asyncio.create_task(revive())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _unexplained(trip: Trip, walk: Walk, point: Point | None, findings: Findings) -> Iterable[str]:
    killed_at = _sender_gone_at(trip, point)
    for recipient, times in findings.duplicated.items():
        excused = (
            point is not None
            and killed_at is not None
            and open_at(trip, recipient, point.killed, killed_at)
            and not (walk.single_job and _is_closed(trip, killed_at))
        )
        if not excused or times > 2:
            tried = trip.rig.tried.get(recipient, [])
            yield f"{recipient} taken {times} times, tried at {tried}, killed at {killed_at}"


def _is_closed(trip: Trip, killed_at: float) -> bool:
    """Whether the walk's one job was not open: each attempt before the kill was acked by then.

    Turns that an order lets pass before the kill count as before it.
    """
    steps = Counter(
        each.step
        for each in trip.rig.arming.passes(trip.cell)
        if each.process == "sender" and each.at <= killed_at
    )
    return steps["attempt.mail_answered"] <= steps["settle.acked"]


def open_at(trip: Trip, recipient: str, killed: str, killed_at: float) -> bool:
    """Whether the recipient's job may have been open when that process was killed."""
    tried = trip.rig.tried.get(recipient, [])
    return killed in REPEATING and any(at <= killed_at for at in tried)


def _sender_gone_at(trip: Trip, point: Point | None) -> float | None:
    """When the kill was; a sender outlives its supervisor by the kernel's moment."""
    arming = trip.rig.arming
    killed_at = arming.killed_at(trip.cell)
    if killed_at is None or point is None or point.victim != "supervisor":
        return killed_at
    passes = [each for each in arming.passes(trip.cell) if each.process == "sender"]
    last = [each.at for each in passes if each.pid == passes[0].pid]
    return max([killed_at, *last])


def _evidence(trip: Trip) -> Iterable[str]:
    """What a person needs who looks into a bad cell."""
    yield f"rig {trip.rig.folder}"
    for entry in trip.ledger.entries:
        told = f"{entry.outcome} {entry.code or ''}"
        yield f"promised {entry.ledger_id}: {told}, {len(entry.recipients)} to be sent"
    for delivery in trip.rig.upstream.received:
        yield f"taken {delivery.ledger_id} {delivery.time:.3f}: {', '.join(delivery.rcpt_tos)}"
    yield f"killed at {trip.rig.arming.killed_at(trip.cell)}"
    passes = trip.rig.arming.passes(trip.cell)
    yield from (f"{at.at:.3f} {at.process} {at.pid} {at.step}" for at in passes[-_SHOWN_LINES:])
    addresses = [each for written in trip.letters.values() for each in written.recipients]
    marks = (*addresses, "process.", "settle.repeats", "fault", "error")
    since = datetime.fromtimestamp(trip.began_at, UTC).isoformat()
    lines = [
        line
        for line in trip.rig.relay.log_text.splitlines()
        if any(mark in line for mark in marks) and json.loads(line).get("time", "") >= since
    ]
    yield from (line[:_SHOWN_CHARACTERS] for line in lines[-_SHOWN_LINES:])


def points_of(result: Result) -> list[Point]:
    """Every point that a walk passes: first, middle and last passing of each step."""
    points = []
    for (process, step), count in sorted(passed_for_certain(result).items()):
        for nth in sorted({1, (count + 1) // 2, count}):
            points.append(Point(process, step, nth))
            if step.endswith("sent"):
                points.append(Point(process, step, nth, out=True))
    return points


def passed_for_certain(result: Result) -> Counter[tuple[str, str]]:
    """The steps that a walk passes each time: the clock's checkpoint is not one of them."""
    counts = Counter(result.counts)
    by_chance = 0 if result.walk.has_checkpoint else counts["monitor", "checkpoint.stored"]
    if by_chance:
        for step in ("checkpoint.stored", "publish.sent", "publish.answered"):
            counts["monitor", step] -= by_chance
    return +counts


def as_json(result: Result) -> str:
    """One line for a file of results."""
    return json.dumps(
        {
            "walk": result.walk.name,
            "point": str(result.point),
            "reached": result.reached,
            "lost": len(result.findings.lost),
            "duplicated": len(result.findings.duplicated),
            "good": result.is_good,
            "seconds": round(result.seconds, 2),
        }
    )
