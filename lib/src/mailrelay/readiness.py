"""Whether mail can be taken right now: the queue answers, and the listener greets.

Asked by the monitor for `/readyz` and by `mailrelay health`. No upstream matters.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mailrelay.queue.connection import QueueConnection

TIMEOUT_SECONDS = 2.0  # for each of the two
_QUIT_SECONDS = 0.5
_MAX_GREETING_BYTES = 4096
# What ingress says to who is not in `security.allowedNetworks`. Who asks may be outside of them, as
# a pod's network often is: the listener takes mail all the same, from those that it serves.
SERVES_OTHERS = "550 5.7.1 "


def reachable(host: str) -> str:
    """Return an address on which a listener on `host` answers from this machine."""
    return {"0.0.0.0": "127.0.0.1", "*": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 — read, not bound


async def queue_fault(connection: QueueConnection) -> str:
    """Say why the queue takes nothing; empty when it answers. The role must be the monitor's."""
    # Imported here: who asks a listener only does so often, and without the queue's library.
    from mailrelay.queue.errors import QueueError  # noqa: PLC0415 — not for a mere probe

    stream = connection.names.in_stream()
    try:
        await connection.api(f"STREAM.INFO.{stream}", timeout_seconds=TIMEOUT_SECONDS)
    except QueueError as error:
        return f"the queue does not answer: {error}"
    return ""


async def listener_fault(host: str, port: int) -> str:
    """Say why the SMTP listener takes nobody.

    Empty when it greets with 220, and when it says that it serves known networks only.
    """
    try:
        greeting = await asyncio.wait_for(greeting_of(host, port), TIMEOUT_SECONDS)
    except (OSError, ValueError) as error:
        return f"no SMTP greeting from {host}:{port}: {str(error) or type(error).__name__}"
    if not greeting.startswith(("220", SERVES_OTHERS)):
        return f"the SMTP listener on {host}:{port} says {greeting!r}"
    return ""


async def greeting_of(host: str, port: int) -> str:
    """Return the first line of an SMTP server, and take leave (RFC 5321 section 4.1.1.10).

    Raises OSError, ValueError when it is too long.
    """
    reader, writer = await asyncio.open_connection(host, port, limit=_MAX_GREETING_BYTES)
    try:
        greeting = (await reader.readline()).decode("ascii", "replace").strip()
        with contextlib.suppress(OSError, ValueError):
            writer.write(b"QUIT\r\n")
            await asyncio.wait_for(reader.read(), _QUIT_SECONDS)
        return greeting
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
