"""One budget for the content in memory, whatever clients do. When it is used up, nobody reads.

Every message begins with a small share. One that outgrows it needs a large share, enough for all
that a message of any size ever holds at once; whoever has a large share waits for nobody but the
queue, so the waiting always ends (no two can wait for each other).
"""

from __future__ import annotations

import asyncio

from mailrelay.queue.bodies import CHUNK_BYTES, MAX_INLINE_BYTES

SMALL_BYTES = 128 * 1024
CHUNKS_IN_FLIGHT = 4
# Inline content, or chunks on their way; twice, because a record is joined before it is sent.
LARGE_BYTES = max(2 * MAX_INLINE_BYTES, (CHUNKS_IN_FLIGHT + 2) * CHUNK_BYTES)
_SMALL_SHARES = 256  # 32 MB
_LARGE_SHARES = 12  # 36 MB


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

    async def reserve(self, size_bytes: int) -> None:
        """Wait until the message may hold `size_bytes` (above the small share: a large one)."""
        if self._small not in self._held:
            await self._small.acquire()
            self._held.append(self._small)
        if size_bytes > SMALL_BYTES and self._large not in self._held:
            await self._large.acquire()
            self._held.append(self._large)

    def give_back(self) -> None:
        """Return everything."""
        while self._held:
            self._held.pop().release()
