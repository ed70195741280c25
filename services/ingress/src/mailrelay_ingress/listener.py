"""Speak SMTP to clients: aiosmtpd's protocol with the relay's own commands.

aiosmtpd keeps the session, EHLO, AUTH and the command loop; MAIL, RCPT, DATA, STARTTLS and every
reply's form are ours. The listener asks `policy` and does what it is told. The only importer of
aiosmtpd.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import socket
import ssl
from dataclasses import dataclass, replace
from typing import Any, NoReturn, cast

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from prometheus_client import Counter, Gauge

from mailrelay.mail.reply import Reply
from mailrelay.runtime.logging import Logger
from mailrelay_ingress import replies
from mailrelay_ingress.accept import Submission
from mailrelay_ingress.authentication import Authenticator
from mailrelay_ingress.content import ContentScanner, Fault
from mailrelay_ingress.enqueue import Enqueuer, Intake
from mailrelay_ingress.memory import MemoryBudget
from mailrelay_ingress.policy import Policy
from mailrelay_ingress.rate_limits import RateLimiter
from mailrelay_ingress.session import Client, Transaction, is_local_address

READ_BYTES = 64 * 1024
IDLE_SECONDS = 300.0  # RFC 5321 section 4.5.3.2.7
MAX_COMMAND_OCTETS = 2048  # RFC 5321 asks for 512 and more where extensions need it
# A whole DATA: far less than the hour after which the monitor takes chunks that no record names
# for left behind.
MAX_DATA_SECONDS = 30 * 60.0
MAX_ERRORS = 20  # refused commands in one session before it is closed (Postfix's hard limit)
# How much of a message that is too big is still read to give its sender the reply.
DRAIN_FACTOR = 2

_connections = Gauge("mailrelay_smtp_connections", "SMTP clients connected now.")
_sessions = Counter("mailrelay_smtp_sessions_total", "SMTP clients that connected.")
_rejections = Counter(
    "mailrelay_rejections_total",
    "Commands and messages refused, by reply code.",
    ["code"],  # three digits and the enhanced code, all of them in replies.py
)

_TAKEN = 250
# Told to a client that did nothing wrong: it may come as often as it likes.
_NO_ERRORS = frozenset({"421", "450", "451", "452"})

_BY_FAULT = {
    Fault.BARE_LINE_END: replies.BARE_LINE_END,
    Fault.LINE_TOO_LONG: replies.LINE_TOO_LONG,
    Fault.NUL: replies.NUL_IN_MESSAGE,
}


@dataclass(frozen=True, slots=True)
class ListenerParts:
    """What every session of a listener shares."""

    policy: Policy
    authenticator: Authenticator
    enqueuer: Enqueuer
    rate_limiter: RateLimiter
    budget: MemoryBudget
    log: Logger
    host_name: str
    max_message_bytes: int
    tls_context: ssl.SSLContext | None


class _Handler:
    """aiosmtpd's hook for the extensions that it does not offer itself."""

    async def handle_EHLO(
        self, server: SmtpSession, session: Session, _: Envelope, hostname: str, lines: list[str]
    ) -> list[str]:
        session.host_name = hostname
        offered = [line for line in lines[:-1] if server.offers_auth or line[4:8] != "AUTH"]
        return [*offered, "250-PIPELINING", "250 ENHANCEDSTATUSCODES"]


class _Session(Session):
    """aiosmtpd's session; its own `login_data` writes a warning to the log with each AUTH."""

    login_data: Any = None


class SmtpSession(SMTP):
    """One client's connection."""

    line_length_limit = MAX_COMMAND_OCTETS  # the reader's; content is read by `_take_content`
    command_size_limit = MAX_COMMAND_OCTETS
    # Shared by all sessions, as in the base, which looks into it for each command.
    command_size_limits = collections.defaultdict(lambda: MAX_COMMAND_OCTETS)  # noqa: RUF012

    def __init__(self, parts: ListenerParts, listener: Listener) -> None:
        self._transaction: Transaction | None = None  # before the base resets it
        super().__init__(
            _Handler(),
            data_size_limit=parts.max_message_bytes,
            enable_SMTPUTF8=True,
            hostname=parts.host_name,
            ident="ESMTP MailRelay",
            tls_context=parts.tls_context,
            timeout=IDLE_SECONDS,
            auth_required=False,  # policy says when
            auth_exclude_mechanism=("CRAM-MD5",),
            authenticator=self._authenticate_login,
            loop=asyncio.get_running_loop(),
        )
        self._parts = parts
        self._listener = listener
        self._client = Client("", is_local=False)
        self._plain_reply = False
        self._errors = 0
        self.in_data = False

    @property
    def offers_auth(self) -> bool:
        """Whether there is anyone who could authenticate."""
        return self._parts.authenticator.has_users

    def _create_session(self) -> Session:
        return _Session(self.loop)

    # Connection.
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet a client (in a task that the base makes)."""
        peer = transport.get_extra_info("peername")
        address = peer[0] if peer else ""
        self._client = Client(address, is_local=is_local_address(address))
        # A password in the clear is taken from this machine only (538 5.7.11 otherwise).
        self._auth_require_tls = not self._client.is_local
        self._listener.opened(self)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        """Forget a client."""
        self._listener.closed(self)
        self._end_transaction()
        super().connection_lost(error)

    def eof_received(self) -> bool | None:
        """End the session when the client ends its side."""
        stay_open = super().eof_received()
        return False if self._client.tls else stay_open  # TLS has no half-closed connections

    async def _handle_client(self) -> None:
        refusal = self._parts.policy.on_connect(
            self._client, self._listener.connections, stopping=self._listener.is_stopping
        )
        if refusal is not None:
            await self._say(refusal)
            assert self.transport is not None  # noqa: S101 — set by connection_made
            self.transport.close()
            return
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await super()._handle_client()

    def _timeout_cb(self) -> None:
        self.say_and_close(replies.IDLE)

    def say_and_close(self, reply: Reply) -> None:
        """Close the connection with a last word, without waiting."""
        if self.transport is not None and not self.transport.is_closing():
            self._writer.write(f"{reply}\r\n".encode())
            self.transport.close()

    async def handle_exception(self, error: Exception) -> str:
        """Log what went wrong in our code and tell the client to come again: never a 5xx."""
        self._log_exception(error)
        return str(replies.LOCAL_ERROR)

    def _log_exception(self, error: Exception) -> None:
        self._parts.log.error("smtp.exception", exc_info=error, client=self._client.address)

    # Replies.
    async def push(self, status: Any) -> None:  # noqa: ANN401 — aiosmtpd: str or bytes
        """Write a reply; one of aiosmtpd's own gets the enhanced code that it lacks."""
        if isinstance(status, str) and not self._plain_reply:
            status = _with_enhanced_code(status)
            if status[0] in "45":
                await self._count_refusal(status)
        await super().push(status)

    async def _say(self, reply: Reply) -> None:
        await self.push(str(reply))

    async def _count_refusal(self, status: str) -> None:
        _rejections.labels(" ".join(status.split(" ", 2)[:2])).inc()
        if status[:3] in _NO_ERRORS:
            return
        self._errors += 1
        if self._errors == MAX_ERRORS and self.transport is not None:
            self.say_and_close(replies.TOO_MANY_ERRORS)
            raise ConnectionResetError  # the one kind that aiosmtpd takes for a lost client

    # Commands.
    def _set_rset_state(self) -> None:
        super()._set_rset_state()  # type: ignore[no-untyped-call]
        self._end_transaction()

    def _end_transaction(self) -> None:
        if self._transaction is not None:
            self._transaction.reservation.release()
        self._transaction = None

    async def smtp_HELO(self, hostname: str) -> None:
        """HELO."""
        self._plain_reply = bool(hostname)
        await super().smtp_HELO(hostname)
        self._greeted(hostname, esmtp=False)

    async def smtp_EHLO(self, hostname: str) -> None:
        """EHLO."""
        self._plain_reply = bool(hostname)
        await super().smtp_EHLO(hostname)
        self._greeted(hostname, esmtp=True)

    def _greeted(self, hostname: str, *, esmtp: bool) -> None:
        self._plain_reply = False
        if hostname:
            self._client = replace(self._client, helo=hostname, esmtp=esmtp)

    async def smtp_MAIL(self, arg: str) -> None:
        """MAIL FROM."""
        client = self._client
        verdict = self._parts.policy.on_mail(client, self._transaction, arg or "")
        if isinstance(verdict, Reply):
            self._log_rejection(verdict, arg)
            await self._say(verdict)
            return
        reserved = await self._parts.rate_limiter.reserve(verdict.reverse_path, client)
        if isinstance(reserved, Reply):  # which is in the log already
            await self._say(reserved)
            return
        verdict.reservation = reserved
        self._transaction = verdict
        await self._say(replies.SENDER_OK)

    async def smtp_RCPT(self, arg: str) -> None:
        """RCPT TO."""
        verdict = self._parts.policy.on_rcpt(self._transaction, arg or "")
        if isinstance(verdict, Reply):
            self._log_rejection(verdict, arg)
            await self._say(verdict)
            return
        assert self._transaction is not None  # noqa: S101 — policy saw it
        self._transaction.add(verdict)
        await self._say(replies.RECIPIENT_OK)

    async def smtp_DATA(self, arg: str) -> None:
        """DATA: take the content in and say what became of it."""
        client = self._client
        refusal = (
            replies.DATA_SYNTAX if arg else self._parts.policy.on_data(client, self._transaction)
        )
        if refusal is not None:
            await self._say(refusal)
            return
        assert self._transaction is not None  # noqa: S101 — policy saw it
        transaction = self._transaction
        submission = Submission.begin(client, transaction, self._parts.host_name)
        share = self._parts.budget.share()
        self.in_data = True
        ended = False
        try:
            if not await share.reserve_small():
                await self._say(replies.BUSY)
                return
            intake = self._parts.enqueuer.begin(submission, share, self._parts.policy.on_header)
            await self._say(replies.START_MAIL_INPUT)
            try:
                ended = await self._take_content(intake)
                transaction.reservation.storing()
                reply = await self._parts.enqueuer.finish(intake)
                transaction.reservation.settle(accepted=reply.code == _TAKEN)
            finally:
                await intake.abandon()
        except Exception as error:
            if ended or isinstance(error, ConnectionError):
                raise
            # What follows is the rest of the content: it must not be read as commands.
            self._log_exception(error)
            self._close_in_content(replies.LOCAL_ERROR)
        finally:
            share.give_back()
            self.in_data = False
        self._set_rset_state()
        if intake.refusal is not None:
            self._log_rejection(reply, "DATA", submission.queue_id)
        if not ended:
            self._close_in_content(reply)
        if intake.refusal is None and reply.code == _TAKEN:
            self._errors = 0
        await self._say(reply)
        if self._listener.is_stopping:
            self.say_and_close(replies.SHUTTING_DOWN)

    def _close_in_content(self, reply: Reply) -> NoReturn:
        """End the session where the end of the data was not found (SMTP smuggling)."""
        _rejections.labels(f"{reply.code} {reply.enhanced}").inc()
        self.say_and_close(reply)
        raise ConnectionResetError

    async def _take_content(self, intake: Intake) -> bool:
        """Read up to the end of data, at most `READ_BYTES` at a time; return whether it came."""
        scanner = ContentScanner()
        size = 0
        limit = self._parts.max_message_bytes
        ends_at = self.loop.time() + MAX_DATA_SECONDS
        while not scanner.ended:
            chunk = await self._reader.read(READ_BYTES)
            if not chunk:
                raise ConnectionResetError
            self._reset_timeout()
            size += len(chunk)
            piece = scanner.feed(chunk)
            if scanner.fault is Fault.BARE_LINE_END:
                # The end of such a message is in the eye of the beholder: do not look for it.
                intake.refuse(replies.BARE_LINE_END)
                return False
            if scanner.fault is not None:
                intake.refuse(_BY_FAULT[scanner.fault])
            elif size - len(scanner.rest) > limit:
                intake.refuse(replies.TOO_BIG)
            if size > limit * DRAIN_FACTOR or self.loop.time() > ends_at:
                intake.refuse(replies.TOO_SLOW)
                return False
            await intake.add(piece)
        self._put_back(scanner.rest)
        return True

    def _put_back(self, octets: bytes) -> None:
        """Return pipelined commands to the reader; aiosmtpd reads its commands from there."""
        if octets:
            buffer: bytearray = self._reader._buffer  # type: ignore[attr-defined]  # noqa: SLF001
            buffer[:0] = octets

    async def smtp_RSET(self, arg: str) -> None:
        """RSET."""
        if arg:
            await self.push("501 Syntax: RSET")
            return
        self._set_rset_state()
        await self._say(replies.RESET_OK)

    async def smtp_VRFY(self, arg: str) -> None:
        """VRFY: nothing is told of who exists (RFC 5321 section 7.3)."""
        await self.push("501 Syntax: VRFY <address>") if not arg else await self._say(
            replies.CANNOT_VERIFY
        )

    async def smtp_STARTTLS(self, arg: str) -> None:
        """STARTTLS (RFC 3207), by the event loop's own upgrade: less memory than aiosmtpd's."""
        context = self._parts.tls_context
        if arg or context is None or self._client.tls:
            refusal = replies.TLS_NOT_AVAILABLE if context is None else replies.TLS_ALREADY
            await self.push("501 Syntax: STARTTLS") if arg else await self._say(refusal)
            return
        # uvloop's transports do what asyncio.Transport does, without being one.
        plain = cast("asyncio.Transport", self.transport)
        await self.push("220 2.0.0 Ready to start TLS")
        # What was sent in the clear behind STARTTLS must not count as sent under TLS.
        self._reader._buffer.clear()  # type: ignore[attr-defined]  # noqa: SLF001
        try:
            secure = await self.loop.start_tls(
                plain, self, context, server_side=True, ssl_handshake_timeout=IDLE_SECONDS / 10
            )
        except (ssl.SSLError, OSError) as error:
            self._parts.log.info("smtp.tls_failed", client=self._client.address, error=str(error))
            plain.abort()
            raise ConnectionResetError from error
        assert secure is not None  # noqa: S101 — None only for a closed transport
        self.transport = secure
        self._reader._transport = secure  # type: ignore[attr-defined]  # noqa: SLF001
        self._writer._transport = secure  # type: ignore[attr-defined]  # noqa: SLF001
        self._tls_protocol = secure  # type: ignore[assignment]  # aiosmtpd only asks whether
        self._set_rset_state()
        session = self._create_session()  # RFC 3207 section 4.2: all that was said is forgotten
        session.peer = self.session.peer if self.session else None
        self.session = session
        cipher = secure.get_extra_info("cipher")
        name = f"{cipher[1]} with cipher {cipher[0]}" if cipher else "TLS"
        self._client = replace(self._client, helo="", esmtp=False, user="", tls=name)

    # Authentication.
    async def smtp_AUTH(self, arg: str) -> None:
        """AUTH; the mechanism's name in any case (RFC 5321 section 2.4)."""
        mechanism, space, rest = (arg or "").partition(" ")
        await super().smtp_AUTH(mechanism.upper() + space + rest)

    def _authenticate_login(
        self,
        _server: SMTP,
        _session: Session,
        _envelope: Envelope,
        mechanism: str,
        login: Any,  # noqa: ANN401
    ) -> AuthResult:
        assert isinstance(login, LoginPassword)  # noqa: S101 — PLAIN and LOGIN give this
        valid = self._parts.authenticator.is_valid(login.login, login.password)
        user = login.login.decode("utf-8", "replace")
        if valid:
            self._client = replace(self._client, user=user)
            return AuthResult(success=True, auth_data=login)
        self._parts.log.warning(
            "smtp.auth_failed", client=self._client.address, user=user[:100], mechanism=mechanism
        )
        return AuthResult(success=False, handled=False)

    def _log_rejection(self, reply: Reply, command: str, queue_id: str = "") -> None:
        octets = (command or "").encode("utf-8", "surrogateescape")
        self._parts.log.info(
            "mail.rejected",
            **({"id": queue_id} if queue_id else {}),
            client=self._client.address,
            user=self._client.user,
            command=octets.decode("utf-8", "backslashreplace")[:300],
            reply=str(reply),
        )


def _with_enhanced_code(status: str) -> str:
    code, text = status[:3], status[4:]
    enhanced = replies.ENHANCED_BY_CODE.get(code)
    if enhanced is None or text[1:2] == "." or status[3:4] == "-":
        return status
    return f"{code} {enhanced} {text}"


class Listener:
    """The listening sockets and all sessions on them."""

    def __init__(self, parts: ListenerParts) -> None:
        self._parts = parts
        self._servers: list[asyncio.Server] = []
        self._sessions: set[SmtpSession] = set()
        self.is_stopping = False

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._sessions)

    async def start(self, sockets: list[socket.socket]) -> None:
        """Serve on `sockets`, which are bound already."""
        # aiosmtpd's own log repeats commands, and a lost client may send a password as one.
        logging.getLogger("mail.log").setLevel(logging.CRITICAL)
        loop = asyncio.get_running_loop()
        for sock in sockets:
            server = await loop.create_server(
                lambda: SmtpSession(self._parts, self), sock=sock, backlog=1024
            )
            self._servers.append(server)

    async def stop(self, grace_seconds: float) -> None:
        """Take no new client, let each DATA under way end, tell all others to come again."""
        self.is_stopping = True
        for server in self._servers:
            server.close()
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + grace_seconds
        while self._sessions:
            for session in list(self._sessions):
                if not session.in_data or loop.time() >= ends_at:
                    session.say_and_close(replies.SHUTTING_DOWN)
            if loop.time() >= ends_at:
                return
            await asyncio.sleep(0.02)

    def opened(self, session: SmtpSession) -> None:
        """Count a session in."""
        self._sessions.add(session)
        _connections.set(len(self._sessions))
        _sessions.inc()

    def closed(self, session: SmtpSession) -> None:
        """Count a session out."""
        self._sessions.discard(session)
        _connections.set(len(self._sessions))
