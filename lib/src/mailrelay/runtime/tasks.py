"""Work in the background, bounded: whoever starts more than fits waits for room."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class BoundedTasks:
    """At most `limit` coroutines run at once; what they raise is theirs to handle."""

    def __init__(self, limit: int) -> None:
        self._room = asyncio.Semaphore(limit)
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Wait for room, then run the coroutine beside the caller."""
        try:
            await self._room.acquire()
        except asyncio.CancelledError:
            coroutine.close()
            raise
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    @property
    def is_full(self) -> bool:
        """Whether whoever starts another one would wait."""
        return self._room.locked()

    async def cancel(self) -> None:
        """End all that run, and wait until they have ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._room.release()
