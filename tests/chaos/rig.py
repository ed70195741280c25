"""Keeps a relay running through a run, as a service manager would, and sees when it is ready."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

from tests.support.relay import Relay
from tests.support.wait import wait_until

_PAUSE_SECONDS = 0.2
_LOOK_SECONDS = 0.15
_ANSWER_SECONDS = 5.0
# A full disk or a port that is not free yet keeps it from starting for a while; this is no while.
_MOST_FAILED_STARTS = 150
_ORDERLY = 0


@dataclass(slots=True)
class Keeper:
    """Starts the relay again whenever it has ended."""

    relay: Relay
    exit_codes: list[int] = field(default_factory=list)
    _failed_starts: int = 0

    async def run(self) -> None:
        """Keep it running until cancelled."""
        while True:
            process = self.relay.process
            if process is not None:
                began = time.monotonic()
                code = await process.wait()
                self.exit_codes.append(code)
                quick = code > _ORDERLY and time.monotonic() - began < _ANSWER_SECONDS
                self._failed_starts = self._failed_starts + 1 if quick else 0
                assert self._failed_starts < _MOST_FAILED_STARTS, self.relay.console()[-4000:]
                if code != _ORDERLY:
                    await asyncio.sleep(_PAUSE_SECONDS)
            await self.relay.start(wait_ready=False)


@dataclass(slots=True)
class ReadyWatch:
    """Asks /readyz all the time; `ready_at` are the times at which a yes was asked for."""

    relay: Relay
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
