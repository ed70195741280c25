"""Read what happened, in order and exactly once as far as the totals go.

The place reached is kept beside what was made of the events (`index`), so this may be stopped
anywhere. Records that aged out before they were read are counted and told. When the event stream
is another one than before, the queue has lost its data (queue rule 14): the totals stay, reading
begins at the new stream's first record, and it is said loudly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Gauge

from mailrelay.mail.event import Abandoned, Attempted, Discarded
from mailrelay.mail.ids import QueueId
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.errors import STREAM_NOT_FOUND, QueueError, QueueRefusedError
from mailrelay.queue.events import EventReader, EventRecord
from mailrelay.queue.leader import stream_info
from mailrelay.runtime.clock import Clock
from mailrelay.runtime.logging import Logger
from mailrelay.runtime.steps import passed
from mailrelay_monitor.checkpoint import Checkpoint
from mailrelay_monitor.index import Index
from mailrelay_monitor.index_file import IndexDamagedError, IndexUnwritableError
from mailrelay_monitor.index_thread import IndexThread
from mailrelay_monitor.totals import Ledger

_IDLE_SECONDS = 0.4  # between two looks while nothing happens
# After a while of nothing: each look costs the server as much as us, together 0.1 % of a core a Hz.
_QUIET_SECONDS = 0.8
_QUIET_AFTER_SECONDS = 20.0
_BUSY_SECONDS = 0.1  # while little happens: many small reads would cost more than they bring
_MANY_RECORDS = 64  # so many at once: more are waiting, read on at once
_CHECK_SECONDS = 5.0
_RETRY_SECONDS = 1.0
_PRUNE_SECONDS = 3600.0
# Older final events prompt no deletion of a body: it went long ago, or the sweep finds it.
_PROMPT_SECONDS = 3600.0


class CollectorMetrics:
    """How well the monitor keeps up."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.behind = Gauge(
            "mailrelay_event_lag_records",
            "Event records stored and not yet counted.",
            registry=registry,
        )


class Collector:
    """The reader of the event stream. `ledger` and the rest are its last word, for anybody."""

    def __init__(  # noqa: PLR0913 — it is where these meet
        self,
        connection: QueueConnection,
        index: IndexThread,
        checkpoint: Checkpoint,
        *,
        clock: Clock,
        log: Logger,
        metrics: CollectorMetrics,
        prompt: Callable[[QueueId], None],
        prompt_abandoned: Callable[[QueueId], None],
    ) -> None:
        """`prompt` is told of submissions whose stored content may be done with.

        `prompt_abandoned` of those whose content was stored in vain.
        """
        self._connection = connection
        self._reader = EventReader(connection)
        self._index = index
        self._checkpoint = checkpoint
        self._clock = clock
        self._log = log
        self._metrics = metrics
        self._prompt = prompt
        self._prompt_abandoned = prompt_abandoned
        self._is_open = False
        self._check_at = 0.0
        self._prune_at = 0.0
        self._heard_at = 0.0
        self._created = ""
        self._last = 0  # the stream's last sequence when it was looked at
        self.ledger = Ledger()
        self.is_caught_up = False  # has read everything at least once since the start
        self.fault = "the totals are not read yet"  # why nothing is counted now, or empty

    async def run(self) -> None:
        """Collect until cancelled."""
        self._connection.on_reconnect(self._check_soon)
        while True:
            pause = _RETRY_SECONDS
            try:
                if not self._is_open:
                    await self._open()
                pause = await self._turn()
            except QueueError as error:
                if self._is_too_early(error):
                    self._wait_for_streams()
                else:
                    self._fail(f"events cannot be read: {error}")
                self._check_soon()
            except IndexUnwritableError as error:
                self._fail(f"the index cannot be written: {error}")
            except IndexDamagedError as error:
                self._fail(f"the index is damaged: {error}")
                self._is_open = False
            else:
                self.fault = ""
            if pause:
                await asyncio.sleep(pause)

    def _check_soon(self) -> None:
        """Look at the stream before reading on: it may be another one now."""
        self._check_at = 0.0

    def _is_too_early(self, error: QueueError) -> bool:
        """Whether the queue was never made: a stream that was read before, and is gone, is lost."""
        return (
            isinstance(error, QueueRefusedError)
            and error.err_code == STREAM_NOT_FOUND
            and not self.ledger.created
        )

    def _wait_for_streams(self) -> None:
        waiting = "the queue has no streams yet"
        if waiting != self.fault:
            self._log.info("collector.waits", reason=waiting)
        self.fault = waiting

    def _fail(self, fault: str) -> None:
        if fault != self.fault:
            self._log.error("collector.fault", reason=fault)
        self.fault = fault

    async def _open(self) -> None:
        try:
            ledger = await self._index.open()
            reason = "there is none"
        except IndexDamagedError as error:
            ledger, reason = None, str(error)
        if ledger is None:
            checkpoint = await self._checkpoint.read()
            ledger = await self._index.make(checkpoint or Ledger())
            self._log.warning(
                "index.made_anew",
                reason=reason,
                path=str(self._index.path),
                total_emails=ledger.totals.total_emails,
                counted_to=ledger.counted_to,
            )
        self.ledger = ledger
        self._is_open = True
        self._check_soon()

    async def _turn(self) -> float:
        """Read once; return how long to wait before the next time."""
        now = asyncio.get_running_loop().time()
        if now >= self._check_at:
            await self._check()
            self._check_at = now + _CHECK_SECONDS
        records = await self._reader.read(self.ledger.sequence)
        if records:
            await self._take(records)
        elif now >= self._prune_at:
            more = await self._index.run(Index.prune)
            self._prune_at = now if more else now + _PRUNE_SECONDS
        self._last = max(self._last, self.ledger.sequence)
        self._metrics.behind.set(self._last - self.ledger.sequence)
        if self.ledger.sequence >= self._last:
            self.is_caught_up = True
        if records:
            self._heard_at = now
            return 0 if len(records) >= _MANY_RECORDS else _BUSY_SECONDS
        return _IDLE_SECONDS if now - self._heard_at < _QUIET_AFTER_SECONDS else _QUIET_SECONDS

    async def _check(self) -> None:
        """Compare our place with the stream as its leader sees it."""
        info = await stream_info(self._connection, self._connection.names.event_stream)
        created, state = str(info["created"]), info["state"]
        first, last = int(state["first_seq"]), int(state["last_seq"])
        ledger = self.ledger
        if ledger.created and (
            ledger.created != created or max(ledger.sequence, ledger.counted_to) > last
        ):
            ledger = await self._index.run(lambda index: index.begin_epoch(created))
            self._log.critical(
                "queue.data_lost",
                stream=self._connection.names.event_stream,
                created=created,
                lost_emails=ledger.totals.lost_emails,
                meaning="the queue is another one than before: mail that waited in it is lost",
            )
        # What aged out altogether is never read, so no record would show the gap.
        gone_to = first - 1 if state["messages"] else last
        if gone_to > ledger.sequence:
            missed = max(0, gone_to - max(ledger.sequence, ledger.counted_to))
            ledger = await self._index.run(lambda index: index.skip_to(created, gone_to, missed))
            self._tell_missed(missed)
        self.ledger, self._created, self._last = ledger, created, last

    async def _take(self, records: list[EventRecord]) -> None:
        missed = missed_records(self.ledger, records)
        created = self._created
        self.ledger = await self._index.run(lambda index: index.apply(created, records, missed))
        passed("collect.counted")
        self._tell_missed(missed)
        for record in records:
            if record.unreadable:
                self._log.error(
                    "events.unreadable", sequence=record.sequence, reason=record.unreadable
                )
        self._prompt_deletions(records)

    def _tell_missed(self, missed: int) -> None:
        if missed:
            self._log.error(
                "events.missed",
                records=missed,
                meaning="they aged out before they were read: the totals are too low",
            )

    def _prompt_deletions(self, records: list[EventRecord]) -> None:
        oldest = self._clock() - _PROMPT_SECONDS
        for record in records:
            if record.stored_at < oldest:
                continue
            for event in record.events:
                if isinstance(event, Abandoned):
                    self._prompt_abandoned(event.summary.submission)
                elif (isinstance(event, Discarded) and event.summary.stored_body) or (
                    isinstance(event, Attempted)
                    and event.summary.stored_body
                    and all(outcome.disposition.is_final for outcome in event.outcomes)
                ):
                    self._prompt(event.summary.submission)


def missed_records(ledger: Ledger, records: Sequence[EventRecord]) -> int:
    """Count the sequence numbers that no record has, where they are not counted already."""
    missed = 0
    previous = max(ledger.sequence, ledger.counted_to)
    for record in records:
        if record.sequence > previous:
            missed += record.sequence - previous - 1
            previous = record.sequence
    return missed
