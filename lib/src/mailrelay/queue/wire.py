"""Stored records: one octet of format version, then MessagePack of the record (queue rule 3).

A record names its fields, so a reader ignores what it does not know; a change that an old reader
would misread gets a new version number. A job record holds one or more jobs from the first
version on, so that grouping (queue rule 2) needs no new format.

A record with a release in it has version 2: a reader that knew nothing of releases would send it to
another next hop than the one it names. Everything else has version 1.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from mailrelay.mail.disposition import Outcome
from mailrelay.mail.event import Abandoned, Accepted, Attempted, Discarded, Event
from mailrelay.mail.job import CaptureRecord, FailedRecord, Job
from mailrelay.mail.pace import Pace
from mailrelay.queue.bounds import fault_of, fault_of_event, fault_of_job

FORMAT_VERSION: Final = 1
RELEASE_VERSION: Final = 2
_VERSION = bytes([FORMAT_VERSION])
_READABLE = {_VERSION, bytes([RELEASE_VERSION])}


class RecordError(ValueError):
    """A stored record that this version cannot read: unknown version, truncated or foreign."""


class UnknownVersionError(RecordError):
    """A record that a later version may have written, and can read."""


class _AcceptedRecord(msgspec.Struct, tag="accepted", frozen=True):
    event: Accepted


class _AttemptedRecord(msgspec.Struct, tag="attempted", frozen=True):
    event: Attempted


class _DiscardedRecord(msgspec.Struct, tag="discarded", frozen=True):
    event: Discarded


class _AbandonedRecord(msgspec.Struct, tag="abandoned", frozen=True):
    event: Abandoned


_EventRecord = _AcceptedRecord | _AttemptedRecord | _DiscardedRecord | _AbandonedRecord


class _Kind(msgspec.Struct):
    type: str


KnownEvent = Accepted | Attempted | Discarded | Abandoned
_T = TypeVar("_T")
_encoder = msgspec.msgpack.Encoder()
_jobs = msgspec.msgpack.Decoder(list[Job])
_failed = msgspec.msgpack.Decoder(FailedRecord)
_capture = msgspec.msgpack.Decoder(CaptureRecord)
_pace = msgspec.msgpack.Decoder(Pace)
_outcome = msgspec.msgpack.Decoder(Outcome)
_events = msgspec.msgpack.Decoder(list[msgspec.Raw])
_event = msgspec.msgpack.Decoder(_EventRecord)
_kind = msgspec.msgpack.Decoder(_Kind)
_KINDS = frozenset({"accepted", "attempted", "discarded", "abandoned"})


def encode_jobs(jobs: list[Job]) -> bytes:
    """Write a job record."""
    return _version_of(*jobs) + _encoder.encode(jobs)


def decode_jobs(payload: bytes) -> list[Job]:
    """Read a job record. Raises RecordError; a record without a job counts as unreadable."""
    jobs = _decode(_jobs, payload)
    _refuse("" if jobs else "a job record without a job", *map(fault_of_job, jobs))
    return jobs


def encode_failed(record: FailedRecord) -> bytes:
    """Write a failed record."""
    return _version_of(record.job) + _encoder.encode(record)


def decode_failed(payload: bytes) -> FailedRecord:
    """Read a failed record. Raises RecordError."""
    record = _decode(_failed, payload)
    mark = record.resending
    numbers, times = ((mark.sequence,), (mark.stored_at,)) if mark else ((), ())
    _refuse(fault_of_job(record.job), fault_of(numbers, (record.failed_at, *times)))
    return record


def encode_capture(record: CaptureRecord) -> bytes:
    """Write a capture record."""
    return _version_of(record.job) + _encoder.encode(record)


def decode_capture(payload: bytes) -> CaptureRecord:
    """Read a capture record. Raises RecordError."""
    record = _decode(_capture, payload)
    _refuse(fault_of_job(record.job), fault_of((), (record.captured_at,)))
    return record


def encode_pace(pace: Pace) -> bytes:
    """Write what is known of a submission's turns."""
    return _VERSION + _encoder.encode(pace)


def decode_pace(payload: bytes) -> Pace:
    """Read what is known of a submission's turns. Raises RecordError."""
    return _decode(_pace, payload)


def encode_outcome(outcome: Outcome) -> bytes:
    """Write how one recipient ended."""
    return _VERSION + _encoder.encode(outcome)


def decode_outcome(payload: bytes) -> Outcome:
    """Read how one recipient ended. Raises RecordError."""
    return _decode(_outcome, payload)


def encode_events(events: list[Event]) -> bytes:
    """Write a record of one or more events."""
    return _VERSION + _encoder.encode([_tagged(event) for event in events])


def decode_events(payload: bytes) -> list[KnownEvent]:
    """Read a record of events; kinds that this version does not know are left out.

    So a newer process may tell something new beside what everybody reads. Raises RecordError.
    """
    events: list[KnownEvent] = []
    for raw in _decode(_events, payload):
        try:
            if _kind.decode(raw).type in _KINDS:
                events.append(_event.decode(raw).event)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise RecordError(str(error)) from error
    _refuse(*map(fault_of_event, events))
    return events


def _version_of(*jobs: Job) -> bytes:
    return bytes([RELEASE_VERSION]) if any(job.release for job in jobs) else _VERSION


def _tagged(event: Event) -> _EventRecord:
    if isinstance(event, Accepted):
        return _AcceptedRecord(event)
    if isinstance(event, Attempted):
        return _AttemptedRecord(event)
    if isinstance(event, Discarded):
        return _DiscardedRecord(event)
    if isinstance(event, Abandoned):
        return _AbandonedRecord(event)
    msg = f"no wire form for {type(event).__name__}"
    raise TypeError(msg)


def _refuse(*faults: str) -> None:
    """Raise RecordError with the first of `faults` that says something."""
    for fault in filter(None, faults):
        raise RecordError(fault)


def _decode(decoder: msgspec.msgpack.Decoder[_T], payload: bytes) -> _T:
    if payload[:1] not in _READABLE:
        found = payload[0] if payload else "nothing"
        msg = (
            f"unknown format version {found}, "
            f"this relay reads {FORMAT_VERSION} and {RELEASE_VERSION}"
        )
        later = bool(payload) and payload[0] > RELEASE_VERSION
        raise UnknownVersionError(msg) if later else RecordError(msg)
    try:
        return decoder.decode(memoryview(payload)[1:])
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise RecordError(str(error)) from error
