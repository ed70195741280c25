from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelay.mail.disposition import Disposition
from mailrelay.mail.event import Abandoned, Accepted, Attempted, Discarded, Event, Summary
from mailrelay.mail.ids import QueueId
from mailrelay.mail.job import CaptureRecord, FailedRecord, Job, Release, ResendMark
from mailrelay.queue.wire import (
    FORMAT_VERSION,
    RELEASE_VERSION,
    RecordError,
    decode_capture,
    decode_events,
    decode_failed,
    decode_jobs,
    encode_capture,
    encode_events,
    encode_failed,
    encode_jobs,
)
from tests.lib import jobs as some
from tests.lib.jobs import make_job

SUMMARIES = st.builds(
    Summary, some.queue_ids, some.text, some.numbers, some.numbers, some.times, st.booleans()
)
ACCEPTED = st.builds(Accepted, SUMMARIES, some.times, st.lists(some.text).map(tuple))
ATTEMPTED = st.builds(
    Attempted,
    SUMMARIES,
    some.times,
    some.numbers,
    some.numbers,
    some.numbers,
    some.times,
    st.lists(some.text).map(tuple),
    st.lists(some.outcomes).map(tuple),
)
DISCARDED = st.builds(Discarded, SUMMARIES, some.times, some.numbers, some.text, some.text)
ABANDONED = st.builds(Abandoned, SUMMARIES, some.times)
EVENT_LISTS: st.SearchStrategy[list[Event]] = st.lists(
    ACCEPTED | ATTEMPTED | DISCARDED | ABANDONED, max_size=3
)
MARKS = st.builds(ResendMark, some.text, some.numbers, some.times)
DECODERS: list[Callable[[bytes], Any]] = [decode_jobs, decode_failed, decode_capture, decode_events]


@given(st.lists(some.jobs, min_size=1, max_size=3))
def test_jobs_come_back_as_they_were(jobs: list[Job]) -> None:
    assert decode_jobs(encode_jobs(jobs)) == jobs


@given(some.jobs, st.sampled_from(Disposition), some.times, st.none() | MARKS)
def test_failed_records_come_back_as_they_were(
    job: Job, disposition: Disposition, at: float, mark: ResendMark | None
) -> None:
    record = FailedRecord(job, disposition, at, mark)
    assert decode_failed(encode_failed(record)) == record


@given(some.jobs, some.times)
def test_capture_records_come_back_as_they_were(job: Job, at: float) -> None:
    assert decode_capture(encode_capture(CaptureRecord(job, at))) == CaptureRecord(job, at)


@given(EVENT_LISTS)
def test_events_come_back_as_they_were(events: list[Event]) -> None:
    assert decode_events(encode_events(events)) == events


def test_every_record_begins_with_the_format_version() -> None:
    job = make_job()
    failed = FailedRecord(job, Disposition.BOUNCED, 0.0)
    for payload in (
        encode_jobs([job]),
        encode_failed(failed),
        encode_capture(CaptureRecord(job, 0.0)),
        encode_events([]),
    ):
        assert payload[0] == FORMAT_VERSION == 1


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize("version", [0, 3, 255])
def test_an_unknown_version_is_refused_by_its_number(
    decode: Callable[[bytes], Any], version: int
) -> None:
    payload = bytes([version]) + encode_jobs([make_job()])[1:]
    with pytest.raises(RecordError, match=f"unknown format version {version}"):
        decode(payload)


def test_a_record_with_a_release_is_kept_from_readers_that_would_send_it_elsewhere() -> None:
    job = make_job(release=Release("r", 1.0, "other:25"))
    failed = FailedRecord(job, Disposition.BOUNCED, 0.0)
    payloads = (
        encode_jobs([make_job(), job]),
        encode_failed(failed),
        encode_capture(CaptureRecord(job, 0.0)),
    )
    assert [payload[0] for payload in payloads] == [RELEASE_VERSION] * 3
    assert decode_jobs(payloads[0])[1] == job
    assert decode_failed(payloads[1]) == failed


def test_an_event_of_a_kind_of_tomorrow_is_passed_over() -> None:
    known = Accepted(Summary.of(make_job()), 1.0, ("a",))
    whole = msgspec.msgpack.decode(encode_events([known])[1:])
    unknown = {"type": "of tomorrow", "event": {"summary": 5}}
    payload = b"\x01" + msgspec.msgpack.encode([unknown, *whole, unknown])
    assert decode_events(payload) == [known]


@pytest.mark.parametrize("decode", DECODERS)
def test_an_empty_record_is_refused(decode: Callable[[bytes], Any]) -> None:
    with pytest.raises(RecordError, match="nothing"):
        decode(b"")


def test_a_record_cut_off_anywhere_is_refused() -> None:
    payload = encode_jobs([make_job(2)])
    for length in range(len(payload)):
        with pytest.raises(RecordError):
            decode_jobs(payload[:length])


def test_a_record_with_something_behind_it_is_refused() -> None:
    with pytest.raises(RecordError):
        decode_jobs(encode_jobs([make_job()]) + b"\0")


@pytest.mark.parametrize("decode", DECODERS)
@given(foreign=st.binary(max_size=60))
def test_foreign_octets_raise_nothing_but_a_record_error(
    decode: Callable[[bytes], Any], foreign: bytes
) -> None:
    for payload in (foreign, b"\x01" + foreign):
        try:
            decode(payload)
        except RecordError:
            continue


def test_a_job_record_without_a_job_is_refused() -> None:
    with pytest.raises(RecordError, match="without a job"):
        decode_jobs(encode_jobs([]))


def test_a_record_of_another_kind_is_refused() -> None:
    with pytest.raises(RecordError):
        decode_failed(encode_jobs([make_job()]))


def test_an_event_of_an_unknown_kind_is_not_written() -> None:
    with pytest.raises(TypeError, match="no wire form"):
        encode_events([Event(Summary.of(make_job()), 0.0)])


def told(about: Summary, at: float = 1.0) -> list[Event]:
    return [Accepted(about, at, ("r@reader.test",))]


ABOUT = Summary(some.queue_id(), "a@b.test", 10, 1, 1.0, stored_body=False)


@pytest.mark.parametrize(
    ("decode", "record"),
    [
        (decode_jobs, encode_jobs([make_job(accepted_at=1e20)])),
        (decode_jobs, encode_jobs([make_job(due=float("nan"))])),
        (decode_jobs, encode_jobs([make_job(size_bytes=2**64 - 1)])),
        (decode_failed, encode_failed(FailedRecord(make_job(), Disposition.BOUNCED, 1e20))),
        (decode_failed, encode_failed(FailedRecord(make_job(0), Disposition.BOUNCED, 1.0))),
        (decode_capture, encode_capture(CaptureRecord(make_job(), float("-inf")))),
        (decode_capture, encode_capture(CaptureRecord(make_job(0), 1.0))),
        (decode_events, encode_events(told(replace(ABOUT, size_bytes=2**63)))),
        (decode_events, encode_events(told(replace(ABOUT, total_recipients=-1)))),
        (decode_events, encode_events(told(ABOUT, float("inf")))),
        (decode_jobs, encode_jobs([make_job(submission=QueueId("../../elsewhere"))])),
        (decode_events, encode_events(told(replace(ABOUT, submission=QueueId("*"))))),
    ],
)
def test_what_no_database_calendar_or_folder_should_get_is_refused(
    decode: Callable[[bytes], Any], record: bytes
) -> None:
    with pytest.raises(RecordError, match=r"is not from 0 to|without a recipient|is no queue id"):
        decode(record)
