"""One budget for the content in memory, whatever clients do. When it is used up, nobody reads.

Every message begins with a small share. One that outgrows it needs a large share, enough for all
that a message of any size ever holds at once. Shares are taken as content comes, never because a
client announced it, and waiting for one has a limit: slow clients may hold them all.
"""

from __future__ import annotations

import asyncio

from mailrelay.queue.bodies import CHUNK_BYTES, MAX_INLINE_BYTES

SMALL_BYTES = 128 * 1024
CHUNKS_IN_FLIGHT = 4
# Inline content, or chunks on their way; twice, because a record is joined before it is sent.
LARGE_BYTES = max(2 * MAX_INLINE_BYTES, (CHUNKS_IN_FLIGHT + 2) * CHUNK_BYTES)
_SMALL_SHARES = 256  # 32 MB
_LARGE_SHARES = 24  # 72 MB
WAIT_SECONDS = 30.0  # then 452: a client would rather be told than wait


class MemoryBudget:
    """Hands out shares of memory."""

    def __init__(self, small: int = _SMALL_SHARES, large: int = _LARGE_SHARES) -> None:
        self._small = asyncio.Semaphore(small)
        self._large = asyncio.Semaphore(large)

    def share(self) -> Share:
        """Return a share for one message, not yet taken."""
        return Share(self._small, self._large)


class Share:
    """What one message may hold; give it back when the message is done."""

    def __init__(self, small: asyncio.Semaphore, large: asyncio.Semaphore) -> None:
        self._small = small
        self._large = large
        self._held: list[asyncio.Semaphore] = []

    async def reserve_small(self) -> bool:
        """Take what every message needs; whether there was any within `WAIT_SECONDS`."""
        return await self._take(self._small)

    async def reserve_large(self) -> bool:
        """Take what a message needs that outgrew `SMALL_BYTES`; whether there was any in time."""
        return self._large in self._held or await self._take(self._large)

    async def _take(self, shares: asyncio.Semaphore) -> bool:
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await shares.acquire()
        except TimeoutError:
            return False
        self._held.append(shares)
        return True

    def give_back(self) -> None:
        """Return everything."""
        while self._held:
            self._held.pop().release()
