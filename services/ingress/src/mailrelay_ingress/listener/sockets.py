"""The listening sockets and all sessions on them."""

from __future__ import annotations

import asyncio
import logging
import socket

from prometheus_client import Counter, Gauge

from mailrelay_ingress.listener.parts import ListenerParts, OpenSession
from mailrelay_ingress.listener.session import SmtpSession

_BACKLOG = 1024
# A client that does not finish its handshake is not counted among the connections yet.
_HANDSHAKE_SECONDS = 15.0
_STOP_POLL_SECONDS = 0.02

_connections = Gauge("mailrelay_smtp_connections", "SMTP clients connected now.")
_sessions = Counter("mailrelay_smtp_sessions_total", "SMTP clients that connected.")


class Listener:
    """Serves from `start` to `stop`."""

    def __init__(self, parts: ListenerParts) -> None:
        self._parts = parts
        self._servers: list[asyncio.Server] = []
        self._open: set[OpenSession] = set()
        self.is_stopping = False

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._open)

    async def start(
        self, sockets: list[socket.socket], tls_sockets: list[socket.socket] | None = None
    ) -> None:
        """Serve on sockets that are bound already; on `tls_sockets` with TLS from the first octet.

        `tls_sockets` need a certificate in the parts.
        """
        # aiosmtpd's own log repeats commands, and a lost client may send a password as one.
        logging.getLogger("mail.log").setLevel(logging.CRITICAL)
        loop = asyncio.get_running_loop()
        for sock in sockets:
            server = await loop.create_server(self._session, sock=sock, backlog=_BACKLOG)
            self._servers.append(server)
        certificate = self._parts.certificate
        for sock in tls_sockets or ():
            assert certificate is not None  # noqa: S101 — the configuration was checked
            server = await loop.create_server(
                self._session,
                sock=sock,
                backlog=_BACKLOG,
                ssl=certificate.context,
                ssl_handshake_timeout=_HANDSHAKE_SECONDS,
            )
            self._servers.append(server)

    async def stop(self, grace_seconds: float) -> None:
        """Take no new client, let each DATA under way end, tell all others to come again."""
        self.is_stopping = True
        for server in self._servers:
            server.close()
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + grace_seconds
        while self._open:
            for session in list(self._open):
                if not session.in_data or loop.time() >= ends_at:
                    session.say_shutting_down()
            if loop.time() >= ends_at:
                return
            await asyncio.sleep(_STOP_POLL_SECONDS)

    def opened(self, session: OpenSession) -> None:
        """Count a session in."""
        self._open.add(session)
        _connections.set(len(self._open))
        _sessions.inc()

    def closed(self, session: OpenSession) -> None:
        """Count a session out."""
        self._open.discard(session)
        _connections.set(len(self._open))

    def _session(self) -> SmtpSession:
        return SmtpSession(self._parts, self)
