"""Whether mail can be taken right now: the queue answers, and the listener greets.

It does not depend on any upstream. The answer is kept for a second, so that probes cost nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.errors import QueueError

_KEPT_SECONDS = 1.0
_TIMEOUT_SECONDS = 2.0
_QUIT_SECONDS = 0.5
_MAX_GREETING_BYTES = 4096


class Readiness:
    """Finds out what keeps the relay from taking mail."""

    def __init__(
        self,
        connection: QueueConnection,
        smtp_address: tuple[str, int],
        is_caught_up: Callable[[], bool],
    ) -> None:
        self._connection = connection
        self._smtp_address = smtp_address
        self._is_caught_up = is_caught_up
        self._lock = asyncio.Lock()
        self._kept: tuple[float, str] | None = None

    async def reason(self) -> str:
        """Return why the relay is not ready; empty when it is."""
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if self._kept is None or now - self._kept[0] >= _KEPT_SECONDS:
                self._kept = (now, await self._ask())
            return self._kept[1]

    async def _ask(self) -> str:
        if not self._is_caught_up():
            return "the totals are not caught up yet"
        stream = self._connection.names.in_stream()
        try:
            await self._connection.api(f"STREAM.INFO.{stream}", timeout_seconds=_TIMEOUT_SECONDS)
        except QueueError as error:
            return f"the queue does not answer: {error}"
        host, port = self._smtp_address
        try:
            greeting = await asyncio.wait_for(greeting_of(host, port), _TIMEOUT_SECONDS)
        except (OSError, ValueError) as error:
            return f"no SMTP greeting from {host}:{port}: {str(error) or type(error).__name__}"
        if not greeting.startswith("220"):
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
