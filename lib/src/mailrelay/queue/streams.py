"""What streams and consumers there are, and how they come to be (admin only).

`ensure` is idempotent: it creates what is missing, changes what differs, and compares what the
server returns with what was asked, because older servers ignore fields that they do not know.
Each stream reserves its share of the store, so that none can take another's space (queue rule 7).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mailrelay.mail.limit import Window
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.counters import ADDITIONS_KEPT, KEPT_SECONDS
from mailrelay.queue.errors import (
    CONSUMER_NOT_FOUND,
    STREAM_NOT_FOUND,
    QueueRefusedError,
    StreamMismatchError,
)
from mailrelay.queue.lanes import LADDER
from mailrelay.queue.names import Names
from mailrelay.queue.publish import DUPLICATE_WINDOW_SECONDS

_NANOSECONDS = 1_000_000_000
# At least twice all senders' slots. Jobs that wait for their turn count too (queue rule 11), so all
# of `queueSize` may wait and hold up nobody, up to where the server's work for them shows: 20,000
# are 40 messages of 10,000 recipients at 20 a job (docs/decisions/0014 has the measurement).
_IN_MIN_ACK_PENDING = 4096
_IN_MAX_ACK_PENDING = 20_000
_LANE_MAX_ACK_PENDING = 500
_CHECKPOINT_BYTES = 1024 * 1024
_EVENT_AGE_SECONDS = 7 * 24 * 3600
# Some 120 octets a submission of several jobs, and the server's 250 to 400 for its subject.
_PACE_BYTES = 8 * 1024 * 1024
_PACE_AGE_SECONDS = 24 * 3600  # without any job of the submission having been tried
# Of the store; what is left over is for the server's own bookkeeping.
_SHARES = {
    "in": 0.20,
    "lane": 0.25,
    "failed": 0.10,
    "capture": 0.10,
    "body": 0.22,
    "event": 0.08,
    # An addition takes some 150 octets, and a counter keeps its last ADDITIONS_KEPT: each GB has
    # room for those of 60,000 senders a day who send once, of 7,500 who send all day.
    "limit-hour": 0.005,
    "limit-day": 0.01,
}


REPLICAS = (1, 3, 5)  # an even number costs a copy more and bears no more failures


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """The sizes that an administrator chooses."""

    store_bytes: int  # what the server may use on disk, see `_SHARES`
    queue_size: int  # jobs accepted and not yet through their first attempt
    capture_max_messages: int
    capture_drops_oldest: bool
    replicas: int = 1  # one of REPLICAS
    ack_wait_seconds: float = 30.0


def stream_configs(names: Names, limits: QueueLimits) -> list[dict[str, Any]]:
    """Return the configuration of every stream, as the JetStream API takes it."""
    share = {name: int(limits.store_bytes * part) for name, part in _SHARES.items()}
    work_queue = {"retention": "workqueue", "discard": "new"}
    prefix = names.prefix
    specific: list[dict[str, Any]] = [
        {
            "name": names.in_stream(),
            "subjects": [f"{prefix}.in.0.>"],
            "max_msgs": limits.queue_size,
            "max_bytes": share["in"],
            "allow_atomic": True,
            **work_queue,
        },
        {
            "name": names.lane_stream,
            "subjects": [f"{prefix}.lane.>"],
            "max_bytes": share["lane"],
            **work_queue,
        },
        {
            "name": names.failed_stream,
            "subjects": [f"{prefix}.failed.>"],
            "max_bytes": share["failed"],
            # Not 1: the server would let go of a record before what overwrites it removes it, and
            # that removal is what stands in its file (mailrelay.queue.failed).
            "max_msgs_per_subject": 2,
            "allow_rollup_hdrs": True,
            "discard": "old",
            "allow_msg_ttl": True,
        },
        {
            "name": names.capture_stream,
            "subjects": [f"{prefix}.capture.>"],
            "max_msgs": limits.capture_max_messages,
            "max_bytes": share["capture"],
            "max_msgs_per_subject": 1,
            "discard": "old" if limits.capture_drops_oldest else "new",
        },
        {
            "name": names.body_stream,
            "subjects": [f"{prefix}.body.>"],
            "max_bytes": share["body"],
            "max_msgs_per_subject": 1,
            "discard": "new",
        },
        {
            "name": names.event_stream,
            "subjects": [f"{prefix}.event.>"],
            "max_bytes": share["event"],
            "max_age": _EVENT_AGE_SECONDS * _NANOSECONDS,
            "discard": "old",
        },
        # Counters refuse nothing: full, they drop the one that was left alone longest.
        *(
            {
                "name": names.limit_stream(window),
                "subjects": [f"{prefix}.limit.{window.value}.>"],
                "max_bytes": share[f"limit-{window.value}"],
                "max_msgs_per_subject": ADDITIONS_KEPT,
                "max_age": KEPT_SECONDS[window] * _NANOSECONDS,
                "discard": "old",
                "allow_msg_counter": True,
            }
            for window in Window
        ),
        {
            "name": names.checkpoint_stream,
            "subjects": [names.checkpoint_subject],
            "max_bytes": _CHECKPOINT_BYTES,
            "max_msgs_per_subject": 1,
            "discard": "old",
        },
        {
            # In memory: losing it costs a pause, never mail (queue rule 11).
            "name": names.pace_stream,
            "subjects": [f"{prefix}.pace.*"],
            "storage": "memory",
            "max_bytes": _PACE_BYTES,
            "max_age": _PACE_AGE_SECONDS * _NANOSECONDS,
            "max_msgs_per_subject": 1,
            "discard": "old",
        },
    ]
    common: dict[str, Any] = {
        "retention": "limits",
        "storage": "file",
        "num_replicas": limits.replicas,
        "allow_direct": True,
        "duplicate_window": DUPLICATE_WINDOW_SECONDS * _NANOSECONDS,
    }
    return [{**common, **stream} for stream in specific]


def consumer_configs(names: Names, limits: QueueLimits) -> list[tuple[str, dict[str, Any]]]:
    """Return (stream, configuration) of every consumer."""
    common: dict[str, Any] = {
        "ack_policy": "explicit",
        "ack_wait": int(limits.ack_wait_seconds * _NANOSECONDS),
        "max_deliver": -1,
        "deliver_policy": "all",
    }
    new_pending = max(_IN_MIN_ACK_PENDING, min(limits.queue_size, _IN_MAX_ACK_PENDING))
    lane_pending = _LANE_MAX_ACK_PENDING
    return [
        (
            stream,
            {
                **common,
                "durable_name": consumer,
                "filter_subject": subject,
                "max_ack_pending": new_pending if stream == names.in_stream() else lane_pending,
            },
        )
        for stream, consumer, subject in work_queues(names)
    ]


def work_queues(names: Names) -> list[tuple[str, str, str]]:
    """Return (stream, consumer, subject filter) of everything that senders claim."""
    queues = [(names.in_stream(), names.in_consumer, f"{names.prefix}.in.0.>")]
    queues += [
        (names.lane_stream, names.lane_consumer(lane), f"{names.prefix}.lane.{lane.name}.>")
        for lane in LADDER
    ]
    return queues


async def ensure(connection: QueueConnection, limits: QueueLimits) -> list[str]:
    """Make the server's streams and consumers what they should be; return what was changed.

    Raises StreamMismatchError when the server made something else of it, QueueError otherwise.
    """
    changes = []
    for config in stream_configs(connection.names, limits):
        changes += await _ensure_stream(connection, config)
    for stream, config in consumer_configs(connection.names, limits):
        changes += await _ensure_consumer(connection, stream, config)
    return changes


async def _ensure_stream(connection: QueueConnection, wanted: dict[str, Any]) -> list[str]:
    name = wanted["name"]
    try:
        found = (await connection.api(f"STREAM.INFO.{name}"))["config"]
    except QueueRefusedError as error:
        if error.err_code != STREAM_NOT_FOUND:
            raise
        made = await connection.api(f"STREAM.CREATE.{name}", wanted, timeout_seconds=10)
        _check(name, wanted, made["config"])
        return [f"stream {name} created"]
    differing = _differences(wanted, found)
    if not differing:
        return []
    # What else the server keeps in the configuration stays as it is.
    made = await connection.api(f"STREAM.UPDATE.{name}", {**found, **wanted}, timeout_seconds=10)
    _check(name, wanted, made["config"])
    return [f"stream {name} changed: {', '.join(differing)}"]


async def _ensure_consumer(
    connection: QueueConnection, stream: str, wanted: dict[str, Any]
) -> list[str]:
    name = wanted["durable_name"]
    try:
        found = (await connection.api(f"CONSUMER.INFO.{stream}.{name}"))["config"]
        differing = _differences(wanted, found)
        if not differing:
            return []
    except QueueRefusedError as error:
        if error.err_code != CONSUMER_NOT_FOUND:
            raise
        found, differing = {}, []
    body = {"stream_name": stream, "config": {**found, **wanted}}
    await connection.api(f"CONSUMER.DURABLE.CREATE.{stream}.{name}", body)
    # Asked for: after the server's restart its answer to a change shows the old configuration.
    made = await connection.api(f"CONSUMER.INFO.{stream}.{name}")
    _check(name, wanted, made["config"])
    change = f"changed: {', '.join(differing)}" if differing else "created"
    return [f"consumer {name} {change}"]


def _differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    return [key for key, value in wanted.items() if found.get(key, _absent(value)) != value]


def _absent(value: object) -> object:
    """What a field that the server leaves out of its answer means."""
    return False if value is False else None


def _check(name: str, wanted: dict[str, Any], made: dict[str, Any]) -> None:
    differing = _differences(wanted, made)
    if differing:
        details = ", ".join(
            f"{key}: asked {wanted[key]!r}, is {made.get(key)!r}" for key in differing
        )
        msg = f"{name}: the server did not take {details}; is it older than 2.15.1?"
        raise StreamMismatchError(msg)
