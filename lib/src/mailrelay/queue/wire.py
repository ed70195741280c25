"""Stored records: one octet of format version, then MessagePack of the record (queue rule 3).

A record names its fields, so a reader ignores what it does not know; a change that an old reader
would misread gets a new version number. A job record holds one or more jobs from the first
version on, so that grouping (queue rule 2) needs no new format.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from mailrelay.mail.event import Accepted, Attempted, Event
from mailrelay.mail.job import CaptureRecord, FailedRecord, Job
from mailrelay.mail.pace import Pace

FORMAT_VERSION: Final = 1
_VERSION = bytes([FORMAT_VERSION])


class RecordError(ValueError):
    """A stored record that this version cannot read: unknown version, truncated or foreign."""


class _AcceptedRecord(msgspec.Struct, tag="accepted", frozen=True):
    event: Accepted


class _AttemptedRecord(msgspec.Struct, tag="attempted", frozen=True):
    event: Attempted


_EventRecord = _AcceptedRecord | _AttemptedRecord

_T = TypeVar("_T")
_encoder = msgspec.msgpack.Encoder()
_jobs = msgspec.msgpack.Decoder(list[Job])
_failed = msgspec.msgpack.Decoder(FailedRecord)
_capture = msgspec.msgpack.Decoder(CaptureRecord)
_pace = msgspec.msgpack.Decoder(Pace)
_events = msgspec.msgpack.Decoder(list[_EventRecord])


def encode_jobs(jobs: list[Job]) -> bytes:
    """Write a job record."""
    return _VERSION + _encoder.encode(jobs)


def decode_jobs(payload: bytes) -> list[Job]:
    """Read a job record. Raises RecordError; a record without a job counts as unreadable."""
    jobs = _decode(_jobs, payload)
    if not jobs:
        msg = "a job record without a job"
        raise RecordError(msg)
    return jobs


def encode_failed(record: FailedRecord) -> bytes:
    """Write a failed record."""
    return _VERSION + _encoder.encode(record)


def decode_failed(payload: bytes) -> FailedRecord:
    """Read a failed record. Raises RecordError."""
    return _decode(_failed, payload)


def encode_capture(record: CaptureRecord) -> bytes:
    """Write a capture record."""
    return _VERSION + _encoder.encode(record)


def decode_capture(payload: bytes) -> CaptureRecord:
    """Read a capture record. Raises RecordError."""
    return _decode(_capture, payload)


def encode_pace(pace: Pace) -> bytes:
    """Write what is known of a submission's turns."""
    return _VERSION + _encoder.encode(pace)


def decode_pace(payload: bytes) -> Pace:
    """Read what is known of a submission's turns. Raises RecordError."""
    return _decode(_pace, payload)


def encode_events(events: list[Event]) -> bytes:
    """Write a record of one or more events."""
    return _VERSION + _encoder.encode([_tagged(event) for event in events])


def decode_events(payload: bytes) -> list[Accepted | Attempted]:
    """Read a record of events. Raises RecordError."""
    return [record.event for record in _decode(_events, payload)]


def _tagged(event: Event) -> _EventRecord:
    if isinstance(event, Accepted):
        return _AcceptedRecord(event)
    if isinstance(event, Attempted):
        return _AttemptedRecord(event)
    msg = f"no wire form for {type(event).__name__}"
    raise TypeError(msg)


def _decode(decoder: msgspec.msgpack.Decoder[_T], payload: bytes) -> _T:
    if payload[:1] != _VERSION:
        found = payload[0] if payload else "nothing"
        msg = f"unknown format version {found}, this relay reads {FORMAT_VERSION}"
        raise RecordError(msg)
    try:
        return decoder.decode(memoryview(payload)[1:])
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise RecordError(str(error)) from error
