from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from typing import cast

import pytest
import structlog
from structlog.testing import LogCapture

from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.rights import Role
from mailrelay.runtime.logging import Logger
from mailrelay_cli.nats_server import find_nats_server
from tests.support.nats import NatsServer


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


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    server = NatsServer(find_nats_server(print), tmp_path_factory.mktemp("nats") / "server")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def server(shared_server: NatsServer, log: Logger) -> Iterator[NatsServer]:
    """A server with empty streams of the tests' size; a test may stop it."""
    shared_server.reset(log)
    yield shared_server
    if not shared_server.is_running:
        shared_server.start()
    shared_server.thaw()  # a test that froze it may have failed


@pytest.fixture
async def admin(server: NatsServer, log: Logger) -> AsyncIterator[QueueConnection]:
    async with server.connected(Role.ADMIN, log) as connection:
        yield connection


@pytest.fixture
async def ingress(server: NatsServer, log: Logger) -> AsyncIterator[QueueConnection]:
    async with server.connected(Role.INGRESS, log) as connection:
        yield connection


@pytest.fixture
async def sender(server: NatsServer, log: Logger) -> AsyncIterator[QueueConnection]:
    async with server.connected(Role.SENDER, log) as connection:
        yield connection


@pytest.fixture
async def monitor(server: NatsServer, log: Logger) -> AsyncIterator[QueueConnection]:
    async with server.connected(Role.MONITOR, log) as connection:
        yield connection
