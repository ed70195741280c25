"""Ask a stream's leader for its state, and believe it only while it surely leads.

In a cluster a server that stood still, or was cut off, goes on believing that it leads a stream
until it hears of the next leader, and answers from what it had (measured on 2.15.1: after SIGSTOP
and SIGCONT three of six answers were such). Whoever deletes or declares something lost because of
what is *not* there must not believe that. A leader that has heard from a majority within less than
the shortest election time-out is the only one there can be; the answer itself says when it did.
"""

from __future__ import annotations

import asyncio
from typing import Any

from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.errors import QueueRefusedError, QueueUnavailableError

# Servers wait for at least 4 s without a leader's word before they elect another one; a leader
# speaks every second.
HEARD_SECONDS = 2.5
SPOKEN_SECONDS = 1.5
_NANOSECONDS = 1_000_000_000
_NOT_FOUND = 10037


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


async def last_message(
    connection: QueueConnection, stream: str, subject: str
) -> dict[str, Any] | None:
    """Return the last record under a subject; None when the stream's one leader has none there.

    None takes 1.5 s to tell where there are several servers: in the moment in which one that stood
    still goes on, it reads what was said to it before, and believes that it was heard just now.
    Raises QueueError; QueueUnavailableError also while servers disagree, and when whoever answered
    may lead no more.
    """
    found = await message(connection, stream, {"last_by_subj": subject})
    if found is not None:
        return found
    info = await stream_info(connection, stream, subjects=subject)
    if is_replicated(info):
        await asyncio.sleep(SPOKEN_SECONDS)
        info = await stream_info(connection, stream, subjects=subject)
    if info["state"].get("subjects"):
        msg = f"{stream}: a server answered that is behind its leader"
        raise QueueUnavailableError(msg)
    return None


async def message_at(
    connection: QueueConnection, stream: str, sequence: int
) -> dict[str, Any] | None:
    """Return the record of a sequence number; None when the stream's one leader has none there.

    None takes as long as in `last_message`. Raises QueueError; QueueUnavailableError also when
    whoever answered may lead no more.
    """
    found = await message(connection, stream, {"seq": sequence})
    if found is None and is_replicated(await stream_info(connection, stream)):
        await asyncio.sleep(SPOKEN_SECONDS)
        found = await message(connection, stream, {"seq": sequence})
        if found is None:
            await stream_info(connection, stream)
    return found


async def message(
    connection: QueueConnection, stream: str, which: dict[str, object]
) -> dict[str, Any] | None:
    """Return the record that `STREAM.MSG.GET` finds, None when there is none such.

    That answer does not say who gave it: none is no proof that there is none. Raises QueueError.
    """
    try:
        found: dict[str, Any] = (await connection.api(f"STREAM.MSG.GET.{stream}", which))["message"]
    except QueueRefusedError as error:
        if error.err_code == _NOT_FOUND:
            return None
        raise
    return found


async def wait_heard(connection: QueueConnection, stream: str) -> None:
    """Wait until a server that believes to lead, and does not, has heard of the one that does.

    Unless it stands still again. Raises QueueError, also when whoever answered may lead no more.
    """
    await asyncio.sleep(SPOKEN_SECONDS)
    await stream_info(connection, stream)


def is_replicated(info: dict[str, Any]) -> bool:
    """Tell whether more than one server keeps the stream of this answer."""
    return bool((info.get("cluster") or {}).get("replicas"))


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
