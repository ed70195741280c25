"""How full a stream is, in the server's words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.events import epoch_seconds


@dataclass(frozen=True, slots=True)
class Level:
    """How full a stream is; a limit that is not positive means none."""

    messages: int
    max_messages: int
    stored_bytes: int
    max_bytes: int
    drops_oldest: bool
    consumers: int = 0
    oldest_at: float = 0.0  # when the oldest record was stored, in epoch time; 0: there is none

    @property
    def fraction(self) -> float:
        """The fuller of its two limits, 1.0 being full."""
        by_count = self.messages / self.max_messages if self.max_messages > 0 else 0.0
        by_size = self.stored_bytes / self.max_bytes if self.max_bytes > 0 else 0.0
        return max(by_count, by_size)


async def level_of(connection: QueueConnection, stream: str) -> Level:
    """Ask for a stream's level. Raises QueueError."""
    info = await connection.api(f"STREAM.INFO.{stream}")
    state: dict[str, Any] = info["state"]
    config: dict[str, Any] = info["config"]
    return Level(
        int(state["messages"]),
        int(config.get("max_msgs", 0)),
        int(state["bytes"]),
        int(config.get("max_bytes", 0)),
        config.get("discard") == "old",
        int(state.get("consumer_count", 0)),
        # Of an empty stream the server says the year 1, or when its last record was stored.
        epoch_seconds(str(state.get("first_ts", ""))) if int(state["messages"]) else 0.0,
    )
