"""The monitor's own notes on failed and captured mail, in SQLite, in a thread of their own.

What failed can be made anew from the failed store (`failed_index`), at the price of writing the
files again; of that, what a power cut takes is read again. Releases and resends that were asked for
(`release_book`, `resend_book`) stand here alone, so who notes one says that it is to be on disk. A
file that is damaged is put aside, and a new one begun: then they are to be asked for again.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from mailrelay.runtime.logging import Logger
from mailrelay_monitor import failed_index, gone_book, release_book, resend_book

_T = TypeVar("_T")
_VERSION = 1
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class AdminUnwritableError(Exception):
    """The file cannot be used now: no space, no rights. Try again."""


class AdminDatabase:
    """One file, used by one thread alone, one call after the other."""

    def __init__(self, path: Path, log: Logger) -> None:
        self.path = path
        self._log = log
        self._executor = ThreadPoolExecutor(1, "admin-database")
        self._database: sqlite3.Connection | None = None

    async def run(self, use: Callable[[sqlite3.Connection], _T], *, durable: bool = False) -> _T:
        """Use the database in one transaction. Raises AdminUnwritableError, and as `use` does.

        With `durable` it is on disk when this returns, also when the machine loses its power.
        """
        return await self.in_thread(lambda: self._use(use, durable=durable))

    async def in_thread(self, call: Callable[[], _T]) -> _T:
        """Do something that blocks in the database's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    async def close(self) -> None:
        """Close the file and end the thread."""
        await self.in_thread(self._close)
        self._executor.shutdown(wait=False)

    # In the thread.
    def _use(self, use: Callable[[sqlite3.Connection], _T], *, durable: bool) -> _T:
        try:
            database = self._database or self._open()
            database.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            with database:  # commits, or rolls back what raised
                database.execute("BEGIN IMMEDIATE")
                return use(database)
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:  # what is above says where
                self._put_aside(str(error))
            raise AdminUnwritableError(str(error)) from error
        except OSError as error:
            raise AdminUnwritableError(str(error)) from error

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        database = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            version = database.execute("PRAGMA user_version").fetchone()[0]
            is_ours = version in {0, _VERSION}
            if is_ours:
                database.executescript(
                    failed_index.SCHEMA
                    + gone_book.SCHEMA
                    + release_book.SCHEMA
                    + resend_book.SCHEMA
                    + f"PRAGMA user_version = {_VERSION};"
                )
        except BaseException:
            database.close()
            raise
        if not is_ours:
            database.close()
            self._put_aside(f"it has version {version}, this monitor has {_VERSION}")
            return self._open()
        self._database = database
        return database

    def _put_aside(self, reason: str) -> None:
        self._close()
        self._log.error("admin_database.made_anew", path=str(self.path), reason=reason)
        if self.path.exists():
            self.path.replace(self.path.with_name(self.path.name + ".damaged"))
        for suffix in ("-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None
