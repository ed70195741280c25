"""Turns the work queue: a few tasks that take what is due and do it, one relay at once each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from mailrelay.runtime.lifecycle import wait_first
from mailrelay_operator.work_queue import WorkQueue

Key = TypeVar("Key", bound=Hashable)


class Workers(Generic[Key]):
    """Does `work` for each key that is due; it returns after how many seconds to look again."""

    def __init__(
        self,
        queue: WorkQueue[Key],
        work: Callable[[Key], Awaitable[float | None]],
        *,
        failed: Callable[[Key, Exception, float], None],
        count: int = 4,
        limit_seconds: float = 120.0,
    ) -> None:
        """`failed` is told the key, what went wrong, and after how many seconds it is tried again.

        `limit_seconds` bounds one piece of work: one relay that hangs must not take a worker away
        from the others for good.
        """
        self._queue = queue
        self._work = work
        self._failed = failed
        self._count = count
        self._limit_seconds = limit_seconds
        self._stir = asyncio.Event()
        queue.changed = self._stir.set

    async def run(self) -> None:
        """Work until cancelled; what is under way is cancelled with it."""
        await wait_first(*(self._run_one() for _ in range(self._count)))

    async def _run_one(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            key = self._queue.take(loop.time())
            if key is None:
                await self._wait_due()
            else:
                await self._do(key)
                # A pass that finds everything known waits for nothing, and there may be thousands:
                # the Lease must be renewed all the same.
                await asyncio.sleep(0)

    async def _wait_due(self) -> None:
        self._stir.clear()
        due = self._queue.next_due()
        now = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(None if due is None else max(0.0, due - now)):
                await self._stir.wait()
        except TimeoutError:
            return

    async def _do(self, key: Key) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._limit_seconds):
                again = await self._work(key)
        except asyncio.CancelledError:
            self._queue.succeeded(key, loop.time(), 0.0)  # begun and not ended: still to be done
            raise
        except Exception as error:  # noqa: BLE001 — one relay's fault must not end the others' work
            self._failed(key, error, self._queue.failed(key, loop.time()))
        else:
            self._queue.succeeded(key, loop.time(), again)
