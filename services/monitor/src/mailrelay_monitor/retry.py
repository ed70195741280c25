"""Send failed mail again, asked for by hand or from time to time (queue rule 8).

Asking notes which records are meant and answers at once; they go into lane `now` a few at a time
(`lane_room`). That note is on disk before the answer (`resend_book`), so that the next monitor goes
on with it. A resend names its record's sequence number, and so does its message id. Whether it may
go on is decided by who claims it, on the record itself.
"""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import dataclass, replace

from prometheus_client import CollectorRegistry, Counter

from mailrelay.config.model import Failed
from mailrelay.mail.disposition import Disposition
from mailrelay.mail.job import FailedRecord, ResendMark
from mailrelay.queue.bodies import body_token
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.errors import QueueError, QueueFullError
from mailrelay.queue.failed import FailedStore
from mailrelay.queue.lanes import NOW
from mailrelay.queue.names import Names
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.wire import encode_jobs
from mailrelay.runtime.clock import Clock
from mailrelay.runtime.logging import Logger
from mailrelay.runtime.steps import passed
from mailrelay_monitor import failed_index, resend_book
from mailrelay_monitor.admin_database import AdminDatabase, AdminUnwritableError
from mailrelay_monitor.failed_filter import FailedFilter
from mailrelay_monitor.failed_follow import FailedFollower
from mailrelay_monitor.failed_index import Marked
from mailrelay_monitor.failed_row import QUEUED, WAITING, Ended, FailedRow, Outcome
from mailrelay_monitor.lane_room import LaneRoom
from mailrelay_monitor.resend_book import Progress

_TURN_SECONDS = 0.1
_IDLE_SECONDS = 30.0
_RETRY_SECONDS = 2.0
_FULL_SECONDS = 5.0
_AT_ONCE = 16  # publishes under way; each may carry 64 KB
_MARKED = 1000
_LOOKS_AN_INTERVAL = 4
_LONGEST_LOOK_SECONDS = 60.0


class ResendMetrics:
    """What became of resends."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.ended = Counter(
            "mailrelay_resends_ended",
            "Resends of failed mail that came to an end while this monitor lived.",
            ["outcome"],  # delivered (or captured), failed_again, gone: removed meanwhile
            registry=registry,
        )


@dataclass(frozen=True, slots=True)
class ResendReport:
    """The answer to a request."""

    request: int
    matching: int
    resent: int  # will be resent by this request
    already_resending: int
    unreadable: int


class Resender:
    """Takes requests and carries them out."""

    def __init__(  # noqa: PLR0913 — it is where these meet
        self,
        connection: QueueConnection,
        store: FailedStore,
        publisher: Publisher,
        database: AdminDatabase,
        options: Failed,
        *,
        clock: Clock,
        log: Logger,
        metrics: ResendMetrics,
    ) -> None:
        self._connection = connection
        self._store = store
        self._publisher = publisher
        self._database = database
        self._options = options
        self._clock = clock
        self._log = log
        self._metrics = metrics
        self._room = LaneRoom(connection)
        self._asking = asyncio.Lock()
        self._wake = asyncio.Event()

    async def ask(self, follower: FailedFollower, which: FailedFilter) -> ResendReport:
        """Have everything that matches sent again, also if this process ends meanwhile.

        Raises QueueError, AdminUnwritableError: then nothing is.
        """
        async with self._asking:
            await follower.catch_up()
            return await self._note(which, "hand", "1")

    async def progress(self) -> list[Progress]:
        """Return the latest requests, the newest first. Raises AdminUnwritableError."""

        def read(database: sqlite3.Connection) -> list[Progress]:
            stages = failed_index.stages(database)
            return [
                replace(
                    one,
                    waiting=stages.get((one.request, WAITING), 0),
                    queued=stages.get((one.request, QUEUED), 0),
                )
                for one in resend_book.newest(database, resend_book.KNOWN)
            ]

        return await self._database.run(read)

    def wake(self) -> None:
        """Look at once for what waits."""
        self._wake.set()

    def take(self, ended: list[Ended]) -> None:
        """Count resends that came to their end in this process's metrics."""
        for one in ended:
            self._metrics.ended.labels(one.outcome.value).inc()

    async def run(self) -> None:
        """Queue what waits, until cancelled."""
        while True:
            self._wake.clear()
            pause = _TURN_SECONDS
            try:
                if not await self._turn():
                    pause = _IDLE_SECONDS
            except QueueFullError as error:
                self._log.warning("resend.waits", reason=str(error))
                pause = _FULL_SECONDS
            except (QueueError, AdminUnwritableError) as error:
                self._log.warning("resend.waits", reason=str(error))
                pause = _RETRY_SECONDS
            await self._sleep(pause, wakes=pause == _IDLE_SECONDS)

    async def run_interval(self, follower: FailedFollower) -> None:
        """Ask for what is due from time to time, until cancelled."""
        interval = self._options.resend_interval_seconds
        if not interval:
            return await asyncio.Event().wait()  # type: ignore[return-value]  # for ever
        while True:
            await asyncio.sleep(min(interval / _LOOKS_AN_INTERVAL, _LONGEST_LOOK_SECONDS))
            try:
                await self.ask_due(follower)
            except (QueueError, AdminUnwritableError) as error:
                self._log.warning("resend.waits", reason=str(error))

    async def ask_due(self, follower: FailedFollower) -> ResendReport | None:
        """Have resent what expired and was not tried for an interval. Raises as `ask` does."""
        until = self._clock() - self._options.resend_interval_seconds
        kinds = [Disposition.EXPIRED.value]
        if self._options.resend_bounced:
            kinds.append(Disposition.BOUNCED.value)
        due = f"disposition IN ({', '.join(repr(kind) for kind in kinds)}) AND stage = ''"
        async with self._asking:
            await follower.catch_up()
            which = FailedFilter(until=until)
            if not await self._database.run(lambda db: failed_index.any_of(db, which, due)):
                return None
            return await self._note(which, "interval", due)

    async def _note(self, which: FailedFilter, by: str, extra: str) -> ResendReport:
        alive = await self._note_claimed(which)

        def note(database: sqlite3.Connection) -> tuple[int, Marked]:
            request = resend_book.begin(database, self._clock(), by)
            marked = failed_index.mark_waiting(database, which, request, extra)
            resend_book.set_asked(database, request, marked.waiting)
            return request, marked

        request, marked = await self._database.run(note, durable=True)
        passed("resend.noted")
        report = ResendReport(
            request, marked.matching, marked.waiting, marked.already, marked.unreadable
        )
        self._log.info(
            "failed.resend_asked",
            request=request,
            by=by,
            matching=report.matching,
            resent=report.resent,
            already_resending=report.already_resending,
            alive_before=alive,
            unreadable=report.unreadable,
        )
        self._wake.set()
        return report

    async def _note_claimed(self, which: FailedFilter) -> int:
        """Note the resends that are alive from before this monitor began."""
        rows = await self._database.run(
            lambda database: failed_index.claimed_without_request(database, which, _MARKED)
        )
        alive = 0
        for row in rows:
            if await self._is_alive(row):
                alive += 1
                await self._set_stage(row, "", QUEUED)
        return alive

    async def _turn(self) -> int:
        """Queue as many resends as there is room for; return how many wait."""
        rows = await self._database.run(lambda db: failed_index.waiting(db, _AT_ONCE))
        if not rows:
            return 0
        room = await self._room.room()
        results = await asyncio.gather(
            *(self._queue(row) for row in rows[:room]), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return len(rows)

    async def _queue(self, row: FailedRow) -> None:
        if row.mark_sequence and await self._is_alive(row):
            await self._set_stage(row, WAITING, QUEUED)  # by somebody else; its end is this one's
            return
        found = await self._store.at(row.sequence)
        if found is None or found.record is None:
            last = await self._store.last(row.submission, row.recipient)
            if last is None or last.is_done:
                await self._end_without_record(row)
            return  # otherwise its row is about to say what the record is now
        record = resend_record(found.record, row.sequence, self._connection.names)
        # Noted first: its end may be read before this goes on.
        await self._set_stage(row, WAITING, QUEUED)
        try:
            await self._publisher.store(record)
        except QueueError:
            await self._set_stage(row, QUEUED, WAITING)
            raise
        passed("resend.queued")

    async def _end_without_record(self, row: FailedRow) -> None:
        ended = [Ended(row.request, Outcome.GONE)]

        def end(database: sqlite3.Connection) -> None:
            failed_index.set_stage(database, row, WAITING, "")
            resend_book.count(database, ended)

        await self._database.run(end)
        self.take(ended)

    async def _is_alive(self, row: FailedRow) -> bool:
        lane = self._connection.names.lane_stream
        return await self._store.is_in_lane(ResendMark(lane, row.mark_sequence, row.mark_stored_at))

    async def _set_stage(self, row: FailedRow, was: str, stage: str) -> None:
        await self._database.run(lambda db: failed_index.set_stage(db, row, was, stage))

    async def _sleep(self, seconds: float, *, wakes: bool) -> None:
        if not wakes:
            await asyncio.sleep(seconds)
            return
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return


def resend_record(failed: FailedRecord, sequence: int, names: Names) -> Record:
    """Return the record that resends a failed one; its history goes along."""
    job = replace(failed.job, attempt=1, faults=0, hop=0, due=0.0, resend_of=sequence)
    return Record(
        names.lane_subject(NOW, body_token(job)),
        encode_jobs([job]),
        f"{job.submission}.{failed.recipient.number}.r/{sequence}",
    )
