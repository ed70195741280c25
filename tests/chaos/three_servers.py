"""The rig for three nats-servers: services and servers are started again one by one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import structlog

from mailrelay.queue.connection import ConnectionSettings
from mailrelay.queue.rights import Role
from mailrelay_cli.nats_server import find_nats_server
from tests.chaos.rig import ReadyWatch, Rig
from tests.support.cluster_relay import running_cluster_relay

# Long enough for an election, so that a killed leader does not come back as one.
RESTART_SECONDS = 5.0


@contextlib.asynccontextmanager
async def three_servers(folder: Path, options: dict[str, Any]) -> AsyncIterator[Rig]:
    """Run a relay on three servers for a `with` block; nothing is left of it."""
    server = find_nats_server(print)
    async with running_cluster_relay(folder, server, structlog.get_logger(), **options) as relay:
        ready = ReadyWatch(relay)

        def monitor_settings() -> ConnectionSettings:
            return relay.cluster.connection_settings(Role.MONITOR)

        tasks = [
            asyncio.create_task(relay.cluster.keep_running(RESTART_SECONDS)),
            asyncio.create_task(ready.run()),
        ]
        try:
            yield Rig(relay, ready, monitor_settings, relay.exit_codes)
            for task in tasks:
                assert not task.done(), task.exception()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
