"""The index's file: opened, made, and found damaged. Losing it costs time and no number."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec

from mailrelay_monitor.totals import Ledger

_VERSION = 1
_LOCK_SECONDS = 0.2  # whoever has the file keeps it for as long as it lives
_CACHE_KIBIBYTES = 16 * 1024
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

# Of the unfinished alone, so that it is as small as the queue, whatever the file holds.
_BY_AGE = (
    "CREATE INDEX IF NOT EXISTS unfinished ON submission (accepted_at) WHERE open > 0 AND lost = 0"
)

_SCHEMA = f"""
CREATE TABLE submission (
    id TEXT PRIMARY KEY,  -- queue ids sort by time
    accepted_at REAL NOT NULL,
    reverse_path TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    total_recipients INTEGER NOT NULL,
    open INTEGER NOT NULL,  -- recipients without a final disposition
    unsuccessful INTEGER NOT NULL,  -- recipients with a final one that is no success
    last_final_at REAL NOT NULL,
    counted INTEGER NOT NULL,  -- whether the totals know it
    lost INTEGER NOT NULL  -- whether it was open when the queue's data was lost
) WITHOUT ROWID;
CREATE TABLE recipient (
    submission TEXT NOT NULL,
    number INTEGER NOT NULL,
    address TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    reply TEXT NOT NULL,
    next_hop TEXT NOT NULL,
    changed_at REAL NOT NULL,
    PRIMARY KEY (submission, number)
) WITHOUT ROWID;
{_BY_AGE};
CREATE TABLE ledger (one INTEGER PRIMARY KEY CHECK (one = 1), json BLOB NOT NULL);
PRAGMA user_version = {_VERSION};
"""


class IndexDamagedError(Exception):
    """The file is no index, one of another version, or broken. Start anew."""


class IndexUnwritableError(Exception):
    """The file cannot be used now: no space, no rights, another process has it. Try again."""


def open_file(path: Path) -> sqlite3.Connection | None:
    """Open the file; None when there is none. Raises IndexDamagedError, IndexUnwritableError."""
    if not path.exists():
        return None
    with translated_errors():
        database = _connect(path)
        try:
            read_ledger(database)
            database.execute(_BY_AGE)  # a file of an earlier version lacks it
        except BaseException:
            database.close()
            raise
        return database


def make_file(path: Path, ledger: Ledger) -> sqlite3.Connection:
    """Make an empty index with its ledger; a file that is there is kept beside it.

    Raises IndexUnwritableError.
    """
    with translated_errors():
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.replace(path.with_name(path.name + ".damaged"))
        for left_over in ("-wal", "-shm"):
            path.with_name(path.name + left_over).unlink(missing_ok=True)
        database = _connect(path)
        try:
            database.executescript(f"BEGIN IMMEDIATE; {_SCHEMA}")
            write_ledger(database, ledger)
            database.execute("COMMIT")
        except BaseException:
            database.close()
            raise
        return database


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=_LOCK_SECONDS, isolation_level=None)
    try:
        # Ours alone: a second monitor on the same file would count twice.
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        # A power failure may take the last transactions, rows and ledger alike: they come again.
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute(f"PRAGMA cache_size = -{_CACHE_KIBIBYTES}")
    except BaseException:
        database.close()
        raise
    return database


def read_ledger(database: sqlite3.Connection) -> Ledger:
    """Return what stands in the file. Raises IndexDamagedError."""
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version != _VERSION:
        msg = f"it has version {version}, this monitor reads {_VERSION}"
        raise IndexDamagedError(msg)
    row = database.execute("SELECT json FROM ledger").fetchone()
    try:
        return msgspec.json.decode(row[0] if row else b"", type=Ledger)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise IndexDamagedError(str(error)) from error


def write_ledger(database: sqlite3.Connection, ledger: Ledger) -> None:
    """Put the ledger into the file, within the caller's transaction."""
    database.execute("INSERT OR REPLACE INTO ledger VALUES (1, ?)", (msgspec.json.encode(ledger),))


@contextlib.contextmanager
def translated_errors() -> Iterator[None]:
    """Raise sqlite3's and the file system's errors as ours."""
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
            raise IndexDamagedError(str(error)) from error
        raise IndexUnwritableError(str(error)) from error
    except OSError as error:
        raise IndexUnwritableError(str(error)) from error
