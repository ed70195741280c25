"""Claim records, new and due, and share the delivery slots out among them (queue rule 12).

Every consumer has its own pull, for a bounded number of records that are held until a slot is
free. `fair` says which of them a free slot serves. A job of new mail whose turn among the jobs of
its submission has not come (`pacing`) is given back before it takes a slot.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace

from prometheus_client import Counter, Gauge

from mailrelay.mail.job import Job
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.consume import HOLDS_PER_ACK_WAIT, Claim, PullLoop
from mailrelay.queue.errors import ClaimVoidError, QueueError, QueueFullError
from mailrelay.queue.lanes import LADDER, Lane, Move, Wait, decide
from mailrelay.queue.wire import RecordError, UnknownVersionError, decode_jobs
from mailrelay.runtime.clock import Clock
from mailrelay.runtime.lifecycle import end_tasks
from mailrelay.runtime.logging import Logger
from mailrelay.runtime.steps import passed
from mailrelay_sender.fair import FairShare
from mailrelay_sender.pacing import Pacing
from mailrelay_sender.settle import Settler
from mailrelay_sender.suspicion import Key, Suspicion
from mailrelay_sender.turn import LeaveOut, Turn
from mailrelay_sender.turn import Wait as TurnWait

MAX_PREFETCH = 16
# Jobs whose turn has not come go back as fast as they come: asked for one by one, 20,000 of them
# kept the mail behind them waiting for 7.6 s (measured with one slot).
_EXTRA_ROOM = 63
# A lane is looked at again this often even when its head is far off: a record that another
# sender had claimed when it died comes up out of order.
LONGEST_LANE_PAUSE_SECONDS = 30.0
_UNREADABLE_PAUSE_SECONDS = 600.0
_LATER_DELIVERIES = 10  # an hour and a half
_FULL_PAUSE_SECONDS = 5.0
_FAULT_PAUSE_SECONDS = 5.0
_RECENT = 20_000
_IDLE_LOOK_SECONDS = 0.02

_held = Gauge("mailrelay_claims", "Records claimed: waiting for a slot, or in one.")
slot_count = Gauge("mailrelay_delivery_slots", "Attempts that may be under way at a time.")
_let_go = Counter(
    "mailrelay_claims_let_go_total",
    "Records let go of untried, because another sender may have been given them meanwhile.",
)
_unreadable = Counter("mailrelay_unreadable_records_total", "Records this version cannot read.")


def _key(claim: Claim) -> Key:
    return (*claim.key, claim.stored_at)


@dataclass(frozen=True, slots=True)
class Work:
    """A claimed record with the job(s) in it, ready for a slot."""

    claim: Claim
    jobs: list[Job]
    stopped_by: int = 0  # not 0: end it untried, a recipient failed in that job (queue rule 11)
    may_have_killed: bool = True  # false: it came and went for its turn, and was hardly ever tried

    @property
    def key(self) -> Key:
        """What names the record, also after a server that lost its data counts anew."""
        return _key(self.claim)


@dataclass(slots=True, eq=False)
class _Source:
    lane: Lane | None  # none: new mail
    room: int
    ready: deque[Work] = field(default_factory=deque)
    moving: int = 0  # and of new mail, asking whether it is their turn
    extra: int = 0  # what is asked for beyond room while records go back at once
    pull: PullLoop = field(init=False)  # it asks the source for room, so it comes second

    def free(self) -> int:
        """How many more records there is room for."""
        return self.room - len(self.ready) - self.moving


@dataclass(frozen=True, slots=True)
class SlotLimits:
    """How many slots there are, and how long a claim lasts that is not held."""

    slots: int
    ack_wait_seconds: float


class Slots:
    """Where free slots get their work."""

    def __init__(
        self,
        connection: QueueConnection,
        limits: SlotLimits,
        settler: Settler,
        log: Logger,
        clock: Clock,
        *,
        takes_new: Callable[[], bool],
        pacing: Pacing,
    ) -> None:
        self._pacing = pacing
        self._takes_new = takes_new
        self._hold_seconds = limits.ack_wait_seconds / HOLDS_PER_ACK_WAIT
        self._log = log
        self._clock = clock
        self._settler = settler
        self._claims: dict[Key, Claim] = {}  # all that is ours now
        self._settled: dict[Key, None] = {}  # the last ones, oldest first
        self._arrived = asyncio.Event()
        self._share = FairShare(len(LADDER))
        self._moves: set[asyncio.Task[None]] = set()
        self._asking: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._suspicion = Suspicion()
        names = connection.names
        room = min(limits.slots, MAX_PREFETCH)
        self._sources = [_Source(None, room)]
        self._sources += [_Source(lane, room) for lane in LADDER]
        consumers = [(names.in_stream(), names.in_consumer)]
        consumers += [(names.lane_stream, names.lane_consumer(lane)) for lane in LADDER]
        for source, (stream, consumer) in zip(self._sources, consumers, strict=True):
            source.pull = PullLoop(
                connection,
                stream,
                consumer,
                room=self._room(source),
                take=self._take(source),
                ack_wait_seconds=limits.ack_wait_seconds,
            )

    def run(self) -> Iterable[Awaitable[None]]:
        """Return what must run beside the slots: a pull for each consumer, and the holding."""
        yield self._hold_all()
        for source in self._sources:
            yield source.pull.run()

    async def next_work(self) -> Work:
        """Wait for a record to work on."""
        while True:
            work = self._pick()
            if work is not None:
                return work
            self._arrived.clear()
            await self._arrived.wait()

    def finished(self, work: Work) -> None:
        """Note that a record is settled."""
        self._forget(work.key)
        self._settled[work.key] = None
        if len(self._settled) > _RECENT:
            del self._settled[next(iter(self._settled))]

    def wake_new(self) -> None:
        """Look again whether new mail may be claimed."""
        self._arrived.set()
        self._sources[0].pull.wake()

    async def give_back(self, work: Work, delay_seconds: float = 0.0) -> None:
        """Let the queue deliver a record again.

        One that another sender may have been given meanwhile is left to it, or comes again by
        itself: giving it back would have it delivered to a third one beside.
        """
        self._forget(work.key)
        if not work.claim.is_surely_ours:
            return
        self._suspicion.given_back(work.key)
        with contextlib.suppress(QueueError):  # it comes back by itself after ack_wait
            await work.claim.give_back(delay_seconds)

    def let_go(self, work: Work) -> None:
        """Leave a record that nothing was done with to whoever was given it; or it comes again."""
        _let_go.inc()
        self._forget(work.key)

    def is_suspicious(self, work: Work) -> bool:
        """Tell whether a record is to be tried alone (queue rule 13)."""
        return work.may_have_killed and self._suspicion.falls_on(work.key, work.claim.delivered)

    async def stop(self) -> None:
        """Claim nothing more and give back what waits for a slot."""
        self._stopping = True
        await asyncio.gather(*(source.pull.stop() for source in self._sources))
        await asyncio.gather(*self._asking)
        for source in self._sources:
            while source.ready:
                await self.give_back(source.ready.popleft())

    async def end(self) -> None:
        """Break off what is under way beside the slots; an orderly stop waits for it before."""
        await end_tasks(self._moves)

    @property
    def is_stopping(self) -> bool:
        """Whether nothing new may begin."""
        return self._stopping

    async def wait_idle(self, limit_seconds: float) -> None:
        """Wait until nothing is claimed any more, `limit_seconds` at most."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + limit_seconds
        while self._claims and loop.time() < ends_at:  # noqa: ASYNC110 — claims are plain state
            await asyncio.sleep(_IDLE_LOOK_SECONDS)

    def _pick(self) -> Work | None:
        """Take the next record in turn.

        One that another sender may have been given meanwhile is left to it, or comes again.
        """
        while (work := self._next_in_turn()) is not None:
            if work.claim.is_surely_ours:
                return work
            self.let_go(work)
        return None

    def _next_in_turn(self) -> Work | None:
        has_work = [bool(source.ready) for source in self._sources]
        has_work[0] = has_work[0] and self._takes_new()
        served = self._share.next(has_work)
        if served is None:
            return None
        source = self._sources[served]
        work = source.ready.popleft()
        source.pull.wake()
        return work

    def _room(self, source: _Source) -> Callable[[], int]:
        def room() -> int:
            if self._stopping or (source.lane is None and not self._takes_new()):
                return 0
            free = source.free()
            return free + source.extra if free > 0 else 0

        return room

    def _take(self, source: _Source) -> Callable[[Claim], Awaitable[None]]:
        async def take(claim: Claim) -> None:
            await self._arrive(source, claim)

        return take

    async def _arrive(self, source: _Source, claim: Claim) -> None:
        try:
            work = Work(claim, decode_jobs(claim.payload))
        except RecordError as error:
            await self._set_aside(source, claim, error)
            return
        if work.key in self._claims:
            return  # redelivered to us while we work on it: one of the two is enough
        if work.key in self._settled:
            with contextlib.suppress(QueueError):
                await claim.ack()  # the first ack was lost with the stream's leader
            return
        if self._stopping:
            await self.give_back(work)
            return
        if source.lane is not None:
            job = work.jobs[0]
            step = decide(source.lane, stored_at=claim.stored_at, due=job.due, now=self._clock())
            if isinstance(step, Wait):
                await self.give_back(work, step.seconds)
                source.pull.pause(min(step.seconds, LONGEST_LANE_PAUSE_SECONDS))
                return
            if isinstance(step, Move):
                self._start_move(source, work)
                return
        elif await self._waits_or_asks(source, work):
            return
        self._remember(work)
        self._make_ready(source, work)

    async def _waits_or_asks(self, source: _Source, work: Work) -> bool:
        """Whether a record of new mail may not go to a slot as it is (queue rule 11)."""
        paced = len(work.jobs) == 1 and self._pacing.concerns(work.jobs[0])
        wait = self._pacing.known_wait(work.jobs[0]) if paced else None
        if wait is not None:
            source.extra = _EXTRA_ROOM
            await self.give_back(work, wait.seconds)
            return True
        has_room = source.free() > 0
        source.extra = 0
        if not has_room:
            await self.give_back(work)
        elif paced:
            self._start_asking(source, work)
        return paced or not has_room

    def _make_ready(self, source: _Source, work: Work) -> None:
        passed("claim.taken")
        source.ready.append(work)
        self._arrived.set()

    def _start_asking(self, source: _Source, work: Work) -> None:
        """Find out whether it is a job's turn, beside what else arrives (queue rule 11)."""
        self._remember(work)
        source.moving += 1

        async def ask() -> None:
            try:
                turn: Turn = await self._pacing.turn(work.jobs[0], work.claim.sequence)
            except Exception as error:  # noqa: BLE001 — a bug must not keep the claim
                self._log.error("sender.fault", id=work.jobs[0].submission, exc_info=error)
                turn = TurnWait(_FAULT_PAUSE_SECONDS)
            source.moving -= 1
            if isinstance(turn, TurnWait):
                await self.give_back(work, turn.seconds)
            elif self._stopping:
                await self.give_back(work)
            elif isinstance(turn, LeaveOut):
                left_out = replace(work, stopped_by=turn.stopped_by, may_have_killed=False)
                self._make_ready(source, left_out)
            else:
                overdue = self._pacing.is_overdue(work.jobs[0], work.claim.stored_at)
                self._make_ready(source, replace(work, may_have_killed=overdue))
            source.pull.wake()

        task = asyncio.create_task(ask())
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    def _start_move(self, source: _Source, work: Work) -> None:
        self._remember(work)
        source.moving += 1

        async def move() -> None:
            try:
                if work.claim.is_surely_ours:
                    await self._settler.move(work.claim, work.jobs[0])
                    self.finished(work)
            except QueueFullError:
                # By the time it comes again it may be due, and be tried instead of moved.
                await self.give_back(work, _FULL_PAUSE_SECONDS)
            finally:
                self._forget(work.key)
                source.moving -= 1
                source.pull.wake()

        task = asyncio.create_task(move())
        self._moves.add(task)
        task.add_done_callback(self._moves.discard)

    async def _set_aside(self, source: _Source, claim: Claim, error: RecordError) -> None:
        """Keep a record that cannot be read: it is not lost, and not tried all the time."""
        if _key(claim) in self._claims:
            return  # redelivered while it is being kept
        _unreadable.inc()
        self._log.error(
            "record.unreadable",
            stream=claim.stream,
            sequence=claim.sequence,
            error=str(error),
            octets=claim.payload[:64].hex(),
        )
        if isinstance(error, UnknownVersionError) and claim.delivered <= _LATER_DELIVERIES:
            # An upgrade is under way, perhaps: it is left to the newer senders for a while.
            with contextlib.suppress(QueueError):
                await claim.give_back(_UNREADABLE_PAUSE_SECONDS)
            return
        # Held, and counted like any other: a thousand of them are as many records in memory.
        self._claims[_key(claim)] = claim
        source.moving += 1
        task = asyncio.create_task(self._keep_aside(source, claim, error))
        self._moves.add(task)
        task.add_done_callback(self._moves.discard)

    async def _keep_aside(self, source: _Source, claim: Claim, error: RecordError) -> None:
        try:
            await self._settler.set_aside(claim, error)
        except QueueError as fault:  # full, say: it comes again
            self._log.warning("record.not_set_aside", sequence=claim.sequence, error=str(fault))
        finally:
            self._forget(_key(claim))
            source.moving -= 1
            source.pull.wake()

    async def _hold_all(self) -> None:
        while True:
            await asyncio.sleep(self._hold_seconds)
            for claim in list(self._claims.values()):
                try:
                    await claim.hold()
                except ClaimVoidError:
                    continue  # the attempt goes on: this process has the only copy left
                except QueueError:
                    break  # the server is away; what it counted it keeps

    def _remember(self, work: Work) -> None:
        self._claims[work.key] = work.claim
        _held.set(len(self._claims))

    def _forget(self, key: Key) -> None:
        self._claims.pop(key, None)
        _held.set(len(self._claims))
