from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest
import structlog

from mailrelay.queue.errors import QueueUnavailableError
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.rights import Role
from mailrelay.queue.server_health import server_fault
from mailrelay_cli import nats_watch
from mailrelay_cli.nats_server import find_nats_server
from mailrelay_cli.nats_watch import NatsWatch
from tests.support.nats import LIMITS, NatsServer
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mailrelay.runtime.logging import Logger


@pytest.fixture
def log() -> Logger:
    logger: Logger = structlog.get_logger()
    return logger


@pytest.fixture
async def server(tmp_path: Path, log: Logger) -> AsyncIterator[NatsServer]:
    server = NatsServer(find_nats_server(print), tmp_path / "nats")
    server.start()
    await server.ensure(log, LIMITS)
    yield server
    server.kill()


async def break_a_stream(server: NatsServer, log: Logger) -> None:
    async with server.connected(Role.SENDER, log) as sender:
        with server.unable_to_write(), contextlib.suppress(QueueUnavailableError):
            record = Record("mailrelay.lane.now.-", b"x", "")
            await Publisher(sender).store(record, deadline_seconds=0.5)


def watch_of(
    server: NatsServer, log: Logger, told: list[tuple[str, str]], folder: Path
) -> NatsWatch:
    return NatsWatch(
        health=server.connection_settings(Role.WATCH),
        admin=server.connection_settings(Role.ADMIN),
        folder=folder,
        tell=lambda text, event: told.append((event, text)),
        log=log,
    )


async def test_a_server_with_a_broken_stream_is_noticed_once_there_is_room(
    server: NatsServer, log: Logger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_watch, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(nats_watch, "ROOM_BYTES", 2**60)  # no disk has that much
    told: list[tuple[str, str]] = []
    watching = asyncio.create_task(watch_of(server, log, told, tmp_path).wait_broken())
    try:
        await break_a_stream(server, log)
        await wait_until(lambda: told, 10, "people are told")
        monkeypatch.setattr(nats_watch, "ROOM_BYTES", 0)
        reason = await asyncio.wait_for(watching, 10)
    finally:
        watching.cancel()
    assert "mailrelay-lane" in reason
    assert "write error" in reason
    ((event, text),) = told
    assert event == "queue.disk_full"
    assert text.endswith(f"no mail is taken until there is room in {tmp_path}")


async def test_a_server_that_hangs_or_is_well_is_left_alone(
    server: NatsServer, log: Logger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    async def counted(connection: object) -> str:
        nonlocal looks
        looks += 1
        return await ask(connection)  # type: ignore[arg-type]

    ask = server_fault
    monkeypatch.setattr(nats_watch, "server_fault", counted)
    monkeypatch.setattr(nats_watch, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(nats_watch, "ORPHANS_SECONDS", 0.02)
    told: list[tuple[str, str]] = []
    watching = asyncio.create_task(watch_of(server, log, told, tmp_path).wait_broken())
    try:
        await wait_until(lambda: looks > 10, 10, "it was asked some times")
        server.freeze()
        await asyncio.sleep(0.5)  # asked, and not answered
        assert not watching.done()
        server.thaw()
        seen = looks
        await wait_until(lambda: looks > seen + 10, 10, "it was asked again")
        assert not watching.done()
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    assert told == []
