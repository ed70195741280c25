"""HTTP on sockets that are ours or the supervisor's, by uvicorn, under our own signals."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Sequence

import uvicorn
from starlette.types import ASGIApp

from mailrelay.runtime.addresses import open_listeners
from mailrelay_monitor.http_connection import HttpConnection

_BACKLOG = 128
_MAX_CONNECTIONS = 256  # of this machine's own clients
_STOP_SECONDS = 1  # for requests under way at the end
_TICK_SECONDS = 1.0


def listening_sockets(fds: Sequence[int], hosts: Sequence[str], port: int) -> list[socket.socket]:
    """Take over the supervisor's sockets, or listen on each address. Raises OSError."""
    if fds:
        return [socket.socket(fileno=fd) for fd in fds]
    return [each for host in hosts for each in open_listeners(host, port, _BACKLOG)]


class HttpServer:
    """Answers from `run` to `stop`."""

    def __init__(self, app: ASGIApp, sockets: list[socket.socket]) -> None:
        self._sockets = sockets
        self._server = _Server(
            uvicorn.Config(
                app,
                http=HttpConnection,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,  # X-Forwarded-For proves nothing
                server_header=False,
                limit_concurrency=_MAX_CONNECTIONS,
                timeout_graceful_shutdown=_STOP_SECONDS,
            )
        )

    async def run(self) -> None:
        """Answer until `stop`."""
        await self._server.serve(sockets=self._sockets)

    async def wait_started(self) -> None:
        """Wait until requests are answered."""
        await self._server.wait_started()

    def stop(self) -> None:
        """Take no more requests; `run` returns once those under way are answered."""
        self._server.stop()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._answering = asyncio.Event()
        self._stopping = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `mailrelay.runtime.lifecycle`."""
        yield

    async def main_loop(self) -> None:
        """Tick once a second: uvicorn's own ten times a second are half of an idle monitor."""
        self._answering.set()
        while not await self.on_tick(0):
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _TICK_SECONDS)

    async def wait_started(self) -> None:
        await self._answering.wait()

    def stop(self) -> None:
        self.should_exit = True
        self._stopping.set()
