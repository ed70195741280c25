"""One row a submission and one a recipient, and the totals counted in the same transaction.

Events may come twice, late, and in any company; `progress` decides what they change, and any one
of them makes a submission's row. So reading them again never counts twice. Losing the file loses
no number: the totals go on from a checkpoint, and the event stream is read from its beginning, for
the rows alone up to where the checkpoint counts (`Ledger.counted_to`), then for the totals too.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mailrelay.mail.disposition import Outcome
from mailrelay.mail.event import Abandoned, Accepted, Attempted, Discarded
from mailrelay.mail.ids import QueueId, new_queue_id
from mailrelay.queue.events import EventRecord
from mailrelay.runtime.clock import Clock
from mailrelay_monitor.index_file import read_ledger, translated_errors, write_ledger
from mailrelay_monitor.progress import QUEUED, Progress, change_of_totals, replaces
from mailrelay_monitor.totals import Ledger, Totals

# How long a finished submission can be looked up. A failed one stays longer: it can be resent,
# and its row knows what the resend turns around.
KEEP_SUCCESSFUL_SECONDS = 7 * 24 * 3600.0
KEEP_FAILED_SECONDS = 90 * 24 * 3600.0
# Some 400 MB of file, whatever the mail's rate.
KEEP_ROWS = 1_000_000
PRUNE_BATCH = 500

_RECIPIENTS = (
    "SELECT number, address, state, attempts, reply, next_hop, changed_at"
    " FROM recipient WHERE submission = ? ORDER BY number LIMIT ?"
)
_SUBMISSIONS = (
    "SELECT id, accepted_at, reverse_path, size_bytes, total_recipients,"
    " CASE WHEN open > 0 THEN CASE WHEN lost THEN 'lost' ELSE 'queued' END"
    "      WHEN unsuccessful > 0 THEN 'failed' ELSE 'successful' END"
    " FROM submission "
)
_ALL = -1  # as a LIMIT


@dataclass(frozen=True, slots=True)
class RecipientRow:
    """A recipient and what became of it. `changed_at` is 0 before the first attempt."""

    number: int
    address: str
    state: str  # `queued`, or a disposition
    attempts: int
    reply: str  # the last one that counts
    next_hop: str
    changed_at: float


@dataclass(frozen=True, slots=True)
class SubmissionRow:
    """A submission. `state`: queued, successful, failed, or lost (with the queue's data)."""

    id: str
    accepted_at: float
    reverse_path: str
    size_bytes: int
    total_recipients: int
    state: str
    recipients: tuple[RecipientRow, ...] = ()


class Index:
    """The open file. Not for two threads."""

    def __init__(self, database: sqlite3.Connection, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self.ledger = read_ledger(database)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def apply(self, created: str, records: Sequence[EventRecord], missed: int = 0) -> Ledger:
        """Take in the records that follow `ledger.sequence`; return the new ledger.

        `missed` records before them were gone. Raises IndexDamagedError, IndexUnwritableError.
        """
        with translated_errors(), self._transaction():
            ledger = _placed(replace(self.ledger, created=created), records)
            if missed:
                ledger = replace(
                    ledger, missed_events=ledger.missed_events + missed, missed_at=self._clock()
                )
            totals = ledger.totals
            for record in records:
                is_new = record.sequence > ledger.counted_to
                for event in record.events:
                    # What became of the mail stays: it failed, or never was any.
                    if isinstance(event, Discarded | Abandoned):
                        continue
                    change = self._take(event, ledger, is_new=is_new)
                    if is_new and change is not None:
                        totals = totals.plus(change)
                if record.unreadable and is_new:
                    unreadable = ledger.unreadable_records + 1
                    ledger = replace(ledger, unreadable_records=unreadable)
            sequence = records[-1].sequence if records else ledger.sequence
            counted_to = max(ledger.counted_to, sequence)
            return self._keep(
                replace(ledger, totals=totals, sequence=sequence, counted_to=counted_to)
            )

    def skip_to(self, created: str, sequence: int, missed: int) -> Ledger:
        """Go on behind `sequence`: what was before is gone, `missed` records of it unread."""
        with translated_errors(), self._transaction():
            return self._keep(
                replace(
                    self.ledger,
                    created=created,
                    sequence=sequence,
                    counted_to=max(self.ledger.counted_to, sequence),
                    missed_events=self.ledger.missed_events + missed,
                    missed_at=self._clock() if missed else self.ledger.missed_at,
                )
            )

    def begin_epoch(self, created: str) -> Ledger:
        """Go on with another event stream: the queue lost its data, the totals stay.

        What was open is counted as lost, until an event shows that it was not.
        """
        with translated_errors(), self._transaction():
            self._database.execute("UPDATE submission SET lost = 1 WHERE open > 0 AND lost = 0")
            totals = self.ledger.totals
            lost = totals.lost_emails + totals.queued_emails
            return self._keep(
                replace(
                    self.ledger,
                    totals=replace(totals, lost_emails=lost),
                    created=created,
                    sequence=0,
                    counted_to=0,
                    known_before=0.0,
                    queue_losses=self.ledger.queue_losses + 1,
                    queue_lost_at=self._clock(),
                )
            )

    def prune(self) -> bool:
        """Remove some rows that are old enough; tell whether there may be more."""
        now = self._clock()
        with translated_errors(), self._transaction():
            surplus = self._database.execute(
                "SELECT id FROM submission ORDER BY id DESC LIMIT 1 OFFSET ?", (KEEP_ROWS,)
            ).fetchone()
            limits = [new_queue_id(now - KEEP_SUCCESSFUL_SECONDS, 0)]
            limits += [new_queue_id(now - KEEP_FAILED_SECONDS, 0)]
            if surplus is not None:
                limits = [max(limit, surplus[0]) for limit in limits]
            rows = self._database.execute(
                "SELECT id FROM submission WHERE id < ? AND open = 0"
                " AND (unsuccessful = 0 OR id < ?) ORDER BY id LIMIT ?",
                (*limits, PRUNE_BATCH),
            ).fetchall()
            self._database.executemany("DELETE FROM recipient WHERE submission = ?", rows)
            self._database.executemany("DELETE FROM submission WHERE id = ?", rows)
            if rows:
                pruned_to = max(self.ledger.pruned_to, rows[-1][0])
                self._keep(replace(self.ledger, pruned_to=pruned_to))
        return len(rows) == PRUNE_BATCH

    def submission(self, queue_id: QueueId) -> SubmissionRow | None:
        """Return a submission with its recipients."""
        with translated_errors():
            row = self._database.execute(_SUBMISSIONS + "WHERE id = ?", (queue_id,)).fetchone()
            return None if row is None else self._shown(row, _ALL)

    def oldest_open_at(self) -> float:
        """Return when the oldest email was accepted that is neither finished nor lost; or 0."""
        with translated_errors():
            (at,) = self._database.execute(
                "SELECT MIN(accepted_at) FROM submission WHERE open > 0 AND lost = 0"
            ).fetchone()
            return float(at or 0.0)

    def newest(self, limit: int) -> list[SubmissionRow]:
        """Return the newest submissions, each with its first recipient."""
        with translated_errors():
            rows = self._database.execute(_SUBMISSIONS + "ORDER BY id DESC LIMIT ?", (limit,))
            return [self._shown(row, 1) for row in rows.fetchall()]

    def _shown(self, row: tuple[Any, ...], recipients: int) -> SubmissionRow:
        found = self._database.execute(_RECIPIENTS, (row[0], recipients))
        recipients_of_it = tuple(RecipientRow(*one) for one in found)
        return replace(SubmissionRow(*row), recipients=recipients_of_it)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        before = self.ledger
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            self.ledger = before
            with contextlib.suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            raise

    def _keep(self, ledger: Ledger) -> Ledger:
        write_ledger(self._database, ledger)
        self.ledger = ledger
        return ledger

    # One event.
    def _take(self, event: Accepted | Attempted, ledger: Ledger, *, is_new: bool) -> Totals | None:
        """Bring the rows up to the event; return by how much that changes the totals."""
        row = Progress.read(self._database, event.summary.submission)
        change = None
        if row is None:
            row, change = self._new_row(event, ledger, is_new=is_new)
        if isinstance(event, Accepted):
            self._database.executemany(
                "INSERT OR IGNORE INTO recipient VALUES (?, ?, ?, 'queued', 0, '', '', 0)",
                [
                    (event.summary.submission, number, address)
                    for number, address in enumerate(event.recipients)
                ],
            )
            return change
        after = row
        for address, outcome in zip(event.addresses, event.outcomes, strict=False):
            after = self._take_outcome(event, address, outcome, after)
        if after != row:
            after.write(self._database, event.summary.submission)
        if not row.counted:
            return None
        moved = change_of_totals(row, after, event.summary)
        if moved is None or change is None:
            return moved or change
        return change.plus(moved)

    def _new_row(
        self, event: Accepted | Attempted, ledger: Ledger, *, is_new: bool
    ) -> tuple[Progress, Totals | None]:
        """Make a submission's row, from whatever event speaks of it first."""
        summary = event.summary
        change: Totals | None = Totals(total_emails=1, total_recipients=summary.total_recipients)
        counted = True
        if isinstance(event, Attempted) and is_new:
            # Its row is gone: then all of it was counted, or at least its acceptance was.
            if summary.submission <= ledger.pruned_to:
                counted, change = False, None
            elif summary.accepted_at < ledger.known_before:
                change = None
        row = Progress(summary.total_recipients, 0, 0.0, counted, lost=False)
        self._database.execute(
            "INSERT INTO submission VALUES (?, ?, ?, ?, ?, ?, 0, 0, ?, 0)",
            (
                summary.submission,
                summary.accepted_at,
                summary.reverse_path,
                summary.size_bytes,
                summary.total_recipients,
                summary.total_recipients,
                counted,
            ),
        )
        return row, change

    def _take_outcome(
        self, event: Attempted, address: str, outcome: Outcome, row: Progress
    ) -> Progress:
        place = (event.summary.submission, outcome.recipient)
        found = self._database.execute(
            "SELECT state, attempts, changed_at FROM recipient WHERE submission = ? AND number = ?",
            place,
        ).fetchone()
        old_state, attempts, changed_at = found or (QUEUED, 0, 0.0)
        state = outcome.disposition.value
        if not replaces(state, event.at, old_state, changed_at):
            return row  # late, or told twice
        self._database.execute(
            "INSERT OR REPLACE INTO recipient VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *place,
                address,
                state,
                max(attempts, event.attempt),
                str(outcome.reply),
                outcome.next_hop,
                event.at,
            ),
        )
        return row.moved(old_state, state, event.at)


def _placed(ledger: Ledger, records: Sequence[EventRecord]) -> Ledger:
    """Right after the rows were lost: say from when on they will be complete again."""
    if ledger.sequence or not ledger.known_before or not records:
        return ledger
    first = records[0]
    complete = first.sequence == 1
    known_before = 0.0 if complete else min(ledger.known_before, first.stored_at)
    return replace(ledger, known_before=known_before)
