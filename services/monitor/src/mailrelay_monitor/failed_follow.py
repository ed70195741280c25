"""Follow the failed store: read what came, in order, and notice what is gone.

The place reached is kept with the rows made of it (`failed_index`), so a monitor that was away
catches up, and a lost file begins at the stream's first record. A record that is missing without a
tombstone was not delivered for all we know: unless an event told so, it counts as dropped by the
stream, is told, and its file stays, for it is the last copy. So that is judged only once every
event that there is was counted.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import TypeVar

from prometheus_client import CollectorRegistry, Gauge

from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.errors import QueueError
from mailrelay.queue.failed import FailedStore, StoredFailure
from mailrelay.queue.leader import stream_info
from mailrelay.runtime.logging import Logger
from mailrelay_monitor import failed_index, gone_book, resend_book
from mailrelay_monitor.admin_database import AdminDatabase, AdminUnwritableError
from mailrelay_monitor.failed_index import Place
from mailrelay_monitor.failed_removal import DROPPED, FailedRemover
from mailrelay_monitor.failed_returned import ReturnedRecords
from mailrelay_monitor.failed_row import DONE, Ended, FailedRow, Outcome
from mailrelay_monitor.index import Index
from mailrelay_monitor.index_file import IndexDamagedError, IndexUnwritableError
from mailrelay_monitor.index_thread import IndexThread

_IDLE_SECONDS = 1.0
_RETRY_SECONDS = 2.0
_READ = 64
_CHECK_SECONDS = 10.0
_LOOK_SECONDS = 5.0
_COMPARE_SECONDS = 3600.0
_GONE_AT_ONCE = 200
_COUNTED_SECONDS = 2.0  # a collector that is not far behind comes to any place in one
_COUNTED_LOOK_SECONDS = 0.1
_T = TypeVar("_T")
_DELIVERED = frozenset({"sent", "captured"})


class FollowMetrics:
    """How well the monitor keeps up with the failed store."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.fault = Gauge(
            "mailrelay_failed_store_followed",
            "1 while the failed store is read and limited, 0 when that fails (the log says why).",
            registry=registry,
        )


class FailedFollower:
    """The one reader of the failed store."""

    def __init__(  # noqa: PLR0913 — it is where these meet
        self,
        connection: QueueConnection,
        store: FailedStore,
        database: AdminDatabase,
        index: IndexThread,
        remover: FailedRemover,
        returned: ReturnedRecords,
        *,
        log: Logger,
        metrics: FollowMetrics,
        ended: Callable[[list[Ended]], None],
        resumed: Callable[[], None],
    ) -> None:
        """`ended` is told of resends that came to their end.

        `resumed` is called once those of before this process may go on.
        """
        self._connection = connection
        self._store = store
        self._database = database
        self._index = index
        self._remover = remover
        self._returned = returned
        self._log = log
        self._metrics = metrics
        self._ended = ended
        self._resumed = resumed
        self._reading = asyncio.Lock()
        self._created = ""
        self._check_at = 0.0
        self._compare_at = 0.0
        self._fault = ""
        self.changed = asyncio.Event()  # somebody may have something to do with files

    async def run(self) -> None:
        """Follow until cancelled."""
        self._connection.on_reconnect(self._check_soon)
        await self._begin(resend_book.forget_unknown)
        is_resuming = True
        look_at = 0.0
        while True:
            pause = _IDLE_SECONDS
            try:
                read = await self.catch_up()
                if is_resuming:  # behind what ended while there was no monitor
                    await self._database.run(resend_book.queue_again)
                    is_resuming = False
                    self._resumed()
                now = asyncio.get_running_loop().time()
                if read or now >= look_at:
                    await self._look_for_gone()
                    await self._remover.keep_limits()
                    look_at = now + _LOOK_SECONDS
                if await self._returned.look_when_due():
                    self.changed.set()
            except (QueueError, AdminUnwritableError) as error:
                self._fail(str(error))
                self._check_soon()
                pause = _RETRY_SECONDS
            else:
                self._fail("")
            await asyncio.sleep(pause)

    async def catch_up(self) -> int:
        """Read everything that is there now; return how many records that was.

        Raises QueueError, AdminUnwritableError.
        """
        read = 0
        async with self._reading:
            now = asyncio.get_running_loop().time()
            if not self._created or now >= self._check_at:
                await self._check()
                self._check_at = now + _CHECK_SECONDS
            reached = await self._database.run(failed_index.place)
            sequence = reached.sequence
            while failures := await self._store.read(sequence, _READ):
                await self._take(failures)
                sequence = failures[-1].sequence
                read += len(failures)
        return read

    async def _take(self, failures: list[StoredFailure]) -> None:
        created = self._created

        def take(database: sqlite3.Connection) -> list[Ended]:
            ended = failed_index.take(database, created, failures)
            resend_book.count(database, ended)
            return ended

        self._ended(await self._database.run(take))
        self.changed.set()

    def _check_soon(self) -> None:
        """Look at the stream before reading on: it may be another one now."""
        self._check_at = 0.0

    async def _begin(self, do: Callable[[sqlite3.Connection], None]) -> None:
        while True:
            try:
                await self._database.run(do)
            except AdminUnwritableError as error:
                self._fail(str(error))
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return

    async def _check(self) -> None:
        """Begin anew when the stream is another one than the one that was read."""
        stream = self._connection.names.failed_stream
        info = await stream_info(self._connection, stream)
        created = str(info["created"])
        reached = await self._database.run(failed_index.place)
        if _is_another(reached, created, int(info["state"]["last_seq"])):
            await self._database.run(lambda database: failed_index.begin(database, created))
            if reached.created:
                self._log.error("failed_store.is_another", stream=stream, created=created)
        self._created = created

    async def _look_for_gone(self) -> None:
        """Compare the rows with what the stream holds."""
        stream = self._connection.names.failed_stream
        now = asyncio.get_running_loop().time()
        info = await stream_info(self._connection, stream)
        first = int(info["state"]["first_seq"])
        suspects = await self._database.run(
            lambda database: failed_index.before_sequence(database, first, _GONE_AT_ONCE)
        )
        if not suspects and now >= self._compare_at:
            suspects = await self._missing()
            if len(suspects) < _GONE_AT_ONCE:
                self._compare_at = now + _COMPARE_SECONDS
        gone = [
            row
            for row in suspects
            # The leader's word, after everything that came was read.
            if await self._store.last(row.submission, row.recipient) is None
        ]
        if gone and not await self._wait_counted():
            self._compare_at = 0.0  # look for them again: whether they were delivered is not known
            return
        for row in gone:
            await self._note_gone(row)

    async def _wait_counted(self) -> bool:
        """Wait until the index has everything that was told so far, a while at most.

        A monitor that was away counts while this looks, and that a record was delivered may be what
        it has not read yet.
        """
        info = await stream_info(self._connection, self._connection.names.event_stream)
        created, last = str(info["created"]), int(info["state"]["last_seq"])
        end = asyncio.get_running_loop().time() + _COUNTED_SECONDS
        while last:
            ledger = await self._asked_of_index(lambda index: index.ledger)
            if ledger.created == created and ledger.sequence >= last:
                break
            if asyncio.get_running_loop().time() >= end:
                return False
            await asyncio.sleep(_COUNTED_LOOK_SECONDS)
        return True

    async def _missing(self) -> list[FailedRow]:
        """Return rows whose subjects the stream does not have."""
        rows = await self._database.run(failed_index.places)
        if not rows:
            return []
        there = await self._store.places()
        missing = [row for row in rows if row not in there]
        found = []
        for submission, recipient in missing[:_GONE_AT_ONCE]:
            row = await self._row(submission, recipient)
            if row is not None:
                found.append(row)
        return found

    async def _row(self, submission: str, recipient: int) -> FailedRow | None:
        return await self._database.run(lambda db: failed_index.get(db, submission, recipient))

    async def _note_gone(self, row: FailedRow) -> None:
        if await self._was_delivered(row):
            # Its tombstone came and went while nobody looked.
            ended = _end(row, Outcome.DELIVERED)

            def take(database: sqlite3.Connection) -> None:
                failed_index.set_removing(database, row, DONE)
                resend_book.count(database, ended)

            await self._database.run(take)
            self.changed.set()
        else:
            await self._remover.tell(row, DROPPED)
            ended = _end(row, Outcome.GONE)

            def drop(database: sqlite3.Connection) -> None:
                gone_book.drop(database, row)
                resend_book.count(database, ended)

            await self._database.run(drop)
        self._ended(ended)

    async def _was_delivered(self, row: FailedRow) -> bool:
        submission = await self._asked_of_index(lambda index: index.submission(row.submission))
        recipients = submission.recipients if submission is not None else ()
        return any(each.number == row.recipient and each.state in _DELIVERED for each in recipients)

    async def _asked_of_index(self, use: Callable[[Index], _T]) -> _T:
        try:
            return await self._index.run(use)
        except (IndexUnwritableError, IndexDamagedError) as error:
            raise AdminUnwritableError(f"the index is not there to ask: {error}") from error

    def _fail(self, fault: str) -> None:
        if fault and fault != self._fault:
            self._log.error("failed_store.not_followed", reason=fault)
        self._fault = fault
        self._metrics.fault.set(0 if fault else 1)


def _end(row: FailedRow, outcome: Outcome) -> list[Ended]:
    """Return the end of a row's resend, if it has one."""
    return [Ended(row.request, outcome)] if row.stage else []


def _is_another(reached: Place, created: str, last_sequence: int) -> bool:
    return reached.created != created or reached.sequence > last_sequence
