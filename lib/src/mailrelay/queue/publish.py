"""Store records, one or several all together (queue rules 1 and 5).

An unknown outcome (time-out, no leader) is settled by repeating the *same* publish under the same
ids until the deadline; the server's duplicate window turns the repeat of a stored record into a
success. A definite refusal is raised at once.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.errors import QueueRefusedError, QueueUnavailableError, refusal
from mailrelay.runtime.steps import passed

TRY_TIMEOUT_SECONDS = 2.0
# Longer than a leader election and a server restart, shorter than a client's patience
# (RFC 5321 section 4.5.3.2.6 gives it ten minutes after the final dot).
DEADLINE_SECONDS = 15.0
DUPLICATE_WINDOW_SECONDS = 120
MAX_BATCH = 1000  # the server's limit on an atomic batch (10199 beyond)
_PAUSE_SECONDS = 0.1
_ALREADY_STORED = 10201  # an atomic batch holds an id that is stored already


@dataclass(frozen=True, slots=True)
class Record:
    """One record to store; `message_id` names exactly its content (queue rule 5)."""

    subject: str
    payload: bytes
    message_id: str
    headers: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """The queue's word that a record is safe on disk."""

    sequence: int
    duplicate: bool
    total: int | None = None  # of a counter, behind an addition


_T = TypeVar("_T")
# Says by an exception that a record must not be stored (any more).
Guard = Callable[[], Awaitable[None]]


class _AckError(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _PubAck(msgspec.Struct):
    seq: int = 0
    duplicate: bool = False
    val: str = ""
    error: _AckError | None = None


_pub_ack = msgspec.json.Decoder(_PubAck)


class Publisher:
    """Stores records over one connection."""

    def __init__(self, connection: QueueConnection) -> None:
        self._connection = connection

    async def store(
        self,
        record: Record,
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
        guard: Guard | None = None,
    ) -> Stored:
        """Store one record.

        `guard` is asked before each try. What it raises ends it, unless it is that the queue is
        away: that leaves an outcome as unknown as it was, so the try is repeated.

        Raises QueueFullError, RecordTooLargeError, QueueRefusedError (nothing stored), or
        QueueUnavailableError when the deadline passed with the outcome unknown.
        """
        headers = dict(record.headers or {})
        if record.message_id:
            headers["Nats-Msg-Id"] = record.message_id
        deadline = _Deadline(deadline_seconds)
        while True:
            try:
                if guard is not None:
                    await guard()
                answer = await self._connection.request(
                    record.subject,
                    record.payload,
                    headers=headers or None,
                    timeout_seconds=deadline.try_timeout(),
                    on_sent=_sent,
                )
                passed("publish.answered")
                return _read_ack(answer.data)
            except QueueUnavailableError:
                await asyncio.sleep(_PAUSE_SECONDS)
                # Behind the pause: a process that was stopped in it comes too late for the
                # server's duplicate window.
                if deadline.is_over():
                    raise

    async def store_together(
        self,
        records: Sequence[Record],
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
        guard: Guard | None = None,
    ) -> None:
        """Store all records or none, as one atomic batch (at most `MAX_BATCH`).

        Raises as `store` does. A batch repeated after an unknown outcome is refused as known
        when it was stored the first time: that is the success it is taken for.
        """
        if len(records) == 1:
            await self.store(records[0], deadline_seconds=deadline_seconds, guard=guard)
            return
        deadline = _Deadline(deadline_seconds)
        repeated = False
        while True:
            was_tried = False
            try:
                if guard is not None:
                    await guard()
                was_tried = True
                await self._store_batch(records, deadline.try_timeout())
            except QueueUnavailableError:
                await asyncio.sleep(_PAUSE_SECONDS)
                if deadline.is_over():
                    raise
                repeated = repeated or was_tried
            except QueueRefusedError as error:
                if repeated and error.err_code == _ALREADY_STORED:
                    return
                raise
            else:
                return

    async def _store_batch(self, records: Sequence[Record], timeout_seconds: float) -> None:
        batch_id = secrets.token_hex(16)
        last = len(records)
        for number, record in enumerate(records, start=1):
            headers = {
                **(record.headers or {}),
                "Nats-Msg-Id": record.message_id,
                "Nats-Batch-Id": batch_id,
                "Nats-Batch-Sequence": str(number),
            }
            if number == last:
                headers["Nats-Batch-Commit"] = "1"
            if number in {1, last}:
                # The first is answered too, so that a batch that cannot begin fails at once.
                answer = await self._connection.request(
                    record.subject,
                    record.payload,
                    headers=headers,
                    timeout_seconds=timeout_seconds,
                    on_sent=_batch_record_sent,
                )
                passed("batch.answered")  # begun, or at the last record all stored
                if number == last or answer.data:
                    _read_ack(answer.data)
            else:
                await self._connection.publish_nowait(
                    record.subject, record.payload, headers=headers
                )
                _batch_record_sent()


async def repeat_while_away(
    question: Callable[[], Awaitable[_T]], deadline_seconds: float = DEADLINE_SECONDS
) -> _T:
    """Ask something of the queue as patiently as a record is stored. Raises what it raises."""
    deadline = _Deadline(deadline_seconds)
    while True:
        try:
            return await question()
        except QueueUnavailableError:
            await asyncio.sleep(_PAUSE_SECONDS)
            if deadline.is_over():
                raise


def _sent() -> None:
    passed("publish.sent")


def _batch_record_sent() -> None:
    passed("batch.record_sent")


class _Deadline:
    """How long a publish may still be repeated."""

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._ends_at = self._loop.time() + seconds

    def try_timeout(self) -> float:
        """Return the time for one try."""
        return max(0.05, min(TRY_TIMEOUT_SECONDS, self._ends_at - self._loop.time()))

    def is_over(self) -> bool:
        """Whether there is no time for another try."""
        return self._loop.time() >= self._ends_at


def _read_ack(payload: bytes) -> Stored:
    try:
        ack = _pub_ack.decode(payload)
    except msgspec.DecodeError as error:
        # Anything but a PubAck proves nothing: treat it as unknown.
        msg = f"unreadable answer {payload[:80]!r}"
        raise QueueUnavailableError(msg) from error
    if ack.error is not None:
        raise refusal(ack.error.code, ack.error.err_code, ack.error.description)
    return Stored(ack.seq, ack.duplicate, int(ack.val) if ack.val else None)
