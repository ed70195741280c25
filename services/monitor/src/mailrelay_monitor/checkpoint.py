"""The totals kept at NATS too, for the day on which the index file is lost.

At most every ten seconds and at the end; what came after the last one is counted again from the
event stream.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.errors import QueueError, QueueRefusedError
from mailrelay.queue.publish import Publisher, Record
from mailrelay.runtime.clock import Clock
from mailrelay.runtime.logging import Logger
from mailrelay.runtime.steps import passed
from mailrelay_monitor.totals import Ledger

FORMAT_VERSION: Final = 1
_INTERVAL_SECONDS = 10.0
_STORE_SECONDS = 1.0  # at the end of the process nobody waits for longer
_NOT_FOUND = 10037


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    version: int
    at: float
    ledger: Ledger


class Checkpoint:
    """Reads and writes the one record."""

    def __init__(
        self, connection: QueueConnection, publisher: Publisher, clock: Clock, log: Logger
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        self._names = connection.names
        self._clock = clock
        self._log = log
        self._stored: Ledger | None = None

    async def read(self) -> Ledger | None:
        """Return a ledger to begin new rows with; None when there is no usable one.

        Raises QueueError when that cannot be told now.
        """
        try:
            answer = await self._connection.api(
                f"STREAM.MSG.GET.{self._names.checkpoint_stream}",
                {"last_by_subj": self._names.checkpoint_subject},
            )
        except QueueRefusedError as error:
            if error.err_code == _NOT_FOUND:
                return None
            raise
        try:
            found = msgspec.json.decode(
                base64.b64decode(answer["message"].get("data", "")), type=_Checkpoint
            )
        except (ValueError, msgspec.MsgspecError) as error:
            self._log.error("checkpoint.unreadable", error=str(error))
            return None
        if found.version != FORMAT_VERSION:
            self._log.error("checkpoint.unreadable", version=found.version)
            return None
        return replace(found.ledger, sequence=0, known_before=found.at)

    async def store(self, ledger: Ledger) -> None:
        """Store it if it changed. Raises QueueError."""
        if ledger == self._stored or not ledger.created:
            return
        payload = msgspec.json.encode(_Checkpoint(FORMAT_VERSION, self._clock(), ledger))
        record = Record(self._names.checkpoint_subject, payload, "")
        await self._publisher.store(record, deadline_seconds=_STORE_SECONDS)
        passed("checkpoint.stored")
        self._stored = ledger

    async def run(self, ledger: Callable[[], Ledger]) -> None:
        """Store what `ledger` returns, whenever it changed, until cancelled."""
        while True:
            await asyncio.sleep(_INTERVAL_SECONDS)
            try:
                await self.store(ledger())
            except QueueError as error:
                self._log.warning("checkpoint.not_stored", error=str(error))
