"""Ask a stream's leader for its state, and believe it only while it surely leads.

In a cluster a server that stood still, or was cut off, goes on believing that it leads a stream
until it hears of the next leader, and answers from what it had (measured on 2.15.1: after SIGSTOP
and SIGCONT three of six answers were such). Whoever deletes or declares something lost because of
what is *not* there must not believe that. A leader that has heard from a majority within less than
the shortest election time-out is the only one there can be; the answer itself says when it did.
"""

from __future__ import annotations

from typing import Any

from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.errors import QueueUnavailableError

# Servers wait for at least 4 s without a leader's word before they elect another one; a leader
# speaks every second.
HEARD_SECONDS = 2.5
_NANOSECONDS = 1_000_000_000


async def stream_info(
    connection: QueueConnection, stream: str, *, subjects: str = ""
) -> dict[str, Any]:
    """Return `STREAM.INFO` of a stream as its one leader sees it.

    With a filter of `subjects` the state counts the records under each of them. Raises QueueError;
    QueueUnavailableError also when whoever answered may lead no more.
    """
    body = {"subjects_filter": subjects} if subjects else None
    info = await connection.api(f"STREAM.INFO.{stream}", body)
    if not leads(info):
        msg = f"{stream}: a server answered that may not be its leader any more"
        raise QueueUnavailableError(msg)
    return info


def leads(info: dict[str, Any]) -> bool:
    """Tell whether who gave this answer was the stream's leader when it did."""
    replicas = (info.get("cluster") or {}).get("replicas") or []
    heard = [
        replica
        for replica in replicas
        # 0: nothing was ever heard from it
        if not replica.get("offline") and 0 < replica["active"] <= HEARD_SECONDS * _NANOSECONDS
    ]
    return 2 * (len(heard) + 1) > len(replicas) + 1
