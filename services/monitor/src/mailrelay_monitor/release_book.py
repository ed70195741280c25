"""Releases that were asked for, and how far each is: so that one request is carried out once.

A request that is repeated under its id is found here, and one that the monitor's end broke off goes
on from where it was. Between storing a job and noting it lies the server's duplicate window.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Any

KEEP_SECONDS = 7 * 24 * 3600.0
SCHEMA = """
CREATE TABLE IF NOT EXISTS release (
    id TEXT PRIMARY KEY,
    asked_at REAL NOT NULL,
    next_hop TEXT NOT NULL,
    ids TEXT NOT NULL,  -- JSON; empty: all
    up_to INTEGER NOT NULL,  -- the newest record that was there
    asked INTEGER NOT NULL,  -- records that matched
    position INTEGER NOT NULL,  -- the last sequence number done
    queued INTEGER NOT NULL,
    unreadable INTEGER NOT NULL,
    finished INTEGER NOT NULL
);
"""
_COLUMNS = "id, asked_at, next_hop, ids, up_to, asked, position, queued, unreadable, finished"


@dataclass(frozen=True, slots=True)
class ReleaseRequest:
    """One request; `ids` is empty when everything captured so far was meant."""

    id: str
    asked_at: float
    next_hop: str
    ids: tuple[str, ...]
    up_to: int
    asked: int
    position: int = 0
    queued: int = 0
    unreadable: int = 0
    finished: bool = False


def write(database: sqlite3.Connection, request: ReleaseRequest) -> None:
    """Put a request, new or further than before."""
    database.execute(
        f"INSERT OR REPLACE INTO release ({_COLUMNS})"  # noqa: S608 — our own words
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            request.id,
            request.asked_at,
            request.next_hop,
            json.dumps(request.ids),
            request.up_to,
            request.asked,
            request.position,
            request.queued,
            request.unreadable,
            request.finished,
        ),
    )


def known(database: sqlite3.Connection, request_id: str) -> ReleaseRequest | None:
    """Return a request by its id."""
    return _one(database, "WHERE id = ?", (request_id,))


def next_open(database: sqlite3.Connection) -> ReleaseRequest | None:
    """Return the oldest request that is not finished."""
    return _one(database, "WHERE NOT finished ORDER BY asked_at, id LIMIT 1", ())


def newest(database: sqlite3.Connection, limit: int) -> list[ReleaseRequest]:
    """Return the newest requests."""
    rows = database.execute(
        f"SELECT {_COLUMNS} FROM release ORDER BY asked_at DESC, id LIMIT ?",  # noqa: S608 — only our own constants are put in
        (limit,),
    )
    return [_request(row) for row in rows.fetchall()]


def prune(database: sqlite3.Connection, now: float) -> None:
    """Forget what was finished long ago."""
    database.execute("DELETE FROM release WHERE finished AND asked_at < ?", (now - KEEP_SECONDS,))


def _one(
    database: sqlite3.Connection, where: str, values: tuple[str, ...]
) -> ReleaseRequest | None:
    row = database.execute(
        f"SELECT {_COLUMNS} FROM release {where}",  # noqa: S608 — our own words
        values,
    ).fetchone()
    return _request(row) if row else None


def _request(row: tuple[Any, ...]) -> ReleaseRequest:
    number, asked_at, next_hop, ids, up_to, asked, position, queued, unreadable, finished = row
    return ReleaseRequest(
        str(number),
        float(asked_at),
        str(next_hop),
        tuple(json.loads(str(ids))),
        int(up_to),
        int(asked),
        int(position),
        int(queued),
        int(unreadable),
        bool(finished),
    )
