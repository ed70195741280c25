"""TLS on a connection: from the first octet, or by STARTTLS (RFC 3207)."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from typing import cast

from mailrelay_ingress import replies
from mailrelay_ingress.listener.protocol import IDLE_SECONDS, Connection


class TlsConnection(Connection):
    """A connection that may be, or come, under TLS."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Notice TLS that was there before the first octet."""
        super().connection_made(transport)
        if transport.get_extra_info("ssl_object") is not None:
            self._note_tls(transport)

    async def smtp_STARTTLS(self, arg: str) -> None:
        """STARTTLS, by the event loop's own upgrade: less memory than aiosmtpd's."""
        certificate = self._parts.certificate
        if arg or certificate is None or self._client.tls:
            refusal = replies.TLS_NOT_AVAILABLE if certificate is None else replies.TLS_ALREADY
            await self.push("501 Syntax: STARTTLS") if arg else await self._say(refusal)
            return
        # uvloop's transports do what asyncio.Transport does, without being one.
        plain = cast("asyncio.Transport", self.transport)
        await self.push("220 2.0.0 Ready to start TLS")
        # What was sent in the clear behind STARTTLS must not count as sent under TLS.
        self._reader._buffer.clear()  # type: ignore[attr-defined]  # noqa: SLF001 — TLS under a stream that stands
        try:
            secure = await self.loop.start_tls(
                plain,
                self,
                certificate.context,
                server_side=True,
                ssl_handshake_timeout=IDLE_SECONDS / 10,
            )
        except (ssl.SSLError, OSError) as error:
            self._parts.log.info("smtp.tls_failed", client=self._client.address, error=str(error))
            plain.abort()
            # A client that resets the connection within the handshake is not told to us: the TLS
            # protocol that stands in between says so only of what it had handed over.
            self.connection_lost(error)
            raise ConnectionResetError from error
        assert secure is not None  # noqa: S101 — None only for a closed transport
        self.transport = secure
        self._reader._transport = secure  # type: ignore[attr-defined]  # noqa: SLF001 — TLS under a stream that stands
        self._writer._transport = secure  # type: ignore[attr-defined]  # noqa: SLF001 — TLS under a stream that stands
        self._set_rset_state()
        session = self._create_session()  # RFC 3207 section 4.2: all that was said is forgotten
        session.peer = self.session.peer if self.session else None
        self.session = session
        self._client = replace(self._client, helo="", esmtp=False, user="")
        self._note_tls(secure)

    def _note_tls(self, transport: asyncio.BaseTransport) -> None:
        self._tls_protocol = transport  # type: ignore[assignment]  # aiosmtpd only asks whether
        cipher = transport.get_extra_info("cipher")
        name = f"{cipher[1]} with cipher {cipher[0]}" if cipher else "TLS"
        self._client = replace(self._client, tls=name)
