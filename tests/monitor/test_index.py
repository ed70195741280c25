from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailrelay.mail.disposition import Disposition
from mailrelay.mail.event import Accepted, Attempted
from mailrelay.mail.ids import QueueId
from mailrelay.queue.events import EventRecord
from mailrelay_monitor.index import KEEP_FAILED_SECONDS, KEEP_SUCCESSFUL_SECONDS, Index
from mailrelay_monitor.index_file import (
    IndexDamagedError,
    IndexUnwritableError,
    make_file,
    open_file,
)
from mailrelay_monitor.totals import Ledger, Totals
from tests.monitor.story import (
    BOUNCED,
    CAPTURED,
    DEFERRED,
    EXPIRED,
    SENT,
    accepted,
    attempted,
    queue_id,
    record,
    summary,
)

CREATED = "2026-11-01T00:00:00Z"


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "monitor" / "index.sqlite3"


@pytest.fixture
def index(path: Path, clock: Clock) -> Iterator[Index]:
    index = Index(make_file(path, Ledger()), clock)
    yield index
    index.close()


def tell(index: Index, *events: Accepted | Attempted) -> Totals:
    """Apply each event as a record of its own."""
    for event in events:
        index.apply(CREATED, [record(index.ledger.sequence + 1, event)])
    return index.ledger.totals


def state_of(index: Index, submission: QueueId, number: int = 0) -> str:
    row = index.submission(submission)
    assert row is not None
    return row.recipients[number].state


def test_accepted_submission_is_counted_and_queued(index: Index) -> None:
    about = summary(queue_id(), 3)
    assert tell(index, accepted(about)) == Totals(total_emails=1, total_recipients=3)
    assert index.ledger.totals.queued_emails == 1
    row = index.submission(about.submission)
    assert row is not None
    assert row.state == "queued"
    assert [recipient.address for recipient in row.recipients] == [
        "r0@to.example",
        "r1@to.example",
        "r2@to.example",
    ]


def test_the_oldest_email_is_the_one_accepted_first_that_is_neither_finished_nor_lost(
    index: Index,
) -> None:
    assert index.oldest_open_at() == 0
    first, second = (summary(queue_id(), 2, at=at) for at in (1000.0, 2000.0))
    tell(index, accepted(second), accepted(first))
    assert index.oldest_open_at() == 1000
    tell(index, attempted(first, {0: SENT, 1: DEFERRED}))
    assert index.oldest_open_at() == 1000
    tell(index, attempted(first, {1: BOUNCED}, after=2.0))
    assert index.oldest_open_at() == 2000
    index.begin_epoch("2026-11-02T00:00:00Z")
    assert index.oldest_open_at() == 0


def test_the_oldest_email_is_found_without_looking_at_each_also_in_a_file_of_before(
    path: Path, index: Index, clock: Clock
) -> None:
    tell(index, accepted(summary(queue_id(), at=1000.0)))
    index.close()
    with contextlib.closing(sqlite3.connect(path)) as of_before:
        of_before.execute("DROP INDEX unfinished")
    database = open_file(path)
    assert database is not None
    with contextlib.closing(Index(database, clock)) as opened:
        asked: list[str] = []
        database.set_trace_callback(asked.append)
        assert opened.oldest_open_at() == 1000
        database.set_trace_callback(None)
        (plan,) = database.execute(f"EXPLAIN QUERY PLAN {asked[0]}").fetchall()
        assert plan[-1] == "SEARCH submission USING INDEX unfinished"


def test_submission_is_successful_once_every_recipient_is_sent_or_captured(index: Index) -> None:
    about = summary(queue_id(), 2)
    totals = tell(index, accepted(about), attempted(about, {0: SENT}))
    assert (totals.successful_emails, totals.queued_emails) == (0, 1)
    totals = tell(index, attempted(about, {1: CAPTURED}))
    assert (totals.successful_emails, totals.failed_emails, totals.queued_emails) == (1, 0, 0)


def test_submission_is_failed_once_it_is_finished_with_a_bounced_recipient(index: Index) -> None:
    about = summary(queue_id(), 2)
    assert tell(index, attempted(about, {0: BOUNCED, 1: DEFERRED})).failed_emails == 0
    totals = tell(index, attempted(about, {1: SENT}, attempt=2, after=9))
    assert (totals.successful_emails, totals.failed_emails, totals.queued_emails) == (0, 1, 0)
    assert totals.success_rate == 0.0


def test_any_event_alone_creates_the_row(index: Index) -> None:
    about = summary(queue_id(), 2)
    assert tell(index, attempted(about, {1: SENT})) == Totals(total_emails=1, total_recipients=2)
    assert tell(index, accepted(about)) == Totals(total_emails=1, total_recipients=2)
    row = index.submission(about.submission)
    assert row is not None
    assert [recipient.state for recipient in row.recipients] == ["queued", "sent"]


def test_events_told_again_change_nothing(index: Index) -> None:
    about = summary(queue_id(), 2)
    story: list[Accepted | Attempted] = [
        accepted(about),
        attempted(about, {0: SENT, 1: BOUNCED}),
    ]
    once = tell(index, *story)
    row = index.submission(about.submission)
    assert tell(index, *story, *reversed(story)) == once
    assert index.submission(about.submission) == row


def test_delivery_wins_over_a_later_bounce_of_a_repeated_job(index: Index) -> None:
    about = summary(queue_id())
    totals = tell(
        index, attempted(about, {0: SENT}, after=1), attempted(about, {0: BOUNCED}, after=40)
    )
    assert (totals.successful_emails, totals.failed_emails) == (1, 0)
    assert state_of(index, about.submission) == "sent"


@pytest.mark.parametrize("failure", [BOUNCED, EXPIRED])
def test_resend_turns_a_failure_into_a_success(index: Index, failure: Disposition) -> None:
    about = summary(queue_id(), 2)
    before = tell(index, accepted(about), attempted(about, {0: SENT, 1: failure}))
    assert (before.successful_emails, before.failed_emails) == (0, 1)
    after = tell(index, attempted(about, {1: SENT}, after=90_000))
    assert (after.successful_emails, after.failed_emails) == (1, 0)
    assert after.processing_ms == before.processing_ms


def test_resend_that_fails_again_counts_once_and_shows_the_newest_reply(index: Index) -> None:
    about = summary(queue_id())
    totals = tell(
        index, attempted(about, {0: BOUNCED}), attempted(about, {0: EXPIRED}, after=90_000)
    )
    assert totals.failed_emails == 1
    row = index.submission(about.submission)
    assert row is not None
    assert row.recipients[0].reply == "451 4.3.0 still later"


def test_final_state_is_not_undone_by_a_late_deferral(index: Index) -> None:
    about = summary(queue_id())
    tell(index, attempted(about, {0: BOUNCED}, attempt=2, after=60))
    totals = tell(index, attempted(about, {0: DEFERRED}, attempt=1, after=1))
    assert (totals.failed_emails, totals.queued_emails) == (1, 0)
    assert state_of(index, about.submission) == "bounced"


def test_last_reply_attempts_and_next_hop_are_kept(index: Index) -> None:
    about = summary(queue_id())
    tell(
        index,
        attempted(about, {0: DEFERRED}, attempt=2, after=60),
        attempted(about, {0: DEFERRED}, attempt=1, after=1),
    )
    row = index.submission(about.submission)
    assert row is not None
    recipient = row.recipients[0]
    assert (recipient.attempts, recipient.reply) == (2, "451 4.3.0 later")
    assert recipient.next_hop == "mx.to.example:25"
    assert recipient.changed_at == about.accepted_at + 60


def test_processing_time_ends_with_the_last_final_disposition(index: Index) -> None:
    about, other = summary(queue_id(), 2), summary(queue_id())
    totals = tell(
        index,
        attempted(about, {1: SENT}, after=3.0),
        attempted(about, {0: SENT}, after=1.0),
        attempted(other, {0: SENT}, after=0.5),
    )
    assert totals.avg_processing_time_ms == 1750


def test_success_rate_has_one_decimal_and_is_100_with_nothing_finished() -> None:
    assert Totals(total_emails=5).success_rate == 100.0
    assert Totals(successful_emails=1247, failed_emails=3).success_rate == 99.8


def test_reopened_file_goes_on_where_it_was(path: Path, index: Index, clock: Clock) -> None:
    about = summary(queue_id(), 2)
    tell(index, accepted(about), attempted(about, {0: SENT}))
    ledger = index.ledger
    index.close()
    database = open_file(path)
    assert database is not None
    again = Index(database, clock)
    assert again.ledger == ledger
    assert tell(again, attempted(about, {1: SENT})).successful_emails == 1
    again.close()


def test_records_that_break_off_leave_rows_and_totals_as_they_were(index: Index) -> None:
    about, other = summary(queue_id()), summary(queue_id())
    tell(index, accepted(about))
    before = index.ledger
    broken = replace(accepted(other), recipients=(object(),))  # type: ignore[arg-type]
    with pytest.raises(IndexUnwritableError):
        index.apply(CREATED, [record(2, attempted(about, {0: SENT})), record(3, broken)])
    assert index.ledger == before
    assert state_of(index, about.submission) == "queued"
    assert index.submission(other.submission) is None


def test_second_monitor_cannot_have_the_same_file(path: Path, index: Index) -> None:
    tell(index, accepted(summary(queue_id())))
    with pytest.raises(IndexUnwritableError, match="locked"):
        open_file(path)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _foreign(path: Path) -> None:
    path.write_bytes(b"no database at all, only words\n" * 100)


def _of_another_version(path: Path) -> None:
    make_file(path, Ledger()).close()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()


@pytest.mark.parametrize("damage", [_empty, _foreign, _of_another_version])
def test_unusable_file_is_told_and_kept_beside_the_new_one(
    path: Path, damage: Callable[[Path], None]
) -> None:
    path.parent.mkdir()
    damage(path)
    with pytest.raises(IndexDamagedError):
        open_file(path)
    make_file(path, Ledger()).close()
    opened = open_file(path)
    assert opened is not None
    opened.close()
    assert path.with_name("index.sqlite3.damaged").exists()


def test_missing_file_is_none(path: Path) -> None:
    assert open_file(path) is None


# --- Pruning -------------------------------------------------------------------------------------


def test_pruned_rows_leave_the_totals_alone_and_late_events_do_not_count(
    index: Index, clock: Clock
) -> None:
    at = clock.now
    about, waiting = summary(queue_id(at), at=at), summary(queue_id(at), at=at)
    before = tell(index, accepted(waiting), accepted(about), attempted(about, {0: SENT}))
    clock.now = at + KEEP_SUCCESSFUL_SECONDS + 10
    assert index.prune() is False
    assert index.submission(about.submission) is None
    assert index.submission(waiting.submission) is not None, "it is not finished"
    assert tell(index, attempted(about, {0: SENT})) == before


def test_failed_submission_outlives_the_others_so_that_its_resend_counts(
    index: Index, clock: Clock
) -> None:
    at = clock.now
    about = summary(queue_id(at), at=at)
    tell(index, attempted(about, {0: BOUNCED}))
    clock.now = at + KEEP_SUCCESSFUL_SECONDS + 10
    index.prune()
    totals = tell(index, attempted(about, {0: SENT}, after=KEEP_SUCCESSFUL_SECONDS))
    assert (totals.successful_emails, totals.failed_emails) == (1, 0)
    other = summary(queue_id(at), at=at)
    tell(index, attempted(other, {0: BOUNCED}))
    clock.now = at + KEEP_FAILED_SECONDS + 10
    index.prune()
    assert index.submission(other.submission) is None


# --- Rows made anew ------------------------------------------------------------------------------


def test_totals_are_exact_when_the_rows_are_made_anew_from_a_checkpoint(
    path: Path, index: Index, clock: Clock
) -> None:
    story: list[Accepted | Attempted] = []
    for number in range(20):
        about = summary(queue_id(1000.0 + number), 2, at=1000.0 + number)
        story += [
            accepted(about),
            attempted(about, {0: SENT, 1: DEFERRED}),
            attempted(about, {1: SENT if number % 3 else BOUNCED}, attempt=2, after=60),
        ]
    records = [record(number, event) for number, event in enumerate(story, 1)]
    index.apply(CREATED, records[:31])
    checkpoint = replace(index.ledger, sequence=0, known_before=1500.0)
    index.apply(CREATED, records[31:])
    expected = index.ledger.totals
    index.close()

    anew = Index(make_file(path, checkpoint), clock)
    for start in range(0, len(records), 7):
        anew.apply(CREATED, records[start : start + 7])
    assert anew.ledger.totals == expected
    assert anew.ledger.sequence == len(records)
    assert len(anew.newest(100)) == 20
    anew.close()


def test_submission_from_before_the_oldest_event_is_not_counted_as_accepted_again(
    path: Path, clock: Clock
) -> None:
    checkpoint = Ledger(
        Totals(total_emails=9, successful_emails=8, total_recipients=9),
        created=CREATED,
        counted_to=50,
        known_before=9_000.0,
    )
    index = Index(make_file(path, checkpoint), clock)
    old, new = summary(queue_id(), at=1_000.0), summary(queue_id(), at=9_500.0)
    index.apply(CREATED, [record(40, stored_at=5_000.0)])
    index.apply(
        CREATED, [record(51, attempted(old, {0: SENT})), record(52, attempted(new, {0: SENT}))]
    )
    assert index.ledger.totals.total_emails == 10
    assert index.ledger.totals.queued_emails == 0
    index.close()


# --- The queue lost its data ---------------------------------------------------------------------


def test_totals_stay_when_the_queue_lost_its_data_and_open_mail_is_lost(index: Index) -> None:
    done, waiting = summary(queue_id()), summary(queue_id())
    tell(index, accepted(done), attempted(done, {0: SENT}), accepted(waiting))
    ledger = index.begin_epoch("another")
    assert (ledger.created, ledger.sequence, ledger.queue_losses) == ("another", 0, 1)
    assert (ledger.totals.total_emails, ledger.totals.lost_emails) == (2, 1)
    assert ledger.totals.queued_emails == 0
    row = index.submission(waiting.submission)
    assert row is not None
    assert row.state == "lost"


def test_lost_mail_that_is_delivered_after_all_is_no_longer_lost(index: Index) -> None:
    waiting = summary(queue_id())
    tell(index, accepted(waiting))
    index.begin_epoch("another")
    index.begin_epoch("a third")
    totals = tell(index, attempted(waiting, {0: SENT}))
    assert (totals.lost_emails, totals.successful_emails, totals.queued_emails) == (0, 1, 0)


# --- Any order, any repetition -------------------------------------------------------------------

_RANKS = {DEFERRED: 1, BOUNCED: 2, EXPIRED: 2, CAPTURED: 3, SENT: 4}
_submissions = [summary(queue_id(1000.0 + number), 1 + number % 3) for number in range(4)]


@st.composite
def _events(draw: st.DrawFn) -> Accepted | Attempted:
    about = draw(st.sampled_from(_submissions))
    if draw(st.booleans()):
        return accepted(about)
    numbers = draw(
        st.lists(st.integers(0, about.total_recipients - 1), min_size=1, max_size=3, unique=True)
    )
    outcomes = {number: draw(st.sampled_from(list(_RANKS))) for number in numbers}
    return attempted(about, outcomes, after=draw(st.integers(1, 9)))


def _expected(events: list[Accepted | Attempted]) -> tuple[int, int, int]:
    """Say by plain means what the totals must be: total, successful, failed."""
    best: dict[QueueId, dict[int, int]] = {}
    wanted = {about.submission: about.total_recipients for about in _submissions}
    for event in events:
        ranks = best.setdefault(event.summary.submission, {})
        for outcome in event.outcomes if isinstance(event, Attempted) else ():
            rank = _RANKS[outcome.disposition]
            ranks[outcome.recipient] = max(ranks.get(outcome.recipient, 0), rank)
    successful = failed = 0
    for submission, ranks in best.items():
        final = [rank for rank in ranks.values() if rank >= 2]
        if len(final) == wanted[submission]:
            successful += min(final) >= 3
            failed += min(final) < 3
    return len(best), successful, failed


@settings(max_examples=150, deadline=None)
@given(events=st.lists(_events(), max_size=25), data=st.data())
def test_totals_follow_from_the_set_of_events_alone(
    events: list[Accepted | Attempted],
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    told = events + data.draw(
        st.lists(st.sampled_from(events), max_size=10) if events else st.just([])
    )
    records: list[EventRecord] = [record(number, event) for number, event in enumerate(told, 1)]
    path = tmp_path_factory.mktemp("index") / "i"
    # Whatever ends it: a draw ends many a test half-way.
    with contextlib.closing(Index(make_file(path, Ledger()), time.time)) as index:
        while records:
            size = data.draw(st.integers(1, len(records)))
            index.apply(CREATED, records[:size])
            records = records[size:]
        totals = index.ledger.totals
    assert (totals.total_emails, totals.successful_emails, totals.failed_emails) == _expected(told)
    assert totals.queued_emails == totals.total_emails - totals.finished_emails
