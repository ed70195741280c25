"""Let captured mail go: a job in lane `now` for each record, which stays (queue rule 9).

A request is noted (`release_book`) before it is answered and carried out a few records at a time
(`lane_room`), so that it outlives this process, and asking again under its id starts nothing new.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from operator import itemgetter

from mailrelay.mail.ids import QueueId
from mailrelay.mail.job import Release
from mailrelay.queue.captured import CaptureStore, StoredCapture, release_record
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.errors import QueueError
from mailrelay.queue.publish import Publisher, Record
from mailrelay.runtime.clock import Clock
from mailrelay.runtime.logging import Logger
from mailrelay.runtime.steps import passed
from mailrelay_monitor import release_book
from mailrelay_monitor.admin_database import AdminDatabase, AdminUnwritableError
from mailrelay_monitor.lane_room import LaneRoom
from mailrelay_monitor.release_book import ReleaseRequest

_IDLE_SECONDS = 60.0
_RETRY_SECONDS = 2.0
_TURN_SECONDS = 0.1


class NothingCapturedError(Exception):
    """A queue id that was to be released and has no captured record."""


class Releaser:
    """Takes requests and carries them out, one after the other."""

    def __init__(
        self,
        connection: QueueConnection,
        store: CaptureStore,
        publisher: Publisher,
        database: AdminDatabase,
        *,
        clock: Clock,
        log: Logger,
        asking: asyncio.Lock,
    ) -> None:
        """`asking` is held while it is found out whether anything names a body."""
        self._asking_bodies = asking
        self._connection = connection
        self._store = store
        self._publisher = publisher
        self._database = database
        self._clock = clock
        self._log = log
        self._room = LaneRoom(connection)
        self._wake = asyncio.Event()
        self._asking = asyncio.Lock()

    async def ask(self, request_id: str, ids: tuple[str, ...], next_hop: str) -> ReleaseRequest:
        """Note a release of some submissions, of everything captured when `ids` is empty.

        A request that is known already is returned as it stands. Raises QueueError,
        AdminUnwritableError, NothingCapturedError: then nothing is released.
        """
        async with self._asking:
            found = await self._database.run(lambda db: release_book.known(db, request_id))
            if found is not None:
                return found
            up_to = await self._store.last_sequence()
            asked = 0 if ids else await self._store.count()
            for one in ids:
                of_it = await self._store.records_of(QueueId(one))
                if not of_it:
                    raise NothingCapturedError(one)
                asked += len(of_it)
            request = ReleaseRequest(request_id, self._clock(), next_hop, ids, up_to, asked)
            await self._put(request, durable=True)
        passed("release.noted")
        self._log.info(
            "captured.release_asked",
            request=request_id,
            asked=asked,
            ids=list(ids[:10]),
            next_hop=next_hop,
        )
        self._wake.set()
        return request

    async def progress(self, limit: int = 20) -> list[ReleaseRequest]:
        """Return the newest requests. Raises AdminUnwritableError."""
        return await self._database.run(lambda db: release_book.newest(db, limit))

    async def run(self) -> None:
        """Carry out what is open, until cancelled."""
        while True:
            self._wake.clear()
            pause = _IDLE_SECONDS
            try:
                while request := await self._database.run(release_book.next_open):
                    await self._carry_out(request)
                await self._database.run(self._prune)
            except (QueueError, AdminUnwritableError) as error:
                self._log.warning("release.waits", reason=str(error))
                pause = _RETRY_SECONDS
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _prune(self, database: sqlite3.Connection) -> None:
        release_book.prune(database, self._clock())

    async def _carry_out(self, request: ReleaseRequest) -> None:
        async for captured, position in self._records(request):
            record = release_record(
                captured,
                Release(request.id, request.asked_at, request.next_hop),
                self._connection.names,
            )
            if record is None:
                request = replace(request, position=position, unreadable=request.unreadable + 1)
            else:
                await self._wait_room()
                is_queued = await self._queue(captured, record)
                request = replace(request, position=position, queued=request.queued + is_queued)
            await self._put(request)
            passed("release.queued_noted")
        await self._put(replace(request, position=request.up_to, finished=True))
        self._log.info("captured.released", request=request.id, queued=request.queued)

    async def _queue(self, captured: StoredCapture, record: Record) -> bool:
        """Store the job unless its captured record was deleted since it was read.

        Its content may be gone with it then. While the lock is held it cannot go: from here on the
        job keeps it.
        """
        async with self._asking_bodies:
            if await self._store.again(captured) is None:
                return False
            await self._publisher.store(record)
        passed("release.queued")
        return True

    async def _records(self, request: ReleaseRequest) -> AsyncIterator[tuple[StoredCapture, int]]:
        """Yield what is left of a request, each with the position that it brings it to."""
        if request.ids:
            # One at a time: each may carry a megabyte.
            for sequence, place in await self._places(request):
                captured = await self._store.again(place)
                if captured is not None:  # else it was deleted meanwhile
                    yield captured, sequence
            return
        after = request.position
        while after < request.up_to:
            page = await self._store.read(after)
            if not page or page[0].sequence > request.up_to:
                # Whoever was read from may lag behind: that nothing is left is the leader's to say.
                first = await self._store.first_behind(after)
                page = [] if first is None else [first]
            for captured in page:
                if captured.sequence > request.up_to:
                    return
                yield captured, captured.sequence
                after = captured.sequence
            if not page:
                return

    async def _places(self, request: ReleaseRequest) -> list[tuple[int, StoredCapture]]:
        """Return what is left of a request for some submissions, in the stream's order.

        So one sequence number says how far it is, also within the jobs of one submission: it goes
        on behind them, and not from the first one anew once the server has forgotten its name.
        """
        return sorted(
            [
                (captured.sequence, replace(captured, record=None))
                for one in request.ids
                for captured in await self._store.records_of(QueueId(one))
                if request.position < captured.sequence <= request.up_to
            ],
            key=itemgetter(0),
        )

    async def _wait_room(self) -> None:
        while not await self._room.room():  # noqa: ASYNC110 — another process takes from it
            await asyncio.sleep(_TURN_SECONDS)

    async def _put(self, request: ReleaseRequest, *, durable: bool = False) -> None:
        await self._database.run(
            lambda database: release_book.write(database, request), durable=durable
        )


class CapturedRemover:
    """Deletes captured mail by hand, and lets its stored content go."""

    def __init__(
        self, store: CaptureStore, *, log: Logger, prompt: Callable[[QueueId], None]
    ) -> None:
        """`prompt` is told of submissions whose stored content may be done with."""
        self._store = store
        self._log = log
        self._prompt = prompt

    async def delete(self, submission: QueueId) -> int:
        """Delete a submission's records; return how many. Raises QueueError."""
        deleted = await self._store.delete(submission)
        if deleted:
            self._prompt(submission)
            self._log.info("captured.deleted", id=submission, records=deleted)
        return deleted

    async def delete_all(self) -> int:
        """Delete everything captured so far; return how many. Raises QueueError."""
        up_to = await self._store.last_sequence()
        with_body: set[QueueId] = set()
        async for captured in self._store.walk():
            if captured.sequence > up_to:
                break
            if captured.record is not None and captured.record.job.body is not None:
                with_body.add(captured.submission)
        deleted = await self._store.delete_all(up_to)
        for submission in with_body:
            self._prompt(submission)
        self._log.info("captured.deleted", records=deleted)
        return deleted
