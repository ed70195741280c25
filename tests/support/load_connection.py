"""A connection of the load generator: as few wake-ups per message as SMTP allows."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from typing import TYPE_CHECKING, Self, cast

from tests.support.replies import MalformedReplyError, Reply, parse_reply_line

if TYPE_CHECKING:
    from tests.support.load_plan import LoadPlan


class ConnectionLostError(Exception):
    """No connection, or no longer one, or the peer does not answer in time or sense."""

    def __init__(self, what: str, reply: Reply | None = None) -> None:
        super().__init__(what)
        self.reply = reply


class LoadConnection(asyncio.Protocol):
    """Write commands, wait for a number of replies."""

    def __init__(self, reply_seconds: float) -> None:
        self._reply_seconds = reply_seconds
        self._transport: asyncio.Transport
        self._unread = b""
        self._texts: list[str] = []
        self._replies: list[Reply] = []
        self._wanted = 0
        self._waiter: asyncio.Future[None] | None = None
        self._limit: asyncio.TimerHandle | None = None
        self.lost = False
        self.offers_pipelining = False
        self.offers_size = False

    @classmethod
    async def open(cls, plan: LoadPlan) -> Self:
        """Connect, greet and authenticate."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(plan.reply_seconds):
                _, connection = await loop.create_connection(
                    lambda: cls(plan.reply_seconds), plan.host, plan.port
                )
        except OSError as error:  # TimeoutError is one
            raise ConnectionLostError(f"cannot connect: {error}") from error
        try:
            await connection._greet(plan)
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _greet(self, plan: LoadPlan) -> None:
        (banner,) = await self.replies(1)
        if banner.code != 220:
            raise ConnectionLostError(f"turned away: {banner}", banner)
        ehlo = await self._ehlo()
        if plan.starttls is not None:
            (answer,) = await self.ask(b"STARTTLS\r\n")
            if answer.code != 220:
                raise ConnectionLostError(f"STARTTLS refused: {answer}", answer)
            await self._shake_hands(plan.starttls, plan.starttls_name)
            ehlo = await self._ehlo()
        keywords = {line.split(" ")[0].upper() for line in ehlo.lines[1:]}
        self.offers_pipelining = "PIPELINING" in keywords
        self.offers_size = "SIZE" in keywords
        login = plan.login()
        if login is not None:
            user, password = login
            response = base64.b64encode(f"\0{user}\0{password}".encode())
            (answer,) = await self.ask(b"AUTH PLAIN " + response + b"\r\n")
            if answer.code != 235:
                raise ConnectionLostError(f"AUTH refused: {answer}", answer)

    async def _ehlo(self) -> Reply:
        (ehlo,) = await self.ask(b"EHLO load.test\r\n")
        if ehlo.code != 250:
            raise ConnectionLostError(f"EHLO refused: {ehlo}", ehlo)
        return ehlo

    async def _shake_hands(self, context: ssl.SSLContext, name: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            secured = await loop.start_tls(self._transport, self, context, server_hostname=name)
        except OSError as error:  # ssl.SSLError is one
            raise ConnectionLostError(f"no TLS: {error}") from error
        self._transport = cast("asyncio.Transport", secured)

    def write(self, octets: bytes) -> None:
        """Send octets; losing the connection shows when the reply is waited for."""
        if not self.lost:
            self._transport.write(octets)

    async def ask(self, octets: bytes, count: int = 1) -> list[Reply]:
        """Send octets and wait for so many replies."""
        self.write(octets)
        return await self.replies(count)

    async def replies(self, count: int) -> list[Reply]:
        """Wait for so many replies."""
        if len(self._replies) < count:
            if self.lost:
                raise ConnectionLostError("the connection is lost")
            loop = asyncio.get_running_loop()
            self._wanted = count
            self._waiter = loop.create_future()
            self._limit = loop.call_later(self._reply_seconds, self._give_up, "no reply in time")
            try:
                await self._waiter
            finally:
                self._limit.cancel()
                self._waiter = None
        taken = self._replies[:count]
        del self._replies[:count]
        return taken

    async def quit(self) -> None:
        """Say goodbye if anyone listens."""
        with contextlib.suppress(ConnectionLostError):
            await self.ask(b"QUIT\r\n")
        self.abort()

    def abort(self) -> None:
        """Drop the connection."""
        self.lost = True
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Put replies together; wake the waiter when it has all it wants."""
        *lines, self._unread = (self._unread + data).split(b"\r\n")
        for line in lines:
            try:
                code, last, text = parse_reply_line(line)
            except MalformedReplyError as error:
                self._give_up(str(error))
                return
            self._texts.append(text)
            if last:
                self._replies.append(Reply(code, "\n".join(self._texts)))
                self._texts = []
        waiter = self._waiter
        if waiter is not None and not waiter.done() and len(self._replies) >= self._wanted:
            waiter.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the waiter."""
        self._give_up(f"connection lost: {exc}")

    def _give_up(self, why: str) -> None:
        self.lost = True
        self._transport.abort()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ConnectionLostError(why))
