"""Remove again what stands in the failed store although it is gone.

nats-server 2.15.1 rebuilds a stream from its file after it was killed, and takes a record for
present that was only overwritten once what overwrote it was removed (docs/decisions/0025). Records
are overwritten in another way by now; what is in the file from before is not, nor what the stream
dropped by itself, nor what a kill left beside the record that was to take its place.

The rows say what must be there: whatever was read once and has none was delivered or removed.
Looked at when the monitor starts, each time that the connection is back, and once an hour, for of
three servers one may restart without the monitor's connection noticing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mailrelay.mail.ids import QueueId, is_queue_id
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.epoch import Epoch
from mailrelay.queue.failed import FailedStore
from mailrelay.runtime.logging import Logger
from mailrelay_monitor import failed_index, gone_book
from mailrelay_monitor.admin_database import AdminDatabase

_LOOK_SECONDS = 3600.0


class ReturnedRecords:
    """Compares the stream with the rows, and removes what has none."""

    def __init__(
        self,
        connection: QueueConnection,
        store: FailedStore,
        database: AdminDatabase,
        *,
        log: Logger,
        prompt: Callable[[QueueId], None],
    ) -> None:
        """`prompt` is told of submissions whose stored content may be done with."""
        self._store = store
        self._database = database
        self._log = log
        self._prompt = prompt
        self._epoch = Epoch.of_stream(connection, connection.names.failed_stream)
        self._look_at = 0.0
        connection.on_reconnect(self._look_soon)

    def _look_soon(self) -> None:
        self._look_at = 0.0

    async def look_when_due(self) -> bool:
        """Look, when it is time to; True when a row was made that needs its file.

        To be called behind reading everything that is there. Raises QueueError,
        AdminUnwritableError: then it stays due.
        """
        now = asyncio.get_running_loop().time()
        if now < self._look_at:
            return False
        self._look_at = now + _LOOK_SECONDS  # first: a reconnect meanwhile makes it due again
        try:
            return await self._look()
        except BaseException:
            self._look_soon()
            raise

    async def _look(self) -> bool:
        created = await self._epoch.current()
        standing = await self._store.places()
        known = set(await self._database.run(failed_index.all_places))
        taken_back = False
        for (submission, recipient), records in standing.items():
            if recipient < 0 or not is_queue_id(submission):
                continue  # nothing of ours stores there, and what it names might be a pattern
            if records > 1:
                await self._store.keep_last(submission, recipient)
            if (submission, recipient) not in known:
                taken_back |= await self._judge(created, submission, recipient)
        return taken_back

    async def _judge(self, created: str, submission: QueueId, recipient: int) -> bool:
        last = await self._store.last(submission, recipient)
        if last is None or last.is_done:
            return False
        if not await self._database.run(lambda db: gone_book.is_gone(db, created, last)):
            return False  # it came since everything was read
        if await self._database.run(lambda db: gone_book.take_back(db, last)):
            self._log.warning("failed.is_back", id=submission, recipient=recipient)
            return True
        # Asked behind the last answer: the number may be a new record's in a server that lost its
        # data, and what is sent now goes to the server that was asked.
        if await self._epoch.current() != created:
            return False
        if await self._store.remove_up_to(submission, recipient, last.sequence):
            self._log.warning("failed.removed_again", id=submission, recipient=recipient)
            self._prompt(submission)
        return False
