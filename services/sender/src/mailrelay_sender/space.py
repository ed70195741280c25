"""Whether the lanes have room for what new mail may need (queue rule 7).

An attempt may end in a deferral, and a deferral must be stored before its job is acked. So new mail
is not claimed when the lanes are nearly full: due mail and resends go on, for each of them takes
the place that it gives up, and once the upstream takes mail again they make room. What is reserved
above the mark is one record for each job that this sender may have open.

The body stream has no such mark: it fills up with mail that was never tried, whose delivery alone
makes room there (docs/decisions/0022).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from prometheus_client import Gauge

from mailrelay.queue.bodies import MAX_COPIED_BYTES
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.errors import QueueError
from mailrelay.queue.levels import Level, level_of
from mailrelay.runtime.logging import Logger

LOOK_SECONDS = 0.5
# A deferred record's content, copied, and its recipients' histories.
_RECORD_BYTES = 2 * MAX_COPIED_BYTES
_MIN_FRACTION = 0.1  # other senders' open jobs, and what they store between two looks
_MAX_FRACTION = 0.5  # of a store so small that a sender's open jobs could fill it
_RESUME_FRACTION = 0.9  # of the mark: not on and off with each record

_takes_new = Gauge(
    "mailrelay_takes_new_mail", "1 while new mail is claimed, 0 while the lanes are nearly full."
)


def mark_bytes(max_bytes: int, open_jobs: int) -> int:
    """Return up to where the lanes may fill before new mail is left alone."""
    reserved = max(open_jobs * _RECORD_BYTES, int(max_bytes * _MIN_FRACTION))
    return max_bytes - min(reserved, int(max_bytes * _MAX_FRACTION))


def has_room(level: Level, *, added_bytes: int, open_jobs: int, had_room: bool) -> bool:
    """Decide whether new mail is claimed. `added_bytes` were stored since the level was asked."""
    if level.max_bytes <= 0:
        return True
    mark = mark_bytes(level.max_bytes, open_jobs)
    return level.stored_bytes + added_bytes < (mark if had_room else mark * _RESUME_FRACTION)


class LaneSpace:
    """Looks at the lanes and says whether new mail is claimed."""

    def __init__(self, connection: QueueConnection, open_jobs: int, log: Logger) -> None:
        """`open_jobs` is how many a sender may have. Nothing is claimed before the first look."""
        self._connection = connection
        self._open_jobs = open_jobs
        self._log = log
        self._level: Level | None = None
        self._added_bytes = 0
        self._had_room = True

    @property
    def has_room(self) -> bool:
        """Whether new mail may be claimed."""
        if self._level is None:
            return False
        return self._judge(self._level)

    def added(self, size_bytes: int) -> None:
        """Note what this sender stored in a lane, for the time until the next look."""
        self._added_bytes += size_bytes

    async def run(self, room_again: Callable[[], None]) -> None:
        """Look until cancelled; `room_again` is called when there is room after there was none."""
        while True:
            if await self.look():
                room_again()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> bool:
        """Look once and tell whether there is room now and was not before.

        Without an answer the last one stands.
        """
        before, self._added_bytes = self._added_bytes, 0
        try:
            level = await level_of(self._connection, self._connection.names.lane_stream)
        except QueueError:
            self._added_bytes += before
            return False
        is_first, self._level = self._level is None, level
        had_room, self._had_room = self._had_room, self._judge(level)
        _takes_new.set(self._had_room)
        if had_room != self._had_room:
            self._log.warning(
                "lanes.have_room" if self._had_room else "lanes.nearly_full",
                stored_bytes=level.stored_bytes,
                max_bytes=level.max_bytes,
                new_mail="claimed again" if self._had_room else "waits in the queue",
            )
        return self._had_room and (is_first or not had_room)

    def _judge(self, level: Level) -> bool:
        return has_room(
            level,
            added_bytes=self._added_bytes,
            open_jobs=self._open_jobs,
            had_room=self._had_room,
        )
