"""The index in a thread of its own: SQLite blocks, and the event loop must not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from mailrelay.runtime.clock import Clock
from mailrelay_monitor.index import Index
from mailrelay_monitor.index_file import IndexUnwritableError, make_file, open_file
from mailrelay_monitor.totals import Ledger

_T = TypeVar("_T")


class IndexThread:
    """Opens the index file and has it used by one thread alone, one call after the other."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self._clock = clock
        self._executor = ThreadPoolExecutor(1, "index")
        self._index: Index | None = None

    async def open(self) -> Ledger | None:
        """Open the file and return its ledger; None when there is no file.

        Raises IndexDamagedError, IndexUnwritableError.
        """
        return await self._in_thread(self._open)

    async def make(self, ledger: Ledger) -> Ledger:
        """Put a new file in the place of whatever is there. Raises IndexUnwritableError."""
        return await self._in_thread(lambda: self._make(ledger))

    async def run(self, use: Callable[[Index], _T]) -> _T:
        """Use the index. Raises what `use` raises, IndexUnwritableError while it is not open."""
        return await self._in_thread(lambda: self._use(use))

    async def close(self) -> None:
        """Close the file and end the thread."""
        await self._in_thread(self._close)
        self._executor.shutdown(wait=False)

    async def _in_thread(self, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    # In the thread.
    def _open(self) -> Ledger | None:
        self._close()
        database = open_file(self.path)
        if database is None:
            return None
        self._index = Index(database, self._clock)
        return self._index.ledger

    def _make(self, ledger: Ledger) -> Ledger:
        self._close()
        self._index = Index(make_file(self.path, ledger), self._clock)
        return self._index.ledger

    def _use(self, use: Callable[[Index], _T]) -> _T:
        if self._index is None:
            raise IndexUnwritableError("the index is not open yet")
        return use(self._index)

    def _close(self) -> None:
        if self._index is not None:
            self._index.close()
            self._index = None
