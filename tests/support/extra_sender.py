"""A second sender process on a running relay's queue, and the queue itself as admin."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from mailrelay.queue.connection import ConnectionSettings, QueueConnection, open_connection
from mailrelay.runtime.logging import configure_logging
from tests.support.relay import STOP_SECONDS, Relay
from tests.support.wait import wait_until


class ExtraSender:
    """One more sender; its log is a file of its own."""

    def __init__(self, process: asyncio.subprocess.Process, log_file: Path) -> None:
        self.process = process
        self._log_file = log_file

    @property
    def log_text(self) -> str:
        """All its log lines so far."""
        return self._log_file.read_text()


@contextlib.asynccontextmanager
async def extra_sender(relay: Relay) -> AsyncIterator[ExtraSender]:
    """Run a second sender beside the relay's own; it is stopped in order."""
    running = relay.run_file()
    log_file = relay.folder / "extra-sender.log"
    with log_file.open("wb") as console:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "mailrelay_sender"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            env={
                **os.environ,
                "MAILRELAY_CONFIG": str(relay.config_file),
                "MAILRELAY_NATS_URL": running.nats,
                "MAILRELAY_NATS_SEED_FILE": f"{running.credentials}/sender.seed",
            },
        )
    sender = ExtraSender(process, log_file)
    try:
        await wait_until(
            lambda: "sender.ready" in sender.log_text, 20, "the second sender is ready"
        )
        yield sender
        process.terminate()
        assert await asyncio.wait_for(process.wait(), STOP_SECONDS) == 0, sender.log_text
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@contextlib.asynccontextmanager
async def queue_admin(relay: Relay) -> AsyncIterator[QueueConnection]:
    """The relay's queue, with all rights."""
    running = relay.run_file()
    seed = Path(running.credentials) / "admin.seed"
    log = configure_logging("test", "json")
    connection = await open_connection(ConnectionSettings(running.nats, "admin", seed), log)
    try:
        yield connection
    finally:
        await connection.close()
