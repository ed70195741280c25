"""How many jobs a sender could take now or very soon: counted by the server, whatever their number.

New jobs, what lies in the lane `now` (resends are there), and what comes up in another lane within
`SOON_SECONDS`. A record comes up when its lane's delay is over, so in a lane it is the older ones,
and where they end is asked by time.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Final

import msgspec

from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.errors import QueueError, QueueUnavailableError
from mailrelay.queue.lanes import LADDER

SOON_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class ReadyJobs:
    """Records, each of one job but for old ones of several."""

    new: int  # before their first attempt, those under way included
    soon: int  # in lanes, and up within `SOON_SECONDS`


async def ready_jobs(connection: QueueConnection, now: float) -> ReadyJobs:
    """Count; `now` in seconds since the epoch by the server's clock. Raises QueueError.

    Two requests a lane at most. What is stored meanwhile may be counted or not.
    """
    names = connection.names
    info = await connection.api(f"STREAM.INFO.{names.in_stream()}")
    soon = 0
    for lane in LADDER:
        subjects = f"{names.prefix}.lane.{lane.name}.>"
        there = await _count_from(connection, names.lane_stream, subjects, None)
        if there and lane.delay_seconds > SOON_SECONDS:
            later_than = now + SOON_SECONDS - lane.delay_seconds
            there -= await _count_from(connection, names.lane_stream, subjects, later_than)
        soon += max(0, there)
    return ReadyJobs(int(info["state"]["messages"]), soon)


class _First(msgspec.Struct, omit_defaults=True):
    """The server's request for the first record of some subjects (NATS ADR-31)."""

    next_by_subj: str
    batch: int  # always 1: an answer of a batch says how many there are behind it
    seq: int | None = None
    start_time: str | None = None


async def _count_from(
    connection: QueueConnection, stream: str, subjects: str, since: float | None
) -> int:
    """Count the records of these subjects, stored at `since` or after; None: all."""
    asked = _First(subjects, 1, seq=1 if since is None else None, start_time=_rfc3339(since))
    answer = await connection.request(f"$JS.API.DIRECT.GET.{stream}", msgspec.json.encode(asked))
    headers = answer.headers or {}
    match headers.get("Status"):
        case None:
            behind = headers.get("Nats-Num-Pending")
            if behind is None:
                raise QueueError("the server does not say how many records there are")
            return int(behind) + 1
        case "404":
            return 0
        case status:
            raise QueueUnavailableError(f"{status} {headers.get('Description', '')}")


def _rfc3339(at: float | None) -> str | None:
    if at is None:
        return None
    return dt.datetime.fromtimestamp(max(0.0, at), dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
