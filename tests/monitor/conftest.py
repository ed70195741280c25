from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
import structlog
from structlog.testing import LogCapture

from mailrelay.queue.connection import QueueConnection, open_connection
from mailrelay.queue.rights import Role
from mailrelay.queue.streams import QueueLimits, ensure
from mailrelay.runtime.lifecycle import end_tasks
from mailrelay.runtime.logging import Logger
from mailrelay_cli.nats_server import find_nats_server
from tests.monitor.nats import NatsServer

LIMITS = QueueLimits(
    store_bytes=512 * 1024 * 1024,
    queue_size=1000,
    capture_max_messages=100,
    capture_drops_oldest=False,
)

Connect = Callable[[Role], Awaitable[QueueConnection]]


@pytest.fixture(scope="session")
def nats_executable() -> Path:
    return find_nats_server(print)


@pytest.fixture
def lines() -> LogCapture:
    """What was logged."""
    return LogCapture()


@pytest.fixture
def log(lines: LogCapture) -> Logger:
    return cast(
        "Logger",
        structlog.wrap_logger(
            None,
            processors=[lines],
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        ),
    )


@pytest.fixture
def server(nats_executable: Path, tmp_path: Path) -> Iterator[NatsServer]:
    """A server without streams."""
    server = NatsServer(nats_executable, tmp_path / "nats")
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def connect(server: NatsServer, log: Logger) -> AsyncIterator[Connect]:
    """Open connections by role; the streams are there."""
    async with contextlib.AsyncExitStack() as stack:

        async def connect(role: Role) -> QueueConnection:
            connection = await open_connection(server.connection_settings(role), log)
            stack.push_async_callback(connection.close)
            return connection

        await ensure(await connect(Role.ADMIN), LIMITS)
        yield connect


@pytest.fixture
async def connection(connect: Connect) -> QueueConnection:
    """The monitor's own, with its rights and no more."""
    return await connect(Role.MONITOR)


@pytest.fixture
async def background() -> AsyncIterator[Callable[[Awaitable[object]], asyncio.Future[object]]]:
    """Run something beside the test; what it raised fails the test."""
    tasks: list[asyncio.Future[object]] = []

    def run(what: Awaitable[object]) -> asyncio.Future[object]:
        tasks.append(asyncio.ensure_future(what))
        return tasks[-1]

    yield run
    await end_tasks(tasks)
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome
