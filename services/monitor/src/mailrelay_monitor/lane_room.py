"""How much may be put into lane `now`: what people ask for waits here, not there.

A hundred thousand resends at once would fill the lanes, and each record there is looked at. So few
are there at a time, and the next ones follow as senders take them; new mail has three of four turns
all along (queue rule 12).
"""

from __future__ import annotations

from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.lanes import NOW

MAX_IN_LANE = 100


class LaneRoom:
    """Looks at the lane."""

    def __init__(self, connection: QueueConnection) -> None:
        self._connection = connection

    async def room(self) -> int:
        """Return how many records may be added now. Raises QueueError."""
        names = self._connection.names
        info = await self._connection.api(
            f"STREAM.INFO.{names.lane_stream}",
            {"subjects_filter": f"{names.prefix}.lane.{NOW.name}.*"},
        )
        there = sum((info["state"].get("subjects") or {}).values())
        return max(0, MAX_IN_LANE - int(there))
