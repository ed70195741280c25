"""One row a failed record: what people filter by, what limits count, where each stands.

Made of the failed store by `failed_follow`, in the same transaction as the place reached there, so
that it may be lost: then it is made anew. No decision about mail depends on it that is not made
again on the record itself: a resend is claimed there, and a limit removes exactly what it saw.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mailrelay.queue.failed import StoredFailure
from mailrelay_monitor.failed_filter import FailedFilter
from mailrelay_monitor.failed_row import (
    DONE,
    QUEUED,
    Ended,
    FailedRow,
    Outcome,
    row_of,
    row_of_tombstone,
)

SCHEMA = """
CREATE TABLE IF NOT EXISTS failed (
    submission TEXT NOT NULL,
    recipient INTEGER NOT NULL,
    sequence INTEGER NOT NULL,  -- of its last record
    failed_at REAL NOT NULL,
    accepted_at REAL NOT NULL,
    disposition TEXT NOT NULL,  -- bounced, expired; empty: the record cannot be read
    reverse_path TEXT NOT NULL,
    address TEXT NOT NULL,
    domain TEXT NOT NULL,
    code INTEGER NOT NULL,
    enhanced TEXT NOT NULL,
    reply TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,  -- of the content
    record_bytes INTEGER NOT NULL,
    total_recipients INTEGER NOT NULL,
    stored_body INTEGER NOT NULL,
    mark_sequence INTEGER NOT NULL,  -- the record in the lane that claimed it; 0: none did
    mark_stored_at REAL NOT NULL,
    filed INTEGER NOT NULL,  -- 1: its file says what the record says; 2: that, without content
    removing TEXT NOT NULL,  -- why it goes: done (delivered), or a reason of mail.event.Discarded
    request INTEGER NOT NULL,  -- the resend that it is part of; 0: none
    stage TEXT NOT NULL,  -- of that: waiting, queued
    PRIMARY KEY (submission, recipient)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS failed_sequence ON failed (sequence);
CREATE INDEX IF NOT EXISTS failed_unfiled ON failed (sequence) WHERE NOT filed OR removing <> '';
CREATE INDEX IF NOT EXISTS failed_without_content ON failed (size_bytes) WHERE filed = 2;
CREATE INDEX IF NOT EXISTS failed_stage ON failed (request, sequence) WHERE stage <> '';
CREATE INDEX IF NOT EXISTS failed_accepted ON failed (accepted_at);
CREATE TABLE IF NOT EXISTS place (
    one INTEGER PRIMARY KEY CHECK (one = 1), created TEXT NOT NULL, sequence INTEGER NOT NULL
);
"""
_COLUMNS = (
    "submission, recipient, sequence, failed_at, accepted_at, disposition, reverse_path, address,"
    " domain, code, enhanced, reply, attempts, size_bytes, record_bytes, total_recipients,"
    " stored_body, mark_sequence, mark_stored_at, filed, removing, request, stage"
)
_TRUTHS = frozenset({"stored_body"})
_THERE = "removing = ''"


@dataclass(frozen=True, slots=True)
class Place:
    """How far the failed store was read. `created` tells one stream from another."""

    created: str = ""
    sequence: int = 0


def place(database: sqlite3.Connection) -> Place:
    """Return how far it was read."""
    row = database.execute("SELECT created, sequence FROM place").fetchone()
    return Place(*row) if row else Place()


def begin(database: sqlite3.Connection, created: str) -> None:
    """Begin anew with another stream."""
    database.execute("DELETE FROM failed")
    database.execute("DELETE FROM failed_dropped")
    _put_place(database, Place(created, 0))


def take(
    database: sqlite3.Connection, created: str, failures: Sequence[StoredFailure]
) -> list[Ended]:
    """Take in what follows the place reached; return which resends that ends."""
    ended = []
    for failure in failures:
        row = get(database, failure.submission, failure.recipient)
        database.execute(
            "DELETE FROM failed_dropped WHERE submission = ? AND recipient = ?",
            (failure.submission, failure.recipient),
        )
        if failure.is_done:
            _put(database, row_of_tombstone(failure, row))
            if row is not None and row.stage:
                ended.append(Ended(row.request, Outcome.DELIVERED))
            continue
        new = row_of(failure, row)
        # A claim (it carries a mark) ends nothing, and what only waits was not tried by us.
        if row is not None and row.stage == QUEUED and not new.mark_sequence:
            ended.append(Ended(row.request, Outcome.FAILED_AGAIN))
        _put(database, new)
    if failures:
        _put_place(database, Place(created, failures[-1].sequence))
    return ended


def put(database: sqlite3.Connection, failure: StoredFailure) -> None:
    """Make the row of a record that is there again, behind which the place is already."""
    _put(database, row_of(failure, None))


def get(database: sqlite3.Connection, submission: str, recipient: int) -> FailedRow | None:
    """Return a recipient's row."""
    rows = _select(database, "submission = ? AND recipient = ?", (submission, recipient))
    return rows[0] if rows else None


def matching(
    database: sqlite3.Connection, which: FailedFilter, limit: int, after: int = 0
) -> list[FailedRow]:
    """Return rows that match, in the store's order, from behind sequence `after`."""
    condition, values = which.condition()
    return _select(
        database,
        f"{_THERE} AND sequence > ? AND {condition} ORDER BY sequence LIMIT ?",
        (after, *values, limit),
    )


def count(database: sqlite3.Connection, which: FailedFilter) -> int:
    """Count the rows that match."""
    condition, values = which.condition()
    found = database.execute(
        f"SELECT count(*) FROM failed WHERE {_THERE} AND {condition}",  # noqa: S608 — only our own constants are put in
        values,
    ).fetchone()
    return int(found[0])


def any_of(database: sqlite3.Connection, which: FailedFilter, extra: str) -> bool:
    """Tell whether a row matches."""
    condition, values = which.condition()
    found = database.execute(
        f"SELECT 1 FROM failed WHERE {_THERE} AND {condition} AND {extra} LIMIT 1",  # noqa: S608 — only our own constants are put in
        values,
    ).fetchone()
    return found is not None


def total(database: sqlite3.Connection) -> int:
    """Count the rows."""
    return count(database, FailedFilter())


@dataclass(frozen=True, slots=True)
class Marked:
    """What asking for a resend found."""

    matching: int
    waiting: int
    already: int
    unreadable: int


def mark_waiting(
    database: sqlite3.Connection, which: FailedFilter, request: int, extra: str = "1"
) -> Marked:
    """Note a resend of every row that matches and has none, claimed ones among them."""
    condition, values = which.condition()
    where = f"{_THERE} AND {condition} AND {extra}"
    total, unreadable, already = database.execute(
        "SELECT count(*), coalesce(sum(disposition = ''), 0),"  # noqa: S608 — our own words
        f" coalesce(sum(stage <> '' AND disposition <> ''), 0) FROM failed WHERE {where}",
        values,
    ).fetchone()
    marked = database.execute(
        "UPDATE failed SET request = ?, stage = 'waiting'"  # noqa: S608 — only our own constants are put in
        f" WHERE stage = '' AND disposition <> '' AND {where}",
        (request, *values),
    )
    return Marked(total, marked.rowcount, already, unreadable)


def claimed_without_request(
    database: sqlite3.Connection, which: FailedFilter, limit: int
) -> list[FailedRow]:
    """Return rows that match, that a resend claimed, and that no request of ours knows."""
    condition, values = which.condition()
    return _select(
        database,
        f"{_THERE} AND mark_sequence > 0 AND stage = '' AND {condition} LIMIT ?",
        (*values, limit),
    )


def set_stage(database: sqlite3.Connection, row: FailedRow, was: str, stage: str) -> None:
    """Note how far the resend of a row is, unless it moved on from `was`; no stage ends it."""
    database.execute(
        "UPDATE failed SET stage = ?, request = ? WHERE submission = ? AND recipient = ?"
        " AND stage = ? AND request = ?",
        (stage, row.request if stage else 0, row.submission, row.recipient, was, row.request),
    )


def waiting(database: sqlite3.Connection, limit: int) -> list[FailedRow]:
    """Return rows whose resend is to be queued, in the order in which it was asked for."""
    return _select(
        database, f"{_THERE} AND stage = 'waiting' ORDER BY request, sequence LIMIT ?", (limit,)
    )


def stages(database: sqlite3.Connection) -> dict[tuple[int, str], int]:
    """Return how many rows each request has at each stage."""
    rows = database.execute(
        "SELECT request, stage, count(*) FROM failed WHERE stage <> '' GROUP BY request, stage"
    )
    return {(request, stage): number for request, stage, number in rows.fetchall()}


def unfiled(database: sqlite3.Connection, limit: int) -> list[FailedRow]:
    """Return rows whose files are not as they should be."""
    return _select(
        database,
        "(NOT filed OR removing <> '') AND removing IN ('', ?) ORDER BY sequence LIMIT ?",
        (DONE, limit),
    )


def set_filed(
    database: sqlite3.Connection, row: FailedRow, attempts: int, failed_at: float, filed: int
) -> None:
    """Note what a row's file says now: that of a record with so many attempts, failed then."""
    database.execute(
        "UPDATE failed SET filed = ? WHERE submission = ? AND recipient = ? AND attempts = ?"
        " AND failed_at = ?",
        (filed, row.submission, row.recipient, attempts, failed_at),
    )


def without_content(database: sqlite3.Connection) -> int:
    """Count the rows whose files lack the content."""
    return int(database.execute("SELECT count(*) FROM failed WHERE filed = 2").fetchone()[0])


def file_again(database: sqlite3.Connection, room_bytes: int) -> int:
    """Have files written anew that lack content for which there is room; return how many."""
    return database.execute(
        "UPDATE failed SET filed = 0 WHERE filed = 2 AND size_bytes < ?", (room_bytes,)
    ).rowcount


def has_others(database: sqlite3.Connection, row: FailedRow) -> bool:
    """Tell whether other recipients of the same submission have rows that stay."""
    found = database.execute(
        f"SELECT 1 FROM failed WHERE submission = ? AND recipient <> ? AND {_THERE} LIMIT 1",  # noqa: S608 — only our own constants are put in
        (row.submission, row.recipient),
    ).fetchone()
    return found is not None


def being_removed(database: sqlite3.Connection, limit: int) -> list[FailedRow]:
    """Return rows whose removal was begun and is not finished."""
    return _select(database, "removing NOT IN ('', ?) LIMIT ?", (DONE, limit))


def set_removing(database: sqlite3.Connection, row: FailedRow, reason: str) -> bool:
    """Note that (and why) a row's record goes; False when it is another one or goes already."""
    changed = database.execute(
        "UPDATE failed SET removing = ? WHERE submission = ? AND recipient = ? AND sequence = ?"
        " AND removing = ''",
        (reason, row.submission, row.recipient, row.sequence),
    )
    return changed.rowcount > 0


def keep(database: sqlite3.Connection, row: FailedRow, reason: str) -> None:
    """Take that back, unless what came meanwhile goes for another reason."""
    database.execute(
        "UPDATE failed SET removing = '' WHERE submission = ? AND recipient = ? AND removing = ?",
        (row.submission, row.recipient, reason),
    )


def delete(database: sqlite3.Connection, row: FailedRow) -> None:
    """Delete a row whose record is gone, unless another record came meanwhile."""
    database.execute(
        "DELETE FROM failed WHERE submission = ? AND recipient = ? AND sequence = ?",
        (row.submission, row.recipient, row.sequence),
    )


def oldest(database: sqlite3.Connection, limit: int) -> list[FailedRow]:
    """Return the rows that the stream itself would drop first."""
    return _select(database, f"{_THERE} ORDER BY sequence LIMIT ?", (limit,))


def accepted_before(database: sqlite3.Connection, at: float, limit: int) -> list[FailedRow]:
    """Return rows of mail that was accepted before a time."""
    return _select(
        database, f"{_THERE} AND accepted_at < ? ORDER BY accepted_at LIMIT ?", (at, limit)
    )


def before_sequence(database: sqlite3.Connection, sequence: int, limit: int) -> list[FailedRow]:
    """Return rows whose records stood before a sequence number."""
    return _select(
        database, f"{_THERE} AND sequence < ? ORDER BY sequence LIMIT ?", (sequence, limit)
    )


def places(database: sqlite3.Connection) -> list[tuple[str, int]]:
    """Return submission and recipient of every row."""
    rows = database.execute(f"SELECT submission, recipient FROM failed WHERE {_THERE}")  # noqa: S608 — only our own constants are put in
    return rows.fetchall()


def all_places(database: sqlite3.Connection) -> list[tuple[str, int]]:
    """Return submission and recipient of every row, of those that are going, too."""
    return database.execute("SELECT submission, recipient FROM failed").fetchall()


def _select(database: sqlite3.Connection, where: str, values: Sequence[object]) -> list[FailedRow]:
    rows = database.execute(
        f"SELECT {_COLUMNS} FROM failed WHERE {where}",  # noqa: S608 — our own words
        values,
    )
    return [FailedRow(*_typed(row)) for row in rows.fetchall()]


def _typed(row: Sequence[Any]) -> list[Any]:
    """SQLite has no truth values."""
    return [
        bool(value) if name in _TRUTHS else value
        for name, value in zip(FailedRow.__slots__, row, strict=True)
    ]


def _put(database: sqlite3.Connection, row: FailedRow) -> None:
    values = tuple(getattr(row, name) for name in FailedRow.__slots__)
    marks = ", ".join("?" * len(values))
    database.execute(
        f"INSERT OR REPLACE INTO failed ({_COLUMNS}) VALUES ({marks})",  # noqa: S608 — only our own constants are put in
        values,
    )


def _put_place(database: sqlite3.Connection, reached: Place) -> None:
    database.execute(
        "INSERT OR REPLACE INTO place VALUES (1, ?, ?)", (reached.created, reached.sequence)
    )
