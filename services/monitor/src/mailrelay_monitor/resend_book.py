"""Resends that were asked for, and what became of them.

A request is on disk before it is answered, together with the rows that it means (`failed_index`),
so it is carried out by whichever monitor comes next. An end is counted in the transaction that
takes its row on, so it is counted once. Nothing is decided here: who claims a resend looks at the
record itself.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from mailrelay_monitor.failed_row import Ended, Outcome

KNOWN = 50  # requests whose numbers are kept, and those that are not at their end
SCHEMA = """
CREATE TABLE IF NOT EXISTS resend (
    request INTEGER PRIMARY KEY AUTOINCREMENT,
    asked_at REAL NOT NULL,
    by TEXT NOT NULL,
    asked INTEGER NOT NULL,
    delivered INTEGER NOT NULL DEFAULT 0,
    failed_again INTEGER NOT NULL DEFAULT 0,
    gone INTEGER NOT NULL DEFAULT 0
);
"""
_COLUMN = {
    Outcome.DELIVERED: "delivered",
    Outcome.FAILED_AGAIN: "failed_again",
    Outcome.GONE: "gone",
}


@dataclass(frozen=True, slots=True)
class Progress:
    """One request's numbers; `waiting` and `queued` are asked of the rows.

    `asked_at` is seconds since the epoch; `by` is `hand` or `interval`.
    """

    request: int
    asked_at: float
    by: str
    asked: int
    delivered: int = 0
    failed_again: int = 0
    gone: int = 0
    waiting: int = 0
    queued: int = 0


def begin(database: sqlite3.Connection, asked_at: float, by: str) -> int:
    """Note a request; returns its number, which no other ever has."""
    number = database.execute(
        "INSERT INTO resend (asked_at, by, asked) VALUES (?, ?, 0)", (asked_at, by)
    ).lastrowid
    database.execute(
        "DELETE FROM resend WHERE request <= ?"
        " AND request NOT IN (SELECT request FROM failed WHERE stage <> '')"
        " AND request NOT IN (SELECT request FROM resend ORDER BY request DESC LIMIT ?)",
        (number, KNOWN),
    )
    return int(number or 0)


def set_asked(database: sqlite3.Connection, request: int, asked: int) -> None:
    """Note how many records a request means."""
    database.execute("UPDATE resend SET asked = ? WHERE request = ?", (asked, request))


def count(database: sqlite3.Connection, ended: Iterable[Ended]) -> None:
    """Count resends that came to their end; of requests that are not known nothing is."""
    for one in ended:
        column = _COLUMN[one.outcome]
        database.execute(
            f"UPDATE resend SET {column} = {column} + 1 WHERE request = ?",  # noqa: S608 — our own words
            (one.request,),
        )


def newest(database: sqlite3.Connection, limit: int) -> list[Progress]:
    """Return the newest requests."""
    rows = database.execute(
        "SELECT request, asked_at, by, asked, delivered, failed_again, gone FROM resend"
        " ORDER BY request DESC LIMIT ?",
        (limit,),
    )
    return [Progress(*row) for row in rows.fetchall()]


def forget_unknown(database: sqlite3.Connection) -> None:
    """Let go of stages that belong to no request that is known."""
    database.execute(
        "UPDATE failed SET request = 0, stage = '' WHERE stage <> ''"
        " AND request NOT IN (SELECT request FROM resend)"
    )


def queue_again(database: sqlite3.Connection) -> None:
    """Take what was noted as queued for waiting: it may have been broken off before it was.

    What is in the lane already is known there by its name, or is acked untried by who claims it.
    """
    database.execute("UPDATE failed SET stage = 'waiting' WHERE stage = 'queued'")
