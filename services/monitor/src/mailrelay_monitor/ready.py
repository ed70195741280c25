"""Whether mail can be taken right now; kept for a second, so that probes cost nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mailrelay.queue.connection import QueueConnection
from mailrelay.readiness import listener_fault, queue_fault

_KEPT_SECONDS = 1.0


class Readiness:
    """Finds out what keeps the relay from taking mail."""

    def __init__(
        self,
        connection: QueueConnection,
        smtp_address: tuple[str, int],
        is_caught_up: Callable[[], bool],
    ) -> None:
        self._connection = connection
        self._smtp_address = smtp_address
        self._is_caught_up = is_caught_up
        self._lock = asyncio.Lock()
        self._kept: tuple[float, str] | None = None

    async def reason(self) -> str:
        """Return why the relay is not ready; empty when it is."""
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if self._kept is None or now - self._kept[0] >= _KEPT_SECONDS:
                self._kept = (now, await self._ask())
            return self._kept[1]

    async def _ask(self) -> str:
        if not self._is_caught_up():
            return "the totals are not caught up yet"
        return await queue_fault(self._connection) or await listener_fault(*self._smtp_address)
