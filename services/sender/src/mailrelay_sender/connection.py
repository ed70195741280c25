"""SMTP connections to next hops, kept open between messages. The only importer of aiosmtplib.

Content is written in the wire form in which it came in, piece by piece: never re-encoded, never
whole in memory. What aiosmtplib raises leaves here as `HopError` with a reply and a stage.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import ssl
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, cast

import aiosmtplib
from aiosmtplib.errors import SMTPException, SMTPServerDisconnected, SMTPTimeoutError

from mailrelay.config.model import RelayConfig
from mailrelay.config.smart_hosts import ConfiguredHost, credentials, forward_host
from mailrelay.config.tls import certificate_words, upstream_context
from mailrelay.mail.reply import Reply
from mailrelay.runtime.steps import passed
from mailrelay_sender.classify import auth_failed, cannot_connect, connection_lost, tls_failed
from mailrelay_sender.dialogue import Dialogue, DialogueError
from mailrelay_sender.route import SmartHost

CONNECT_SECONDS = 30.0
QUIT_SECONDS = 2.0
IDLE_SECONDS = 25.0  # below the shortest idle time-out that servers commonly have (30 s)
MAX_MESSAGES = 500  # then a fresh connection, so that a changed upstream is noticed
_SUBMISSIONS_PORT = 465
_WRITE_BYTES = 128 * 1024
_LOOK_SECONDS = 0.02


class HopError(Exception):
    """A next hop could not be used; `reply` is what the recipients' records will say."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


class ConnectError(HopError):
    """No usable connection: connecting, EHLO, TLS or AUTH failed."""


class LostError(HopError):
    """The connection broke during a transaction."""


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """How to be a client of a smart host."""

    host_name: str  # ours, for EHLO
    implicit_tls: bool
    requires_tls: bool  # or STARTTLS is used when it is offered
    tls_context: ssl.SSLContext
    username: str
    password: str
    options: ConfiguredHost  # what people set, to be named in what they are told

    @classmethod
    def of(cls, host: ConfiguredHost, ehlo_name: str) -> UpstreamSettings:
        """Build the settings of a smart host.

        Raises ConfigError when its authorities or credentials cannot be read.
        """
        username, password = credentials(host)
        return cls(
            host_name=ehlo_name,
            implicit_tls=host.section.tls == "implicit",
            requires_tls=host.section.tls != "opportunistic",
            tls_context=upstream_context(host),
            username=username,
            password=password,
            options=host,
        )

    @classmethod
    def from_config(cls, config: RelayConfig, host_name: str) -> UpstreamSettings:
        """Build those of the `forward…` options; `host_name` is ours unless there is a `heloName`.

        Raises ConfigError when the authorities cannot be read.
        """
        return cls.of(forward_host(config), config.helo_name or host_name)

    def for_named_hop(self, port: int) -> UpstreamSettings:
        """Return how to be a client of a next hop named by hand: without our credentials.

        They are for the configured upstream alone. TLS from the first octet is what port 465
        means (RFC 8314 section 3.3).
        """
        implicit = port == _SUBMISSIONS_PORT
        return replace(self, implicit_tls=implicit, requires_tls=implicit, username="", password="")

    def __repr__(self) -> str:
        return f"UpstreamSettings(host_name={self.host_name!r}, username={self.username!r})"


@dataclass(slots=True)
class Verdicts:
    """How many final dots were sent and not answered yet: who ends one now repeats the mail."""

    awaited: int = 0
    is_closed: bool = False

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Be between a final dot and its answer; not begun any more once this is closed."""
        await self._wait_allowed()
        self.awaited += 1
        try:
            yield
        finally:
            self.awaited -= 1

    async def _wait_allowed(self) -> None:
        if self.is_closed:  # the process ends, and cuts the attempt off here, where it is safe
            await asyncio.Event().wait()

    def close(self) -> None:
        """Let no final dot go out any more."""
        self.is_closed = True

    async def wait_none(self, limit_seconds: float) -> None:
        """Wait until every final dot is answered, `limit_seconds` at most."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + limit_seconds
        while self.awaited and loop.time() < ends_at:  # noqa: ASYNC110 — plain state
            await asyncio.sleep(_LOOK_SECONDS)


class ConnectWatch(Protocol):
    """Who is told whether connections can be had."""

    def failed(self, reply: Reply) -> None:
        """No connection could be had, for this reason."""

    def worked(self) -> None:
        """There is one that can be used."""


class HopConnection:
    """One open connection, ready for a transaction."""

    def __init__(self, client: aiosmtplib.SMTP, next_hop: str, verdicts: Verdicts) -> None:
        """Take over a client that has connected, and whose transport is there."""
        self._client = client
        # uvloop's transports do what asyncio.Transport does, without being one.
        self._dialogue = Dialogue.take_over(cast("asyncio.Transport", client.transport))
        self._verdicts = verdicts
        self._next_hop = next_hop
        self.messages = 0
        self.idle_since = 0.0
        cipher = client.get_transport_info("cipher")
        self.tls = f"{cipher[1]} with cipher {cipher[0]}" if cipher else ""

    @property
    def is_open(self) -> bool:
        """Whether the connection still stands, as far as we know."""
        return self._dialogue.is_open

    def supports(self, extension: str) -> bool:
        """Tell whether the server offered an extension."""
        return self._client.supports_extension(extension)

    async def command(self, *words: bytes) -> Reply:
        """Send a command and return the reply. Raises LostError."""
        try:
            return await self._dialogue.tell(*words)
        except DialogueError as error:
            raise LostError(connection_lost(self._next_hop, str(error))) from error

    def converse(self, commands: Sequence[tuple[bytes, ...]]) -> Conversation:
        """Send commands together where the server takes that (RFC 2920), else one by one.

        Raises LostError.
        """
        if not self.supports("pipelining"):
            return Conversation(self, deque(commands), deque())
        try:
            replies = self._dialogue.tell_nowait(commands)
        except DialogueError as error:
            raise LostError(connection_lost(self._next_hop, str(error))) from error
        return Conversation(self, deque(), deque(replies))

    async def answer(self, reply: asyncio.Future[Reply]) -> Reply:
        """Wait for the reply to what was sent before. Raises LostError."""
        try:
            return await reply
        except DialogueError as error:
            raise LostError(connection_lost(self._next_hop, str(error))) from error

    async def content(self, pieces: AsyncIterator[bytes]) -> Reply:
        """Send the content behind an accepted DATA, and the end mark; return the final reply.

        Raises LostError, and whatever `pieces` raises (the connection is unusable then).
        """
        try:
            async for piece in pieces:
                view = memoryview(piece)
                for start in range(0, len(view), _WRITE_BYTES):
                    await self._dialogue.send(view[start : start + _WRITE_BYTES])
        except DialogueError as error:
            raise LostError(connection_lost(self._next_hop, str(error))) from error
        async with self._verdicts.one():
            passed("attempt.content_sent")  # a turn later the final dot is out as well
            return await self.command(b".")

    def abort(self) -> None:
        """Drop the connection at once; what was not ended by a final dot is not taken."""
        self._dialogue.abort()

    async def quit(self) -> None:
        """Say QUIT and close."""
        with contextlib.suppress(LostError, TimeoutError):
            async with asyncio.timeout(QUIT_SECONDS):
                await self.command(b"QUIT")
        self.abort()


@dataclass(frozen=True, slots=True)
class Conversation:
    """The replies to some commands, in order; those not sent yet are sent as they are asked for."""

    _connection: HopConnection
    _unsent: deque[tuple[bytes, ...]]
    _sent: deque[asyncio.Future[Reply]]

    async def next(self) -> Reply:
        """Return the next command's reply. Raises LostError."""
        if self._sent:
            return await self._connection.answer(self._sent.popleft())
        return await self._connection.command(*self._unsent.popleft())

    async def rest(self) -> list[Reply]:
        """Return the replies that are to come, and send nothing more. Raises LostError."""
        self._unsent.clear()
        return [await self.next() for _ in range(len(self._sent))]


class ConnectionPool:
    """Open connections to one upstream; idle ones are kept for a while."""

    def __init__(
        self,
        hop: SmartHost,
        settings: UpstreamSettings,
        *,
        verdicts: Verdicts | None = None,
        watch: ConnectWatch | None = None,
    ) -> None:
        """`verdicts` may be shared with other pools; `watch` is told of each connection."""
        self._hop = hop
        self._settings = settings
        self._idle: deque[HopConnection] = deque()
        self._verdicts = verdicts or Verdicts()
        self._watch = watch
        self._is_retired = False
        self.next_hop = hop.next_hop
        self.down: Reply | None = None  # why no connection could be had when last tried

    def retire(self) -> None:
        """Keep no connection any more: those in use end when they are put back."""
        self._is_retired = True

    async def get(
        self, *, fresh: bool = False, limit_seconds: float = CONNECT_SECONDS
    ) -> HopConnection:
        """Return a connection: an idle one, or (always when `fresh`) a new one.

        A new one may take `limit_seconds` until it can be used. Raises ConnectError.
        """
        now = asyncio.get_running_loop().time()
        while self._idle and not fresh:
            connection = self._idle.pop()  # the one used last is the least likely to be stale
            if connection.is_open and now - connection.idle_since < IDLE_SECONDS:
                return connection
            connection.abort()
        try:
            connection = await self._connect(limit_seconds)
        except ConnectError as error:
            self.down = error.reply
            if self._watch is not None and not self._is_retired:
                self._watch.failed(error.reply)
            raise
        self._worked()
        return connection

    def _worked(self) -> None:
        self.down = None
        if self._watch is not None and not self._is_retired:
            self._watch.worked()

    async def put_back(self, connection: HopConnection) -> None:
        """Keep a connection that is between transactions, or end it when it has served enough."""
        if not connection.is_open:
            return
        self._worked()
        if connection.messages >= MAX_MESSAGES or self._is_retired:
            await connection.quit()
            return
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle.append(connection)

    async def close_idle(self, *, older_than_seconds: float = 0.0) -> None:
        """End the connections that were idle for that long."""
        now = asyncio.get_running_loop().time()
        while self._idle and now - self._idle[0].idle_since >= older_than_seconds:
            await self._idle.popleft().quit()

    async def _connect(self, limit_seconds: float) -> HopConnection:
        settings, hop = self._settings, self._hop
        client = aiosmtplib.SMTP(
            hostname=hop.host,
            port=hop.port,
            local_hostname=settings.host_name,
            timeout=None,  # the attempt has one limit on the whole
            use_tls=settings.implicit_tls,
            start_tls=None,  # when offered
            tls_context=settings.tls_context,
        )
        try:
            async with asyncio.timeout(limit_seconds):
                await client.connect()
                self._require_tls(client)
                if client.is_ehlo_or_helo_needed:
                    await client.ehlo()
                await self._authenticate(client)
        except ConnectError:
            client.close()
            raise
        except ssl.SSLError as error:
            client.close()
            raise ConnectError(self._tls_reply(error)) from error
        except TimeoutError as error:
            client.close()
            reply = cannot_connect(hop.next_hop, f"no answer within {limit_seconds:g} s")
            raise ConnectError(reply) from error
        except (SMTPException, OSError, ValueError) as error:
            client.close()
            raise ConnectError(self._connect_reply(error)) from error
        except asyncio.CancelledError:
            client.close()
            raise
        return HopConnection(client, hop.next_hop, self._verdicts)

    def _require_tls(self, client: aiosmtplib.SMTP) -> None:
        """Go on in the clear only when that was asked for. Raises ConnectError."""
        if self._settings.requires_tls and client.get_transport_info("cipher") is None:
            option = self._settings.options.option("tls")
            why = f"the server does not offer STARTTLS ({option}: opportunistic goes on without)"
            raise ConnectError(tls_failed(self._hop.next_hop, why))

    async def _authenticate(self, client: aiosmtplib.SMTP) -> None:
        if not self._settings.username:
            return
        if client.get_transport_info("cipher") is None and not _is_loopback(client):
            why = "the server offers no TLS, and a password is never sent in the clear"
            raise ConnectError(tls_failed(self._hop.next_hop, why))
        try:
            await client.login(self._settings.username, self._settings.password)
        except (SMTPServerDisconnected, SMTPTimeoutError):
            raise
        except SMTPException as error:  # refused, or AUTH or our mechanisms not offered
            raise ConnectError(auth_failed(self._hop.next_hop, _why(error))) from error

    def _connect_reply(self, error: Exception) -> Reply:
        """Tell a TLS failure from the rest: aiosmtplib chains the cause."""
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLError):
                return self._tls_reply(cause)
            cause = cause.__cause__
        return cannot_connect(self._hop.next_hop, _why(error))

    def _tls_reply(self, error: ssl.SSLError) -> Reply:
        why = _why(error)
        if isinstance(error, ssl.SSLCertVerificationError):
            why = certificate_words(error, self._hop.host, self._settings.options)
        return tls_failed(self._hop.next_hop, why)


def _is_loopback(client: aiosmtplib.SMTP) -> bool:
    peer = client.get_transport_info("peername")
    return bool(peer) and ipaddress.ip_address(peer[0].partition("%")[0]).is_loopback


def _why(error: BaseException) -> str:
    code = getattr(error, "code", None)
    text = str(getattr(error, "message", "") or error) or type(error).__name__
    return f"{code} {text}" if isinstance(code, int) and code > 0 else text
