"""Read the content behind DATA into an intake, bounded in size and time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mailrelay_ingress import replies
from mailrelay_ingress.content import ContentScanner, Fault
from mailrelay_ingress.enqueue import Intake

READ_BYTES = 64 * 1024
# A whole DATA: far less than the hour after which the monitor takes chunks that no record names
# for left behind.
MAX_DATA_SECONDS = 30 * 60.0
# How much of a message that is too big is still read to give its sender the reply.
DRAIN_FACTOR = 2

_BY_FAULT = {
    Fault.BARE_LINE_END: replies.BARE_LINE_END,
    Fault.LINE_TOO_LONG: replies.LINE_TOO_LONG,
    Fault.NUL: replies.NUL_IN_MESSAGE,
}


async def take_content(
    reader: asyncio.StreamReader, intake: Intake, limit: int, heard: Callable[[], None]
) -> bool:
    """Read up to the end of data, at most `READ_BYTES` at a time; return whether it came.

    `limit` is the largest message in bytes; `heard` is called for whatever comes. Raises
    ConnectionResetError when the client goes away.
    """
    loop = asyncio.get_running_loop()
    scanner = ContentScanner()
    size = 0
    ends_at = loop.time() + MAX_DATA_SECONDS
    while not scanner.ended:
        chunk = await reader.read(READ_BYTES)
        if not chunk:
            raise ConnectionResetError
        heard()
        size += len(chunk)
        piece = scanner.feed(chunk)
        if scanner.fault is Fault.BARE_LINE_END:
            # The end of such a message is in the eye of the beholder: do not look for it.
            intake.refuse(replies.BARE_LINE_END)
            return False
        if scanner.fault is not None:
            intake.refuse(_BY_FAULT[scanner.fault])
        elif size - len(scanner.rest) > limit:
            intake.refuse(replies.TOO_BIG)
        if size > limit * DRAIN_FACTOR or loop.time() > ends_at:
            intake.refuse(replies.TOO_SLOW)
            return False
        await intake.add(piece)
    _put_back(reader, scanner.rest)
    return True


def _put_back(reader: asyncio.StreamReader, octets: bytes) -> None:
    """Return pipelined commands to the reader; aiosmtpd reads its commands from there."""
    if octets:
        buffer: bytearray = reader._buffer  # type: ignore[attr-defined]  # noqa: SLF001 — aiosmtpd reads its commands from there
        buffer[:0] = octets
