"""Tell what happened, in batches, and read it back in order (queue rule 15).

Writing is clocked by the server's acks: what waits goes out together as soon as the last batch is
stored, and nothing waits to fill a batch. When events cannot be stored the oldest are dropped and
counted; mail never waits for an event longer than `WAIT_SECONDS`.

Reading needs no consumer: the reader asks for what follows a sequence number that it keeps itself,
beside what it made of the events, in one transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec
from nats.aio.msg import Msg
from prometheus_client import Counter

from mailrelay.mail.event import Accepted, Attempted, Event
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.errors import QueueError, QueueUnavailableError
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.wire import KnownEvent, RecordError, decode_events, encode_events
from mailrelay.runtime.steps import passed

events_dropped = Counter("mailrelay_events_dropped_total", "Events that could not be told.")

WAIT_SECONDS = 1.0
_MAX_PER_RECORD = 200
_MAX_RECORD_BYTES = 2 * 1024 * 1024  # a single event may be larger, up to some 5 MB
_FIELDS_BYTES = 200
_CAPACITY = 20_000
_PAUSE_SECONDS = 0.25
_READ_BATCH = 256
_READ_BYTES = 4 * 1024 * 1024
_READ_TIMEOUT_SECONDS = 3.0


class EventWriter:
    """Stores the events of one process; run it beside the process's work."""

    def __init__(
        self, connection: QueueConnection, publisher: Publisher, on_gap: Callable[[int], None]
    ) -> None:
        """`on_gap` is told how many events were dropped."""
        self._connection = connection
        self._publisher = publisher
        self._subject = connection.names.event_subject(connection.role)
        self._instance = secrets.token_hex(8)
        self._on_gap = on_gap
        self._waiting: deque[tuple[Event, asyncio.Future[None]]] = deque()
        self._wake = asyncio.Event()
        self._written = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def tell(self, event: Event) -> asyncio.Future[None]:
        """Queue an event; the future is done once it is stored (or was dropped)."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if len(self._waiting) >= _CAPACITY:
            _, dropped = self._waiting.popleft()
            _finish(dropped)
            self._on_gap(1)
        self._waiting.append((event, future))
        self._idle.clear()
        self._wake.set()
        return future

    async def tell_and_wait(self, event: Event) -> None:
        """Queue an event and wait until it is stored, at most `WAIT_SECONDS` with a queue there.

        While the connection is away nothing else can be done either: whoever acks a record behind
        its event would leave a gap if the process died in between.
        """
        stored = self.tell(event)
        while not stored.done():
            was_connected = self._connection.is_connected
            await asyncio.wait({stored}, timeout=WAIT_SECONDS)
            if was_connected and self._connection.is_connected:
                return

    async def wait_written(self, limit_seconds: float) -> None:
        """Wait until everything told so far is stored, `limit_seconds` at most."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), limit_seconds)

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._wake.wait()
            batch = self._next_batch()
            if not batch:
                self._wake.clear()
                self._idle.set()
                continue
            self._written += 1
            record = Record(
                self._subject,
                encode_events([event for event, _ in batch]),
                f"{self._instance}/{self._written}",
            )
            try:
                await self._publisher.store(record)
                passed("event.stored")
            except QueueUnavailableError:
                self._waiting.extendleft(reversed(batch))
                # The same events may go out again in other company: readers take events twice.
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            except QueueError:
                self._on_gap(len(batch))
                await asyncio.sleep(_PAUSE_SECONDS)
            for _, future in batch:
                _finish(future)

    def _next_batch(self) -> list[tuple[Event, asyncio.Future[None]]]:
        batch: list[tuple[Event, asyncio.Future[None]]] = []
        size = 0
        while self._waiting and len(batch) < _MAX_PER_RECORD:
            size += _size_bytes(self._waiting[0][0])
            if batch and size > _MAX_RECORD_BYTES:
                break
            batch.append(self._waiting.popleft())
        return batch


def _size_bytes(event: Event) -> int:
    """About how large an event is in its record."""
    if isinstance(event, Accepted):
        return _FIELDS_BYTES + sum(len(address) + 8 for address in event.recipients)
    if isinstance(event, Attempted):
        return _FIELDS_BYTES + sum(
            _FIELDS_BYTES + len(address) + len(outcome.reply.text)
            for address, outcome in zip(event.addresses, event.outcomes, strict=True)
        )
    return _FIELDS_BYTES


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


@dataclass(frozen=True, slots=True)
class EventRecord:
    """Stored events and their place; `events` is empty for a record that cannot be read."""

    sequence: int
    stored_at: float
    events: list[KnownEvent]
    unreadable: str = ""


class EventReader:
    """Reads the event stream from any place on."""

    def __init__(self, connection: QueueConnection) -> None:
        self._connection = connection
        self._reader = BatchReader(
            connection, connection.names.event_stream, f"{connection.names.prefix}.event.>"
        )

    async def read(self, after: int) -> list[EventRecord]:
        """Return the next records behind sequence `after`, none when there are none yet.

        Raises QueueUnavailableError.
        """
        records = []
        for message in await self._reader.read(after + 1):
            try:
                events: list[KnownEvent] = decode_events(message.payload)
                fault = ""
            except RecordError as error:
                events, fault = [], str(error)
            records.append(EventRecord(message.sequence, message.stored_at, events, fault))
        return records


class _Range(msgspec.Struct, omit_defaults=True):
    seq: int
    batch: int
    max_bytes: int
    next_by_subj: str


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A record as it stands in its stream."""

    subject: str
    sequence: int
    stored_at: float
    payload: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class BatchReader:
    """Reads a stream's records in order by batched direct gets: no consumer, no state there."""

    def __init__(self, connection: QueueConnection, stream: str, subject_filter: str) -> None:
        self._connection = connection
        self._subject = f"$JS.API.DIRECT.GET.{stream}"
        self._filter = subject_filter

    async def read(self, sequence: int, batch: int = _READ_BATCH) -> list[StoredMessage]:
        """Return up to `batch` records from `sequence` on. Raises QueueUnavailableError."""
        found: list[StoredMessage] = []
        done = asyncio.Event()
        unavailable: list[str] = []

        async def receive(message: Msg) -> None:
            headers = message.headers or {}
            status = headers.get("Status")
            if status is None:
                found.append(_stored(message, headers))
                return
            if status not in {"204", "404"}:  # end of batch, nothing there
                unavailable.append(f"{status} {headers.get('Description', '')}")
            done.set()

        inbox = self._connection.new_inbox()
        subscription = await self._connection.subscribe(inbox, receive)
        try:
            request = _Range(sequence, batch, _READ_BYTES, self._filter)
            await self._connection.publish_nowait(
                self._subject, msgspec.json.encode(request), reply=inbox
            )
            # No wait_for: on Python 3.11 it may swallow a cancellation.
            async with asyncio.timeout(_READ_TIMEOUT_SECONDS):
                await done.wait()
        except TimeoutError as error:
            msg = f"no answer from {self._subject}"
            raise QueueUnavailableError(msg) from error
        finally:
            await subscription.unsubscribe()
        if unavailable:
            raise QueueUnavailableError(unavailable[0])
        return found


def _stored(message: Msg, headers: dict[str, str]) -> StoredMessage:
    return StoredMessage(
        headers.get("Nats-Subject", ""),
        int(headers.get("Nats-Sequence", "0")),
        epoch_seconds(headers.get("Nats-Time-Stamp", "")),
        message.data,
        headers,
    )


def epoch_seconds(text: str) -> float:
    """Read RFC 3339 with up to nine decimals, as the server writes it."""
    from datetime import datetime  # noqa: PLC0415

    whole, _, fraction = text.rstrip("Z").partition(".")
    try:
        base = datetime.fromisoformat(whole + "+00:00").timestamp()
    except ValueError:
        return 0.0
    return base + (float("0." + fraction) if fraction.isdigit() else 0.0)
