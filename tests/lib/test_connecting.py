"""Connecting to the queue that comes to nothing leaves nothing open."""

from __future__ import annotations

import asyncio
import gc

import structlog

from mailrelay.queue.connection import ConnectionSettings, open_connection

INFO = (
    b'INFO {"server_id":"x","version":"2.15.1","proto":1,"max_payload":1048576,"headers":true}\r\n'
)


async def test_a_try_that_is_given_up_closes_its_connection() -> None:
    asked, ended = asyncio.Event(), asyncio.Event()

    async def keep_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Greet as nats-server does, and answer nothing."""
        writer.write(INFO)
        await reader.readuntil(b"PING\r\n")
        asked.set()
        await reader.read()
        writer.close()
        ended.set()

    server = await asyncio.start_server(keep_silent, "127.0.0.1", 0)
    url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    log = structlog.get_logger()
    async with server:
        gc.disable()  # what is only forgotten stays open
        try:
            opening = asyncio.create_task(
                open_connection(ConnectionSettings(url, "monitor", None), log)
            )
            await asyncio.wait_for(asked.wait(), 30)
            opening.cancel()
            await asyncio.wait([opening])
            assert opening.cancelled()
            await asyncio.wait_for(ended.wait(), 30)
        finally:
            gc.enable()
