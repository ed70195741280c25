"""HTTP connections that stand still, on a real server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from starlette.types import Receive, Scope, Send

from mailrelay_monitor import http_connection
from mailrelay_monitor.serve import HttpServer
from tests.support.wait import wait_until

STALL_SECONDS = 0.3
SLOW_STALL_SECONDS = 2.0
LARGE_BYTES = 16 * 1024 * 1024
Background = Callable[[Awaitable[object]], "asyncio.Future[object]"]


class App:
    """Takes a body in; answers `/slow` after a while, everything else with much."""

    def __init__(self) -> None:
        self.ended = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        with contextlib.suppress(asyncio.CancelledError, OSError):
            while (await receive()).get("more_body"):
                pass
            body = b"x" * LARGE_BYTES
            if scope["path"] == "/slow":
                await asyncio.sleep(4 * STALL_SECONDS)  # the slow answer
                body = b"slow"
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": body})
        self.ended += 1


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch, background: Background) -> AsyncIterator[int]:
    monkeypatch.setattr(http_connection, "STALL_SECONDS", STALL_SECONDS)
    listener = socket.create_server(("127.0.0.1", 0))
    server = HttpServer(App(), [listener])
    running = background(server.run())
    await server.wait_started()
    yield int(listener.getsockname()[1])
    server.stop()
    await running


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: loc",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nab",
        b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HT",
    ],
    ids=["nothing", "half a head", "half a body", "half of the next head"],
)
async def test_a_client_that_does_not_go_on_is_cut_off(port: int, said: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(said)
    with contextlib.suppress(ConnectionError):
        await asyncio.wait_for(reader.read(), 10)
    writer.close()


async def test_a_client_that_does_not_read_is_cut_off(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")

    async def is_reset() -> bool:
        """Writing shows it; what could be read stays unread."""
        writer.write(b"\r\n")
        await asyncio.sleep(0)
        return writer.transport.is_closing()

    await wait_until(is_reset, 10, "the connection is gone")
    assert not reader.at_eof()


async def test_a_client_that_reads_slowly_gets_all_of_it(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than the machine stands still when it is busy.
    monkeypatch.setattr(http_connection, "STALL_SECONDS", SLOW_STALL_SECONDS)
    ours = socket.socket()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)  # the rest waits at the server
    ours.connect(("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=ours)
    with contextlib.closing(writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        slow_until = time.monotonic() + 3 * SLOW_STALL_SECONDS
        read = 0
        while piece := await reader.read(64 * 1024):
            read += len(piece)
            if time.monotonic() < slow_until:
                assert read < LARGE_BYTES // 2, "that was not slow"
                await asyncio.sleep(SLOW_STALL_SECONDS / 40)  # the slow reader
    assert read > LARGE_BYTES


async def test_an_answer_that_takes_its_time_is_waited_for(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /slow HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 10)
    assert answer.endswith(b"slow\r\n0\r\n\r\n")
    writer.close()
