"""What must hold once everything has been repaired: nothing queued, nothing kept, health ok.

The relay is asked as its own monitor would ask, with the monitor's key. Content that no event
spoke of (of a DATA that broke off, or whose event was lost in a crash) is swept after an hour; the
sweep itself is run here, with a clock that is as much ahead.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from dataclasses import dataclass, field

import httpx
from prometheus_client import CollectorRegistry

from mailrelay.queue.bodies import BodyStore
from mailrelay.queue.connection import ConnectionSettings, QueueConnection, open_connection
from mailrelay.queue.errors import QueueError
from mailrelay.queue.failed import FailedStore
from mailrelay.queue.publish import Publisher
from mailrelay.runtime.logging import Logger
from mailrelay_monitor.bodies import UNSPOKEN_AGE_SECONDS, BodyCleaner, BodyMetrics
from tests.support.relay import RelayClient

_LOOK_SECONDS = 1.0
_BODIES_SECONDS = 20.0  # most questions of the monitor are answered by then
_HEALTH_SECONDS = 15.0


@dataclass(slots=True)
class EndState:
    """What was left."""

    seconds: float = 0.0  # until nothing was queued
    stuck: dict[str, int] = field(default_factory=dict)  # records by stream, where not empty
    swept_bodies: int = 0  # only the sweep found them
    health: str = ""
    totals: dict[str, int] = field(default_factory=dict)

    @property
    def is_clean(self) -> bool:
        """Whether nothing was left and the relay says that it is well."""
        return not self.stuck and self.health == "ok"


async def settle_down(
    relay: RelayClient, settings: ConnectionSettings, log: Logger, limit_seconds: float
) -> EndState:
    """Wait until the relay has done its work, resending what failed; return what is left.

    `settings` are how the relay's monitor connects. However much waits, it is waited for as long
    as it gets less: what has not got less for `limit_seconds` is stuck.
    """
    state = EndState()
    began = lowest_since = time.monotonic()
    lowest = sys.maxsize
    connection = await open_connection(settings, log)
    try:
        while True:
            with contextlib.suppress(QueueError, httpx.HTTPError):
                state.stuck = await _left(connection)
                if not state.stuck:
                    break
                if sum(state.stuck.values()) < lowest:
                    lowest, lowest_since = sum(state.stuck.values()), time.monotonic()
                if "failed" in state.stuck:
                    await relay.post("/admin/retry-failed")
            if time.monotonic() - lowest_since > limit_seconds:
                break
            await asyncio.sleep(_LOOK_SECONDS)  # a sampling interval
        state.seconds = time.monotonic() - began
        await _look_at_bodies(connection, log, state)
    finally:
        await connection.close()
    await _ask_relay(relay, state)
    return state


async def _left(connection: QueueConnection) -> dict[str, int]:
    names = connection.names
    left = {}
    for short, stream in (("in", names.in_stream()), ("lane", names.lane_stream)):
        info = await connection.api(f"STREAM.INFO.{stream}")
        left[short] = int(info["state"]["messages"])
    store = FailedStore(connection, Publisher(connection))
    left["failed"] = len([failure async for failure in store.walk()])  # tombstones are none
    return {short: count for short, count in left.items() if count}


async def _look_at_bodies(connection: QueueConnection, log: Logger, state: EndState) -> None:
    stream = connection.names.body_stream
    deadline = time.monotonic() + _BODIES_SECONDS
    while chunks := int((await connection.api(f"STREAM.INFO.{stream}"))["state"]["messages"]):
        if time.monotonic() > deadline:
            break
        await asyncio.sleep(_LOOK_SECONDS)  # a sampling interval
    if not chunks:
        return
    cleaner = BodyCleaner(
        connection,
        BodyStore(connection, Publisher(connection)),
        clock=lambda: time.time() + UNSPOKEN_AGE_SECONDS + 1,
        log=log,
        metrics=BodyMetrics(CollectorRegistry()),
    )
    state.swept_bodies = await cleaner.sweep()
    chunks = int((await connection.api(f"STREAM.INFO.{stream}"))["state"]["messages"])
    if chunks:
        state.stuck["body"] = chunks


async def _ask_relay(relay: RelayClient, state: EndState) -> None:
    deadline = time.monotonic() + _HEALTH_SECONDS
    while True:
        with contextlib.suppress(httpx.HTTPError):
            answer = (await relay.get("/health")).json()
            state.health = str(answer["status"])
            state.totals = (await relay.get("/metrics")).json()
            queued = int(answer["details"]["queued_emails"])
            if state.health == "ok" and queued == 0:
                return
            state.health = "; ".join(answer.get("reasons", [])) or f"{queued} counted as queued"
        if time.monotonic() > deadline:
            return
        await asyncio.sleep(_LOOK_SECONDS)  # a sampling interval
