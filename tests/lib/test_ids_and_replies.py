from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelay.mail.ids import is_queue_id, new_queue_id
from mailrelay.mail.job import MAX_HISTORY, Job, Recipient, Try, recipients_hash
from mailrelay.mail.reply import MAX_TEXT_CHARACTERS, Reply
from tests.lib import jobs as some
from tests.lib.jobs import make_job

SECONDS = st.floats(0, 30_000_000_000)


@given(SECONDS, st.integers(0, 2**65 - 1))
def test_a_new_queue_id_is_a_safe_subject_token(now: float, entropy: int) -> None:
    made = new_queue_id(now, entropy)
    assert is_queue_id(made)
    assert made.isalnum()
    assert made == made.lower()


@given(SECONDS, SECONDS, st.integers(0, 2**65 - 1), st.integers(0, 2**65 - 1))
def test_queue_ids_sort_by_time(first: float, second: float, one: int, other: int) -> None:
    if int(first * 1000) < int(second * 1000):
        assert new_queue_id(first, one) < new_queue_id(second, other)


@given(st.integers(0, 2**65 - 1), st.integers(0, 2**65 - 1))
def test_queue_ids_differ_when_their_random_part_does(one: int, other: int) -> None:
    assert (new_queue_id(1.0, one) == new_queue_id(1.0, other)) == (one == other)


@pytest.mark.parametrize("text", ["", "0" * 21, "0" * 23, "0" * 21 + "i", "0" * 21 + ".", "A" * 22])
def test_other_text_is_no_queue_id(text: str) -> None:
    assert not is_queue_id(text)


@pytest.mark.parametrize(
    ("code", "text", "reply"),
    [
        (250, "2.0.0 OK", Reply(250, "2.0.0", "OK")),
        (250, "OK", Reply(250, "", "OK")),
        (250, "", Reply(250, "", "")),
        (550, "5.1.1", Reply(550, "5.1.1", "")),
        (550, "5.1.1\n5.1.1 No user", Reply(550, "5.1.1", "5.1.1 No user")),
        (550, "5.1.12345 x", Reply(550, "", "5.1.12345 x")),
        (550, "3.1.1 x", Reply(550, "", "3.1.1 x")),
        (451, "4.7.1 a\r\nb\x00c\x1b[31m", Reply(451, "4.7.1", "a b c [31m")),
        (451, "192.0.2.1 is listed", Reply(451, "", "192.0.2.1 is listed")),
        (451, "caf\udce9", Reply(451, "", "caf?")),
    ],
)
def test_a_reply_is_read_with_its_enhanced_code(code: int, text: str, reply: Reply) -> None:
    assert Reply.parse(code, text) == reply


@given(st.integers(200, 599), st.text(max_size=2000))
def test_a_parsed_reply_is_bounded_and_one_line(code: int, text: str) -> None:
    reply = Reply.parse(code, text)
    assert len(reply.text) <= MAX_TEXT_CHARACTERS
    assert not any(ord(letter) < 32 for letter in reply.text)
    assert reply.is_permanent == (500 <= code < 600)


@given(
    st.integers(200, 599), st.sampled_from(["", "5.1.1", "2.0.0"]), st.text("abc 123", max_size=9)
)
def test_a_reply_survives_being_written_and_read(code: int, enhanced: str, text: str) -> None:
    reply = Reply(code, enhanced, text.strip())
    assert Reply.parse(code, str(reply)[4:]) == reply


# --- Jobs -------------------------------------------------------------------------------------


def test_a_deferred_job_waits_for_its_next_attempt_with_fresh_hops() -> None:
    job = make_job(3, hop=4, attempt=2, faults=1)
    left = job.deferred(job.recipients[1:], 99.0, fault=False)
    assert (left.attempt, left.hop, left.due, left.faults) == (3, 0, 99.0, 1)
    assert left.recipients == job.recipients[1:]
    assert left.submission == job.submission
    assert left.content == job.content
    assert job.deferred(job.recipients, 1.0, fault=True).faults == 2


@given(st.integers(1, 3 * MAX_HISTORY))
def test_a_history_keeps_its_beginning_and_its_end(count: int) -> None:
    recipient = Recipient(0, "a@b.test")
    for attempt in range(1, count + 1):
        recipient = recipient.tried(Try(attempt, 0.0, "hop", Reply(451, "", "")))
    attempts = [each.attempt for each in recipient.tries]
    assert len(attempts) == min(count, MAX_HISTORY)
    assert attempts[0] == 1
    assert attempts[-1] == count
    assert attempts[1:] == list(range(count - len(attempts) + 2, count + 1))


@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)))
def test_recipients_hashes_are_equal_exactly_when_the_sets_are(a: set[int], b: set[int]) -> None:
    def named(numbers: set[int]) -> str:
        return recipients_hash(tuple(Recipient(n, "x") for n in sorted(numbers)))

    assert (named(a) == named(b)) == (a == b)


@given(some.jobs)
def test_content_never_shows_in_a_jobs_repr(job: Job) -> None:
    assert "content=" not in repr(job)
