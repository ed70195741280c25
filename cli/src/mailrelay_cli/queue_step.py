"""The admin's step: streams and consumers as this version needs them.

The supervisor takes it after each start of its nats-server; in a cluster a Job does, with
`mailrelay queue ensure`.
"""

from __future__ import annotations

import asyncio

from mailrelay.config.model import RelayConfig
from mailrelay.queue.connection import ConnectionSettings, open_connection
from mailrelay.queue.errors import QueueUnavailableError
from mailrelay.queue.streams import QueueLimits, ensure
from mailrelay.runtime.logging import Logger

_PAUSE_SECONDS = 0.2


def queue_limits(config: RelayConfig, store_bytes: int) -> QueueLimits:
    """Return the queue's sizes from the relay's configuration."""
    return QueueLimits(
        store_bytes=store_bytes,
        queue_size=config.queue_size,
        capture_max_messages=config.capture.max_messages,
        capture_drops_oldest=config.capture.when_full == "dropOldest",
        replicas=config.queue.replicas,
        ack_wait_seconds=config.queue.ack_wait_seconds,
    )


async def ensure_queue(
    settings: ConnectionSettings, limits: QueueLimits, log: Logger, limit_seconds: float | None
) -> list[str]:
    """Make or check streams and consumers; return what was changed.

    Repeats what got no answer until the limit, without one for ever.
    Raises QueueError, StreamMismatchError.
    """
    try:
        async with asyncio.timeout(limit_seconds):
            while True:
                try:
                    return await _ensure_once(settings, limits, log)
                except QueueUnavailableError as error:
                    log.warning("queue.ensure_repeated", error=str(error))
                await asyncio.sleep(_PAUSE_SECONDS)
    except TimeoutError as error:
        raise QueueUnavailableError(
            f"the queue at {settings.url} did not answer within {limit_seconds} s"
        ) from error


async def _ensure_once(settings: ConnectionSettings, limits: QueueLimits, log: Logger) -> list[str]:
    connection = await open_connection(settings, log)
    try:
        return await ensure(connection, limits)
    finally:
        await connection.close()
