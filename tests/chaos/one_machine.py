"""The rig for `mailrelay run`: started again whenever it ends, as a service manager would."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mailrelay.queue.connection import ConnectionSettings
from mailrelay.queue.rights import Role
from tests.chaos import disk
from tests.chaos.rig import ReadyWatch, Rig
from tests.support.relay import Relay, relay_config

STORE_BYTES = 8 * 1024**3
# Of the small disk: it shall be full when it is made full, and not by the mail that waits.
_SHARE_OF_SMALL_DISK = 0.6
_PAUSE_SECONDS = 0.2
_QUICK_SECONDS = 5.0
# A full disk or a port that is not free yet keeps it from starting for a while; this is no while.
_MOST_FAILED_STARTS = 150


@dataclass(slots=True)
class _Keeper:
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
                if code > 0:
                    self.exit_codes.append(code)
                quick = code > 0 and time.monotonic() - began < _QUICK_SECONDS
                self._failed_starts = self._failed_starts + 1 if quick else 0
                assert self._failed_starts < _MOST_FAILED_STARTS, self.relay.console()[-4000:]
                if code != 0:
                    await asyncio.sleep(_PAUSE_SECONDS)  # as whoever starts a service again
            await self.relay.start(wait_ready=False)


@contextlib.asynccontextmanager
async def one_machine(
    folder: Path, options: dict[str, Any], *, small_disk: bool
) -> AsyncIterator[Rig]:
    """Run a relay for a `with` block; stopped in order, and nothing is left of it."""
    store_bytes = int(disk.SIZE_BYTES * _SHARE_OF_SMALL_DISK) if small_disk else STORE_BYTES
    queue = {"storeBytes": store_bytes, **options.pop("queue")}
    relay = Relay(folder, relay_config(queue=queue, **options))
    nats = relay.data_dir / "nats"
    with disk.small_disk(nats) if small_disk else contextlib.nullcontext(None) as small:
        keeper, ready = _Keeper(relay), ReadyWatch(relay)

        def monitor_settings() -> ConnectionSettings:
            running = relay.run_file()
            seed = Path(running.credentials) / f"{Role.MONITOR.value}.seed"
            return ConnectionSettings(running.nats, Role.MONITOR.value, seed)

        tasks: list[asyncio.Task[None]] = []
        try:
            await relay.start()
            tasks += [asyncio.create_task(keeper.run()), asyncio.create_task(ready.run())]
            yield Rig(relay, ready, monitor_settings, keeper.exit_codes, small)
            for task in tasks:
                assert not task.done(), task.exception()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with contextlib.suppress(TimeoutError, AssertionError):
                await relay.stop()
            if relay.process is not None and relay.process.returncode is None:
                relay.process.kill()  # its children end with it
                await relay.process.wait()
            if small is not None:
                await small.wait_unused()
