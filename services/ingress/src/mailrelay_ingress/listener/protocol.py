"""A client's connection: what is odd about aiosmtpd's protocol is put right here.

Its replies lack enhanced codes, its log repeats commands, its session warns of itself, and an
unexpected exception would become a 5xx.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
from dataclasses import replace
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from prometheus_client import Counter

from mailrelay.mail.reply import Reply
from mailrelay_ingress import replies
from mailrelay_ingress.listener.parts import ListenerParts, Sessions
from mailrelay_ingress.session import Client, is_local_address

IDLE_SECONDS = 300.0  # RFC 5321 section 4.5.3.2.7
# For a client to take the last reply from us; then the connection is cut, or one that reads nothing
# would hold it for good.
LAST_REPLY_SECONDS = 10.0
MAX_COMMAND_OCTETS = 2048  # RFC 5321 asks for 512 and more where extensions need it
MAX_ERRORS = 20  # refused commands in one session before it is closed (Postfix's hard limit)

_rejections = Counter(
    "mailrelay_rejections_total",
    "Commands and messages refused, by reply code.",
    ["code"],  # three digits and the enhanced code, all of them in replies.py
)

# Told to a client that did nothing wrong: it may come as often as it likes.
_NO_ERRORS = frozenset({"421", "450", "451", "452"})


class _Handler:
    """aiosmtpd's hook for the extensions that it does not offer itself."""

    async def handle_EHLO(
        self, server: Connection, session: Session, _: Envelope, hostname: str, lines: list[str]
    ) -> list[str]:
        session.host_name = hostname
        offered = [line for line in lines[:-1] if server.offers_auth or line[4:8] != "AUTH"]
        return [*offered, "250-PIPELINING", "250 ENHANCEDSTATUSCODES"]


class _Session(Session):
    """aiosmtpd's session; its own `login_data` writes a warning to the log with each AUTH."""

    login_data: Any = None


class Connection(SMTP):
    """One client's connection, which can greet and be refused, and nothing more."""

    line_length_limit = MAX_COMMAND_OCTETS  # the reader's; content is read by `receive`
    command_size_limit = MAX_COMMAND_OCTETS
    # Shared by all sessions, as in the base, which looks into it for each command.
    command_size_limits = collections.defaultdict(lambda: MAX_COMMAND_OCTETS)  # noqa: RUF012 — shared on purpose, see above

    def __init__(self, parts: ListenerParts, sessions: Sessions) -> None:
        certificate = parts.certificate
        super().__init__(
            _Handler(),
            data_size_limit=parts.max_message_bytes,
            enable_SMTPUTF8=True,
            hostname=parts.host_name,
            ident="ESMTP MailRelay",
            tls_context=certificate.context if certificate else None,
            timeout=IDLE_SECONDS,
            auth_required=False,  # policy says when
            auth_exclude_mechanism=("CRAM-MD5",),
            authenticator=self._take_login,
            loop=asyncio.get_running_loop(),
        )
        self._parts = parts
        self._listener = sessions
        self._client = Client("", is_local=False)
        self._plain_reply = False
        self._errors = 0
        self.in_data = False

    @property
    def offers_auth(self) -> bool:
        """Whether there is anyone who could authenticate."""
        return self._parts.authenticator.has_users

    def _take_login(self, *_: Any) -> AuthResult:  # noqa: ANN401 — aiosmtpd's signature
        raise NotImplementedError

    def _create_session(self) -> Session:
        return _Session(self.loop)

    def _set_rset_state(self) -> None:
        super()._set_rset_state()  # type: ignore[no-untyped-call]
        self._end_transaction()

    def _end_transaction(self) -> None:
        """Let go of what a transaction holds; `session` knows what that is."""

    # Beginning and end.
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet a client (in a task that the base makes)."""
        address = peer_address(transport)
        self._client = Client(address, is_local=is_local_address(address))
        self._listener.opened(self)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        """Forget a client. Once is enough, and twice does no harm."""
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
            if refusal is replies.CLIENT_DENIED:
                self._log_rejection(refusal, "connect")
            await self._say(refusal)
            assert self.transport is not None  # noqa: S101 — set by connection_made
            self.transport.close()
            return
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await super()._handle_client()

    def _timeout_cb(self) -> None:
        if self.transport is not None and self.transport.is_closing():
            self._writer.transport.abort()
        else:
            self.say_and_close(replies.IDLE)

    def say_shutting_down(self) -> None:
        """Tell the client to come again, and close the connection."""
        self.say_and_close(replies.SHUTTING_DOWN)

    def say_and_close(self, reply: Reply) -> None:
        """Close the connection with a last word, without waiting."""
        if self.transport is not None and not self.transport.is_closing():
            self._writer.write(f"{reply}\r\n".encode())
            self.transport.close()
            self._reset_timeout(LAST_REPLY_SECONDS)

    async def handle_exception(self, error: Exception) -> str:
        """Log what went wrong in our code and tell the client to come again: never a 5xx."""
        self._log_exception(error)
        return str(replies.LOCAL_ERROR)

    def _log_exception(self, error: Exception) -> None:
        self._parts.log.error("smtp.exception", exc_info=error, client=self._client.address)

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
        count_rejection(status)
        if status[:3] in _NO_ERRORS:
            return
        self._errors += 1
        if self._errors == MAX_ERRORS and self.transport is not None:
            self.say_and_close(replies.TOO_MANY_ERRORS)
            raise ConnectionResetError  # the one kind that aiosmtpd takes for a lost client

    # The client's name.
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


def peer_address(transport: asyncio.BaseTransport) -> str:
    """Return the client's address, empty when it is gone already."""
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if peer else ""


def count_rejection(status: str) -> None:
    """Count a refusal by its code and enhanced code."""
    _rejections.labels(" ".join(status.split(" ", 2)[:2])).inc()


def _with_enhanced_code(status: str) -> str:
    code, text = status[:3], status[4:]
    enhanced = replies.ENHANCED_BY_CODE.get(code)
    if enhanced is None or text[1:2] == "." or status[3:4] == "-":
        return status
    return f"{code} {enhanced} {text}"
