"""A way to the API server on which single watches can fall silent, their connections standing.

As a middlebox that forgot a connection, or a server that hangs in one place: what is held is
neither answered nor closed. Everything else goes through.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import yaml
from aiohttp import web

from tests.support.kubernetes.cluster import cluster_of
from tests.support.kubernetes.credentials import write_kubeconfig

_OF_ONE_CONNECTION = {"connection", "content-length", "host", "transfer-encoding"}


class SilentApi:
    """Between an operator and its API server."""

    def __init__(self, kubeconfig: Path) -> None:
        cluster = cluster_of(kubeconfig)
        self._server = cluster["server"]
        self._trust = ssl.create_default_context(cafile=cluster["certificate-authority"])
        self._port = 0
        self._held: tuple[str, ...] = ()
        self._released = asyncio.Event()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[SilentApi]:
        """Pass requests on for a `with` block."""
        connector = aiohttp.TCPConnector(ssl=self._trust, limit=0)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:

            async def answer(request: web.BaseRequest) -> web.StreamResponse:
                return await self._pass_on(session, request)

            runner = web.ServerRunner(
                web.Server(answer, handler_cancellation=True), shutdown_timeout=1.0
            )
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self._port = runner.addresses[0][1]
            try:
                yield self
            finally:
                self.release()
                await runner.cleanup()

    def hold(self, *ends: str) -> None:
        """Let the watches be silent whose paths end like this: those under way, and new ones."""
        self._held = ends
        self._released.clear()

    def release(self) -> None:
        """Let all go on; what was held comes now."""
        self._held = ()
        self._released.set()

    def lead_here(self, kubeconfig: Path) -> None:
        """Change a kubeconfig file so that who has it goes this way."""
        config = yaml.safe_load(kubeconfig.read_text())
        (user,) = config["users"]
        (context,) = config["contexts"]
        cluster = {"server": f"http://127.0.0.1:{self._port}"}
        token, namespace = user["user"]["token"], context["context"]["namespace"]
        write_kubeconfig(kubeconfig, cluster, token, namespace)

    def _is_held(self, request: web.BaseRequest) -> bool:
        is_watch = request.query.get("watch") == "true"
        return is_watch and any(request.path.endswith(end) for end in self._held)

    async def _pass_on(
        self, session: aiohttp.ClientSession, request: web.BaseRequest
    ) -> web.StreamResponse:
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in _OF_ONE_CONNECTION
        }
        limits = aiohttp.ClientTimeout(total=None)
        async with session.request(
            request.method,
            self._server + request.raw_path,
            headers=headers,
            data=await request.read() or None,
            skip_auto_headers=("Accept", "Content-Type", "User-Agent"),
            timeout=limits,
        ) as answered:
            response = web.StreamResponse(status=answered.status)
            for name, value in answered.headers.items():
                if name.lower() not in _OF_ONE_CONNECTION:
                    response.headers.add(name, value)
            await response.prepare(request)
            async for piece in answered.content.iter_any():
                if self._is_held(request):
                    await self._released.wait()
                await response.write(piece)
            return response
