"""Ask nats-server whether it does its work (its `/healthz`, over its system account).

A stream to which a write failed once (a full disk) takes no record any more until the server is
started again, and whoever publishes to it gets no answer; everything else goes on as if nothing
were wrong. Only the server's own word tells it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.errors import QueueUnavailableError
from mailrelay.queue.rights import SERVER_HEALTH

_OK: Final = "ok"


class _Health(msgspec.Struct):
    status: str = ""
    error: str = ""


class _Answer(msgspec.Struct):
    data: _Health | None = None


_answer = msgspec.json.Decoder(_Answer)


async def server_fault(connection: QueueConnection) -> str:
    """Return what is wrong with the server, empty when nothing is.

    `connection` is one of role `watch`. Raises QueueUnavailableError.
    """
    answer = await connection.request(SERVER_HEALTH)
    try:
        health = _answer.decode(answer.data).data
    except msgspec.MsgspecError as error:
        msg = f"unreadable answer {answer.data[:80]!r}"
        raise QueueUnavailableError(msg) from error
    if health is None or health.status == _OK:
        return ""
    return health.error or health.status
