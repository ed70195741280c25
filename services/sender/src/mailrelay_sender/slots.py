"""Claim records, new and due, and share the delivery slots out among them (queue rule 12).

Every consumer has its own pull, for a bounded number of records that are held until a slot is
free. A free slot takes new mail three times out of four and due mail the fourth, and whatever is
there when only one of them has something, so that neither can starve the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from prometheus_client import Counter, Gauge

from mailrelay.mail.job import Job
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.consume import HOLDS_PER_ACK_WAIT, Claim, PullLoop
from mailrelay.queue.errors import ClaimVoidError, QueueError, QueueFullError
from mailrelay.queue.lanes import LADDER, Lane, Move, Wait, decide
from mailrelay.queue.wire import RecordError, decode_jobs
from mailrelay.runtime.clock import Clock
from mailrelay.runtime.logging import Logger
from mailrelay_sender.suspicion import Key, Suspicion

MAX_PREFETCH = 16
# A lane is looked at again this often even when its head is far off: a record that another
# sender had claimed when it died comes up out of order.
LONGEST_LANE_PAUSE_SECONDS = 30.0
_UNREADABLE_PAUSE_SECONDS = 600.0
_FULL_PAUSE_SECONDS = 5.0
_RECENT = 20_000
_IDLE_LOOK_SECONDS = 0.02
_PATTERN = ("new", "new", "new", "due")

_held = Gauge("mailrelay_claims", "Records claimed: waiting for a slot, or in one.")
_unreadable = Counter("mailrelay_unreadable_records_total", "Records this version cannot read.")


@dataclass(frozen=True, slots=True)
class Work:
    """A claimed record with the job(s) in it, ready for a slot."""

    claim: Claim
    jobs: list[Job]

    @property
    def key(self) -> Key:
        """What names the record, also after a server that lost its data counts anew."""
        return (*self.claim.key, self.claim.stored_at)


@dataclass(slots=True, eq=False)
class _Source:
    kind: str
    lane: Lane | None
    room: int
    ready: deque[Work] = field(default_factory=deque)
    moving: int = 0
    pull: PullLoop = field(init=False)  # it asks the source for room, so it comes second

    def free(self) -> int:
        """How many more records may come."""
        return self.room - len(self.ready) - self.moving


class Slots:
    """Where free slots get their work."""

    def __init__(
        self,
        connection: QueueConnection,
        slots: int,
        move: Callable[[Claim, Job], Awaitable[None]],
        log: Logger,
        clock: Clock,
        *,
        ack_wait_seconds: float,
        takes_new: Callable[[], bool],
    ) -> None:
        self._takes_new = takes_new
        self._hold_seconds = ack_wait_seconds / HOLDS_PER_ACK_WAIT
        self._log = log
        self._clock = clock
        self._move = move
        self._claims: dict[Key, Claim] = {}  # all that is ours now
        self._settled: dict[Key, None] = {}  # the last ones, oldest first
        self._arrived = asyncio.Event()
        self._turns = itertools.cycle(_PATTERN)
        self._moves: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._suspicion = Suspicion()
        names = connection.names
        room = min(slots, MAX_PREFETCH)
        self._sources = [_Source("new", None, room)]
        self._sources += [_Source("due", lane, room) for lane in LADDER]
        consumers = [(names.in_stream(), names.in_consumer)]
        consumers += [(names.lane_stream, names.lane_consumer(lane)) for lane in LADDER]
        for source, (stream, consumer) in zip(self._sources, consumers, strict=True):
            source.pull = PullLoop(
                connection, stream, consumer, room=self._room(source), take=self._take(source)
            )
        self._due = deque(source for source in self._sources if source.kind == "due")

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
        """Let the queue deliver a record again."""
        self._forget(work.key)
        self._suspicion.given_back(work.key)
        with contextlib.suppress(QueueError):  # it comes back by itself after ack_wait
            await work.claim.give_back(delay_seconds)

    def is_suspicious(self, work: Work) -> bool:
        """Tell whether a record is to be tried alone (queue rule 13)."""
        return self._suspicion.falls_on(work.key, work.claim.delivered)

    async def stop(self) -> None:
        """Claim nothing more and give back what waits for a slot."""
        self._stopping = True
        await asyncio.gather(*(source.pull.stop() for source in self._sources))
        for source in self._sources:
            while source.ready:
                await self.give_back(source.ready.popleft())
        for task in self._moves:
            task.cancel()

    async def wait_idle(self, limit_seconds: float) -> None:
        """Wait until nothing is claimed any more, `limit_seconds` at most."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + limit_seconds
        while self._claims and loop.time() < ends_at:  # noqa: ASYNC110 — claims are plain state
            await asyncio.sleep(_IDLE_LOOK_SECONDS)

    def _pick(self) -> Work | None:
        """Take the next record in turn."""
        new = self._sources[0] if self._sources[0].ready and self._takes_new() else None
        due = self._next_due_source()
        wants_new = next(self._turns) == "new"
        source = (new or due) if wants_new else (due or new)
        if source is None:
            return None
        work = source.ready.popleft()
        source.pull.wake()
        return work

    def _next_due_source(self) -> _Source | None:
        for _ in range(len(self._due)):
            source = self._due[0]
            self._due.rotate(-1)
            if source.ready:
                return source
        return None

    def _room(self, source: _Source) -> Callable[[], int]:
        def room() -> int:
            if self._stopping or (source.lane is None and not self._takes_new()):
                return 0
            return source.free()

        return room

    def _take(self, source: _Source) -> Callable[[Claim], Awaitable[None]]:
        async def take(claim: Claim) -> None:
            await self._arrive(source, claim)

        return take

    async def _arrive(self, source: _Source, claim: Claim) -> None:
        try:
            work = Work(claim, decode_jobs(claim.payload))
        except RecordError as error:
            await self._set_aside(claim, error)
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
        self._remember(work)
        source.ready.append(work)
        self._arrived.set()

    def _start_move(self, source: _Source, work: Work) -> None:
        self._remember(work)
        source.moving += 1

        async def move() -> None:
            try:
                await self._move(work.claim, work.jobs[0])
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

    async def _set_aside(self, claim: Claim, error: RecordError) -> None:
        """Keep a record that cannot be read: it is not lost, and not tried all the time."""
        _unreadable.inc()
        self._log.error(
            "record.unreadable",
            stream=claim.stream,
            sequence=claim.sequence,
            error=str(error),
            octets=claim.payload[:64].hex(),
        )
        await claim.give_back(_UNREADABLE_PAUSE_SECONDS)

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
