from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import structlog
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from structlog.testing import LogCapture

from mailrelay.config.model import Failed, RelayConfig, Security
from mailrelay.queue.connection import QueueConnection, open_connection
from mailrelay.queue.failed import FailedStore
from mailrelay.queue.publish import Publisher
from mailrelay.queue.rights import Role
from mailrelay.queue.streams import QueueLimits, ensure
from mailrelay.runtime.lifecycle import end_tasks
from mailrelay.runtime.logging import Logger
from mailrelay_cli.nats_server import find_nats_server
from mailrelay_monitor.admin import mount_admin
from mailrelay_monitor.admin_parts import AdminParts, admin_parts
from mailrelay_monitor.checkpoint import Checkpoint
from mailrelay_monitor.collect import Collector, CollectorMetrics
from mailrelay_monitor.index_thread import IndexThread
from mailrelay_monitor.totals import Ledger
from tests.monitor.admin_rig import Admin, Start
from tests.monitor.nats import NatsServer

LIMITS = QueueLimits(
    store_bytes=512 * 1024 * 1024,
    queue_size=1000,
    capture_max_messages=100,
    capture_drops_oldest=False,
)

Connect = Callable[[Role], Awaitable[QueueConnection]]
Background = Callable[[Awaitable[object]], asyncio.Future[object]]


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
async def background() -> AsyncIterator[Background]:
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


@pytest.fixture
async def start(connect: Connect, tmp_path: Path, log: Logger) -> AsyncIterator[Start]:
    """Start the parts; what runs ends with the test."""
    running: list[asyncio.Future[None]] = []
    started: list[tuple[AdminParts, httpx.AsyncClient, IndexThread]] = []

    async def start(
        *,
        run: bool = True,
        forward: bool = False,
        asking: asyncio.Lock | None = None,
        **options: Any,  # noqa: ANN401
    ) -> Admin:
        await end()  # there is one monitor, and it was restarted
        connection = await connect(Role.MONITOR)
        sender = await connect(Role.SENDER)
        upstream: dict[str, Any] = {"forwardSMTP": True, "forwardHost": "up"} if forward else {}
        config = RelayConfig(
            security=Security(requireAuth=False), failed=Failed(**options), **upstream
        )
        index = IndexThread(tmp_path / "monitor" / "index.sqlite3", time.time)
        if await index.open() is None:
            await index.make(Ledger())
        registry, prompted = CollectorRegistry(), list[str]()
        made: Admin
        parts = admin_parts(
            connection,
            config,
            tmp_path,
            index,
            registry,
            clock=lambda: time.time() + made.ahead,
            log=log,
            prompt=prompted.append,
            asking=asking or asyncio.Lock(),
            has_upstream=lambda: config.forward_smtp,
        )
        app = FastAPI()
        mount_admin(app, parts)
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://localhost", timeout=30
        )
        collector = Collector(
            connection,
            index,
            Checkpoint(connection, Publisher(connection), time.time, log),
            clock=time.time,
            log=log,
            metrics=CollectorMetrics(CollectorRegistry()),
            prompt=list[str]().append,
            prompt_abandoned=list[str]().append,
        )
        made = Admin(
            parts,
            client,
            sender,
            connection,
            FailedStore(sender, Publisher(sender)),
            tmp_path,
            registry,
            prompted,
            collector,
        )
        started.append((parts, client, index))
        if run:
            running.extend(asyncio.ensure_future(part) for part in parts.run())
            running.append(asyncio.ensure_future(collector.run()))
        return made

    async def end() -> None:
        await end_tasks(running)
        for task in running:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        running.clear()
        while started:
            parts, client, index = started.pop()
            await client.aclose()
            await parts.close()
            await index.close()

    yield start
    await end()
