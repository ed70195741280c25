"""The database of the monitor's notes may be lost or damaged."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from tests.monitor.admin_rig import Start, job
from tests.support.wait import wait_until


async def test_a_damaged_database_is_put_aside_and_made_anew(start: Start) -> None:
    admin = await start(run=False)
    record = await admin.fail(job())
    path = admin.parts.database.path
    path.write_bytes(b"this is no database, but long enough to look like a file" * 100)
    later = await start()
    await later.wait_file(record)
    assert path.with_name(path.name + ".damaged").exists()


async def test_a_database_that_is_damaged_inside_is_put_aside_too(start: Start) -> None:
    """SQLite has error codes of its own for damage within an index."""
    admin = await start(run=False)
    record = await admin.fail(job())
    await admin.parts.follower.catch_up()
    path = admin.parts.database.path
    _lose_from_index(path, "failed_sequence")
    later = await start()
    await later.settle(record)  # which changes the row, and so the index
    await wait_until(path.with_name(path.name + ".damaged").exists, 10, "it is put aside")
    await later.wait_file(await later.fail(job()))


def _lose_from_index(path: Path, name: str) -> None:
    """Have an index miss what its table holds."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA writable_schema = ON")
        entry = database.execute("SELECT * FROM sqlite_schema WHERE name = ?", (name,)).fetchone()
        database.execute("DELETE FROM sqlite_schema WHERE name = ?", (name,))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("UPDATE failed SET sequence = sequence + 1000")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA writable_schema = ON")
        database.execute("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", entry)
