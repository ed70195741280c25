"""Remove failed records that were not delivered: by hand, or the oldest past a limit.

The only place that does. Why one goes is noted first (`failed_index`), so that a removal that the
process's end broke off is finished, and not taken for something that the stream dropped. A resend
that is under way is not called back, but what it comes to is not stored any more.

Removed is what was meant and no more: up to the sequence number that its row has. What stands in
its place then is read first. A copy that a resend made of the same failure is meant as well when
it is deleted by hand; what was delivered or failed again stays what it is.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from mailrelay.config.model import Failed
from mailrelay.mail.event import Discarded, Summary
from mailrelay.mail.ids import QueueId
from mailrelay.mail.job import ResendMark
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.errors import QueueUnavailableError
from mailrelay.queue.events import EventWriter
from mailrelay.queue.failed import FailedStore
from mailrelay.runtime.clock import Clock
from mailrelay.runtime.logging import Logger
from mailrelay.runtime.steps import passed
from mailrelay_monitor import failed_index, resend_book
from mailrelay_monitor.admin_database import AdminDatabase
from mailrelay_monitor.failed_files import FailedFiles
from mailrelay_monitor.failed_row import Ended, FailedRow, Outcome

BY_HAND: Final = "by_hand"
MAX_AGE: Final = "max_age"
MAX_RECORDS: Final = "max_records"
MAX_BYTES: Final = "max_bytes"
DROPPED: Final = "dropped_by_stream"
# Of the stream's own limit, so that the monitor is there first and it is known what goes.
SHARE_OF_STREAM = 0.9
_AT_ONCE = 500
_LOOKS = 50
_LOOK_AGAIN_SECONDS = 0.1
_OVERHEAD_BYTES = 100  # of a record in its stream: subject, headers, the server's own


class RemovalMetrics:
    """What went without having been delivered."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.discarded = Counter(
            "mailrelay_failed_discarded",
            "Failed records that are gone without having been delivered.",
            # by_hand; max_age, max_records, max_bytes: past a limit of `failed`;
            # dropped_by_stream: gone without the monitor
            ["reason"],
            registry=registry,
        )
        for reason in (BY_HAND, MAX_AGE, MAX_RECORDS, MAX_BYTES, DROPPED):
            self.discarded.labels(reason)  # 0: the first one is an increase, too
        self.records = Gauge(
            "mailrelay_failed_records",
            "Recipients in the failed store, as its limits count them.",
            registry=registry,
        )
        self.limit_records = Gauge(
            "mailrelay_failed_limit_records",
            "How many there may be: beyond, the oldest goes.",
            registry=registry,
        )
        self.limit_bytes = Gauge(
            "mailrelay_failed_limit_bytes",
            "Octets that they may take in the queue: beyond, the oldest goes.",
            registry=registry,
        )


@dataclass(frozen=True, slots=True)
class Held:
    """What the failed store holds, as the limits see it."""

    records: int
    stored_bytes: int
    max_bytes: int


class FailedRemover:
    """Removes, and tells."""

    def __init__(  # noqa: PLR0913 — it is where these meet
        self,
        connection: QueueConnection,
        store: FailedStore,
        database: AdminDatabase,
        files: FailedFiles,
        events: EventWriter,
        limits: Failed,
        *,
        clock: Clock,
        log: Logger,
        metrics: RemovalMetrics,
        prompt: Callable[[QueueId], None],
        ended: Callable[[list[Ended]], None],
        catch_up: Callable[[], Awaitable[object]],
    ) -> None:
        """`prompt` is told of submissions whose stored content may be done with.

        `catch_up` reads everything that came into the store.
        """
        self._connection = connection
        self._store = store
        self._database = database
        self._files = files
        self._events = events
        self._limits = limits
        self._clock = clock
        self._log = log
        self._metrics = metrics
        self._prompt = prompt
        self._ended = ended
        self._catch_up = catch_up
        self._removing = asyncio.Lock()

    async def remove(self, row: FailedRow) -> bool:
        """Remove a failure by hand, with its file.

        False when it went meanwhile, by another request or because it was delivered, or when
        another failure is in its place. Raises QueueError, AdminUnwritableError.
        """
        async with self._removing:
            now = await self._row(row)
            if now is None or not now.is_of_failure(row):
                return False
            return await self._remove(now, BY_HAND)

    async def keep_limits(self) -> None:
        """Remove what is past a limit, oldest first, and finish what was broken off.

        Raises QueueError, AdminUnwritableError.
        """
        async with self._removing:
            for row in await self._database.run(
                lambda database: failed_index.being_removed(database, _AT_ONCE)
            ):
                await self._carry_out(row, row.removing)
            for row, reason in await self._beyond():
                if not await self._is_being_resent(row):
                    await self._remove(row, reason)

    async def tell(self, row: FailedRow, reason: str) -> None:
        """Say that a record is gone without having been delivered; twice after a crash."""
        self._metrics.discarded.labels(reason).inc()
        self._log.warning(
            "failed.discarded",
            id=row.submission,
            recipient=row.address,
            reason=reason,
            failed_at=row.failed_at,
            reply=row.reply,
        )
        summary = Summary(
            row.submission,
            row.reverse_path,
            row.size_bytes,
            row.total_recipients,
            row.accepted_at,
            row.stored_body,
        )
        event = Discarded(summary, self._clock(), row.recipient, row.address, reason)
        await self._events.tell_and_wait(event)
        if row.stored_body:
            self._prompt(row.submission)

    async def _remove(self, row: FailedRow, reason: str) -> bool:
        noted = await self._database.run(
            lambda database: failed_index.set_removing(database, row, reason)
        )
        passed("discard.noted")
        return noted and await self._carry_out(row, reason)

    async def _carry_out(self, row: FailedRow, reason: str) -> bool:
        """Remove what is noted as going; False when it is another record that stands there now."""
        while not await self._is_removed(row):
            if reason != BY_HAND:
                # A resend took it up, or ended: it is not the oldest any more.
                await self._database.run(lambda db: failed_index.keep(db, row, reason))  # noqa: B023 — it is run here
                return False
            now = await self._meant_still(row)
            if now is None:
                return False
            row = now
        passed("discard.removed")
        await self._files.remove(row)
        passed("discard.file_removed")
        await self.tell(row, reason)
        ended = [Ended(row.request, Outcome.GONE)] if row.stage else []

        def delete(database: sqlite3.Connection) -> None:
            failed_index.delete(database, row)
            resend_book.count(database, ended)

        await self._database.run(delete)
        self._ended(ended)
        return True

    async def _is_removed(self, row: FailedRow) -> bool:
        """Remove the record that a row is of; False when something newer stands in its place."""
        await self._store.remove_up_to(row.submission, row.recipient, row.sequence)
        return await self._store.last(row.submission, row.recipient) is None

    async def _meant_still(self, row: FailedRow) -> FailedRow | None:
        """Read what stands in a row's place by now; None when that is not what was to go."""
        for _ in range(_LOOKS):
            await self._catch_up()
            now = await self._row(row)
            if now is None or now.removing != BY_HAND:
                return None
            if now.sequence > row.sequence:
                return now
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)  # the server that was read from lags behind
        msg = f"what stands in the place of {row.submission}/{row.recipient} cannot be read"
        raise QueueUnavailableError(msg)

    async def _row(self, row: FailedRow) -> FailedRow | None:
        """Return what is known by now of a row's place."""
        return await self._database.run(
            lambda database: failed_index.get(database, row.submission, row.recipient)
        )

    async def _beyond(self) -> list[tuple[FailedRow, str]]:
        """Return what is past a limit now, and which."""
        limits, found = self._limits, list[tuple[FailedRow, str]]()
        if limits.max_age_seconds:
            before = self._clock() - limits.max_age_seconds
            found += [
                (row, MAX_AGE)
                for row in await self._database.run(
                    lambda database: failed_index.accepted_before(database, before, _AT_ONCE)
                )
            ]
        held = await self._held()
        self._metrics.records.set(held.records)
        self._metrics.limit_records.set(limits.max_records)
        self._metrics.limit_bytes.set(held.max_bytes)
        over = held.records - limits.max_records
        excess = held.stored_bytes - held.max_bytes
        if over <= 0 and excess <= 0:
            return found
        rows = await self._database.run(lambda database: failed_index.oldest(database, _AT_ONCE))
        for number, row in enumerate(rows):
            if number < over:
                found.append((row, MAX_RECORDS))
            elif excess > 0:
                found.append((row, MAX_BYTES))
            else:
                break
            excess -= row.record_bytes + _OVERHEAD_BYTES
        unique = {(row.submission, row.recipient): (row, why) for row, why in reversed(found)}
        return list(unique.values())

    async def _held(self) -> Held:
        info = await self._connection.api(f"STREAM.INFO.{self._connection.names.failed_stream}")
        of_stream = int(int(info["config"]["max_bytes"]) * SHARE_OF_STREAM)
        wanted = self._limits.max_bytes
        records = await self._database.run(failed_index.total)
        return Held(
            records,
            int(info["state"]["bytes"]),
            min(wanted, of_stream) if wanted else of_stream,
        )

    async def _is_being_resent(self, row: FailedRow) -> bool:
        if not row.mark_sequence:
            return False
        mark = ResendMark(self._connection.names.lane_stream, row.mark_sequence, row.mark_stored_at)
        return await self._store.is_in_lane(mark)
