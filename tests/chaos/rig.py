"""What holds a relay up through a run, whatever site it runs on, and sees when it is ready."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mailrelay.queue.connection import ConnectionSettings
from tests.chaos.disk import SmallDisk
from tests.support.relay import RelayClient
from tests.support.wait import wait_until

_LOOK_SECONDS = 0.15
_ANSWER_SECONDS = 5.0


@dataclass(slots=True)
class ReadyWatch:
    """Asks /readyz all the time; `ready_at` are the times at which a yes was asked for."""

    relay: RelayClient
    ready_at: list[float] = field(default_factory=list)

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            asked = time.time()
            if await self._is_ready():
                self.ready_at.append(asked)
            await asyncio.sleep(_LOOK_SECONDS)  # a sampling interval

    async def wait_ready(self, limit_seconds: float) -> None:
        """Wait until the relay says that it is ready, asked from now on."""
        now = time.time()

        def is_ready() -> bool:
            return bool(self.ready_at) and self.ready_at[-1] >= now

        await wait_until(is_ready, limit_seconds, "the relay is ready")

    async def _is_ready(self) -> bool:
        with contextlib.suppress(OSError, ValueError, TimeoutError):
            port = int(self.relay.config["healthCheckPort"])
            async with asyncio.timeout(_ANSWER_SECONDS):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    writer.write(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")
                    line = await reader.readline()
                finally:
                    writer.close()
                return b" 200 " in line
        return False


@dataclass(frozen=True, slots=True)
class Rig:
    """A running relay that is started again, as a whole or in parts, whenever it ends."""

    relay: RelayClient
    ready: ReadyWatch
    monitor_settings: Callable[[], ConnectionSettings]  # how its monitor connects, now
    exit_codes: list[int]  # of orderly stops and of starts that failed
    disk: SmallDisk | None = None  # under the queue; None where it cannot be made full
