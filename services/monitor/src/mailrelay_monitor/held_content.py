"""The content of mail that the queue holds, as the message it is: without the wire's dots."""

from __future__ import annotations

from collections.abc import AsyncIterator

from mailrelay.mail.job import Job
from mailrelay.mail.wire_form import DotUnstuffer
from mailrelay.queue.bodies import BodyStore


async def message_pieces(bodies: BodyStore, job: Job) -> AsyncIterator[bytes]:
    """Yield a job's message, half a megabyte at a time. Raises BodyUnreadableError."""
    unstuffer = DotUnstuffer()
    async for piece in bodies.pieces(job):
        yield unstuffer.feed(piece)
