"""Failed records that are gone, as far as that must be known for longer than they are there.

Only those that the stream dropped by itself are written down: whatever else was read once and has
no row (`failed_index`) was delivered or removed. One file with the rows, and one transaction.
"""

from __future__ import annotations

import sqlite3

from mailrelay.queue.failed import StoredFailure
from mailrelay_monitor import failed_index
from mailrelay_monitor.failed_row import FailedRow

MAX_DROPPED = 10_000  # some 60 octets each
SCHEMA = """
CREATE TABLE IF NOT EXISTS failed_dropped (
    submission TEXT NOT NULL,
    recipient INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (submission, recipient)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS failed_dropped_sequence ON failed_dropped (sequence);
"""


def drop(database: sqlite3.Connection, row: FailedRow) -> None:
    """Delete a row whose record the stream dropped; of these the newest are kept in mind."""
    failed_index.delete(database, row)
    database.execute(
        "INSERT OR REPLACE INTO failed_dropped VALUES (?, ?, ?)",
        (row.submission, row.recipient, row.sequence),
    )
    database.execute(
        "DELETE FROM failed_dropped WHERE sequence <= (SELECT sequence FROM failed_dropped"
        " ORDER BY sequence DESC LIMIT 1 OFFSET ?)",
        (MAX_DROPPED,),
    )


def take_back(database: sqlite3.Connection, failure: StoredFailure) -> bool:
    """Take a dropped record that is there again into the rows; False when none was dropped."""
    found = database.execute(
        "DELETE FROM failed_dropped WHERE submission = ? AND recipient = ? AND sequence >= ?",
        (failure.submission, failure.recipient, failure.sequence),
    )
    if found.rowcount:
        failed_index.put(database, failure)
    return found.rowcount > 0


def is_gone(database: sqlite3.Connection, created: str, failure: StoredFailure) -> bool:
    """Tell whether a record that stands in the stream was read before, and its row went since.

    `created` says which stream it is.
    """
    reached = failed_index.place(database)
    if reached.created != created or failure.sequence > reached.sequence:
        return False
    return failed_index.get(database, failure.submission, failure.recipient) is None
