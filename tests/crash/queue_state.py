"""What the streams hold, looked at as admin, and what the end of a walk must look like."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

from mailrelay.mail.job import CaptureRecord, FailedRecord
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.wire import RecordError, decode_capture, decode_failed

# What is not empty in the end: the stores, which are looked at record by record; events and
# counters, which go by age; how far a submission's jobs came, which goes after a day.
_KEPT = ("failed", "capture", "event", "checkpoint", "limit-hour", "limit-day", "pace")


@dataclass(frozen=True, slots=True)
class QueueState:
    """All that is left in the queue."""

    records: dict[str, int] = field(default_factory=dict)  # by subject: what should not be there
    claims: dict[str, int] = field(default_factory=dict)  # by consumer
    failed: tuple[FailedRecord, ...] = ()  # no tombstones
    captured: tuple[CaptureRecord, ...] = ()
    set_aside: int = 0  # records in the failed store that nobody can read

    @property
    def bodies(self) -> dict[str, int]:
        """The chunks that are left."""
        return {name: count for name, count in self.records.items() if ".body." in name}

    @property
    def jobs(self) -> dict[str, int]:
        """What is left but for chunks."""
        return {name: count for name, count in self.records.items() if ".body." not in name}


async def read_state(admin: QueueConnection) -> QueueState:
    """Look at every stream of the relay. Raises QueueError.

    One question as long as there are jobs: a walk that is not over asks often.
    """
    names = admin.names
    filled = await _filled(admin)
    records: dict[str, int] = {}
    for stream in filled:
        if stream.removeprefix(f"{names.prefix}-") not in _KEPT:
            records |= await _subjects(admin, stream)
    failed: list[FailedRecord] = []
    captured: tuple[CaptureRecord, ...] = ()
    set_aside = 0
    if names.failed_stream in filled:
        for payload in filter(None, await _payloads(admin, names.failed_stream)):
            try:
                failed.append(decode_failed(payload))
            except RecordError:
                set_aside += 1
    if names.capture_stream in filled:
        payloads = await _payloads(admin, names.capture_stream)
        captured = tuple(decode_capture(each) for each in payloads)
    claims = {} if records else await _claims(admin)
    return QueueState(records, claims, tuple(failed), captured, set_aside)


async def _filled(admin: QueueConnection) -> list[str]:
    """The relay's streams that hold anything."""
    answer = await admin.api("STREAM.LIST")
    return [
        stream["config"]["name"]
        for stream in answer.get("streams") or ()
        if stream["state"]["messages"] and stream["config"]["name"].startswith(admin.names.prefix)
    ]


async def _subjects(admin: QueueConnection, stream: str) -> dict[str, int]:
    info = await admin.api(f"STREAM.INFO.{stream}", {"subjects_filter": ">"})
    state: dict[str, Any] = info["state"]
    return dict(state.get("subjects") or {})


async def _claims(admin: QueueConnection) -> dict[str, int]:
    found = {}
    for stream in (admin.names.in_stream(), admin.names.lane_stream):
        answer = await admin.api(f"CONSUMER.LIST.{stream}")
        for consumer in answer.get("consumers") or ():
            if consumer["num_ack_pending"]:
                found[consumer["name"]] = int(consumer["num_ack_pending"])
    return found


async def _payloads(admin: QueueConnection, stream: str) -> list[bytes]:
    found = []
    for subject in await _subjects(admin, stream):
        answer = await admin.api(f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
        found.append(base64.b64decode(answer["message"].get("data", "")))
    return found
