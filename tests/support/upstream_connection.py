"""One connection to the upstream: a protocol that works through what has arrived.

Policy: answer in the order of the commands and write as late as possible (all
replies to a pipelined group leave together, RFC 2920 §3.2); never look at the
next command while an answer is held back; find the end of data with one scan
over the chunks, whatever their size.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from typing import TYPE_CHECKING, cast

from tests.support import dots
from tests.support.deliveries import Delivery, summarise
from tests.support.replies import Reply
from tests.support.scripting import (
    ACCEPT,
    Accept,
    AcceptThenClose,
    Action,
    Close,
    CloseInContent,
    Context,
    Delay,
    Garbage,
    Stage,
    Stall,
)
from tests.support.scripts import accept_all

if TYPE_CHECKING:
    from tests.support.upstream import ScriptedUpstream

# RFC 4954 §4.3 is the longest line a conforming client may send: 12288 octets.
MAX_LINE_BYTES = 12_288

# Held back while a script makes the client wait; then its socket is not read.
MAX_HELD_BYTES = 1024 * 1024

TLS_HANDSHAKE_SECONDS = 10.0

OK = Reply(250, "2.0.0 Ok")


class UpstreamConnection(asyncio.Protocol):
    """The server's side of one connection."""

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self._upstream = upstream
        self._offers = upstream.extensions
        self._transport: asyncio.Transport
        self._buffer = bytearray()
        self._out = bytearray()
        self._held = False  # an answer is held back: nothing more is read from the buffer
        self._over = False
        self._lost = False
        self._timer: asyncio.TimerHandle | None = None
        self._upgrade: asyncio.Task[None] | None = None
        self._in_content = False
        self._scan_from = 0
        self._drop_after: CloseInContent | None = None
        self._turned_away = False  # 554 at CONNECT: only QUIT is left (RFC 5321 §3.1)
        self._greeted = False
        self._user: str | None = None
        self._in_transaction = False
        self._mail_from = ""
        self._mail_params: tuple[str, ...] = ()
        self._rcpt_tos: list[str] = []
        self._argument: tuple[str, tuple[str, ...]] = ("", ())  # of the command being asked about
        self._content = b""
        self._wire = b""
        self.transaction = 0
        self.connection = 0
        self.tls = False

    # --- the connection -------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.tls = transport.get_extra_info("sslcontext") is not None
        self.connection = self._upstream.session_began(self)
        self._ask(Stage.CONNECT)
        self._pump()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._held:
            self._pump()
        elif len(self._buffer) > MAX_HELD_BYTES and not self._over:
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._lost:
            return
        self._lost = self._over = True
        if self._timer is not None:
            self._timer.cancel()
        self._end_transaction()
        self._upstream.session_ended(self)

    def drop(self, *, reset: bool = False) -> None:
        """End the connection, after what was already answered, or with a reset."""
        self._over = True
        if reset:
            self._out.clear()
            sock = self._transport.get_extra_info("socket")
            # Linger on, zero seconds: close() sends RST and forgets what is unsent.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
        else:
            self._flush()
            self._transport.close()

    def abort(self) -> None:
        """End the connection now; used when the upstream stops."""
        self._over = True
        if self._upgrade is not None:
            self._upgrade.cancel()
        self._transport.abort()

    @property
    def in_transaction(self) -> bool:
        """Whether MAIL was accepted and its transaction is still open."""
        return self._in_transaction

    def _flush(self) -> None:
        if self._out:
            self._transport.write(bytes(self._out))
            self._out.clear()

    def _say(self, reply: Reply) -> None:
        self._out += reply.wire

    # --- the script -----------------------------------------------------------

    def _ask(self, stage: Stage, nth: int = 0) -> None:
        script = self._upstream.script
        if script is accept_all:
            self._move_on(stage, None)
            return
        context = Context(
            connection=self.connection,
            transaction=self.transaction,
            address=self._argument[0] if stage in {Stage.MAIL, Stage.RCPT} else "",
            nth=nth,
            mail_from=self._mail_from,
            rcpt_tos=tuple(self._rcpt_tos),
            content=self._content,
            tls=self.tls,
            auth=self._user,
        )
        self._perform(stage, script(stage, context))

    def _perform(self, stage: Stage, action: Action) -> None:  # noqa: C901 - one case an action
        match action:
            case Accept():
                self._move_on(stage, None)
            case Reply(code=code):
                if code // 100 == (3 if stage is Stage.DATA else 2):
                    self._move_on(stage, action)
                else:
                    self._say(action)
                    self._stay(stage)
                    if code == 421:  # RFC 5321 §3.8
                        self.drop()
            case Delay(seconds, then):
                self._hold(seconds, stage, then)
            case Stall(seconds):
                self._hold(seconds, stage, ACCEPT)
            case Garbage(octets):
                self._out += octets
                self._stay(stage)
            case Close(reset):
                self.drop(reset=reset)
            case AcceptThenClose(reset):
                self._flush()
                if stage is Stage.FINAL_DOT:
                    self._take()
                self.drop(reset=reset)
            case CloseInContent():
                self._drop_after = action
                self._move_on(stage, None)

    def _hold(self, seconds: float | None, stage: Stage, then: Action) -> None:
        self._held = True
        self._flush()
        if seconds is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(seconds, self._resume, stage, then)

    def _resume(self, stage: Stage, action: Action) -> None:
        if self._over:
            return
        self._held = False
        self._timer = None
        self._transport.resume_reading()
        self._perform(stage, action)
        self._pump()

    def _stay(self, stage: Stage) -> None:
        """Stand as after a refusal."""
        if stage is Stage.CONNECT:
            self._turned_away = True
        elif stage is Stage.FINAL_DOT:
            self._end_transaction()

    def _move_on(self, stage: Stage, reply: Reply | None) -> None:  # noqa: C901 - one case a stage
        match stage:
            case Stage.MAIL:
                self._in_transaction = True
                self._mail_from, self._mail_params = self._argument
                self._upstream.transaction_began()
                self._say(reply or OK)
            case Stage.RCPT:
                self._rcpt_tos.append(self._argument[0])
                self._say(reply or OK)
            case Stage.DATA:
                self._in_content = True
                # The line end before the content counts for a dot in its first line.
                self._buffer[0:0] = b"\r\n"
                self._scan_from = 0
                self._say(reply or Reply(354, "End data with <CR><LF>.<CR><LF>"))
            case Stage.FINAL_DOT:
                queue_id = self._take()
                self._say(reply or Reply(250, f"2.0.0 Ok: queued as {queue_id}"))
            case Stage.CONNECT:
                self._say(reply or Reply(220, f"{self._upstream.name} ESMTP"))
            case Stage.EHLO:
                self._end_transaction()
                self._greeted = True
                self._say(reply or self._ehlo_reply())
            case Stage.STARTTLS:
                self._say(reply or Reply(220, "2.0.0 Ready to start TLS"))
                self._start_tls()
            case Stage.AUTH:
                self._user = self._argument[0]
                self._say(reply or Reply(235, "2.7.0 Authentication successful"))
            case Stage.RSET:
                self._end_transaction()
                self._say(reply or OK)
            case Stage.QUIT:
                self._say(reply or Reply(221, "2.0.0 Bye"))
                self.drop()

    def _ehlo_reply(self) -> Reply:
        if self._argument[0] == "HELO":
            return Reply(250, self._upstream.name)
        keywords = self._offers.keywords(tls=self.tls, authenticated=self._user is not None)
        return Reply(250, "\n".join([self._upstream.name, *keywords]))

    # --- commands and content ---------------------------------------------------

    def _pump(self) -> None:
        while not self._held and not self._over:
            if self._in_content:
                if not self._scan_content():
                    break
                continue
            end = self._buffer.find(b"\r\n")
            if end < 0:
                if len(self._buffer) > MAX_LINE_BYTES:
                    self._say(Reply(500, "5.5.6 Line too long"))
                    self.drop()
                break
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 2]
            self._command(line)
        if not self._over:
            self._flush()

    def _scan_content(self) -> bool:
        buffer = self._buffer
        end = buffer.find(dots.END_OF_DATA, self._scan_from)
        drop = self._drop_after
        if drop is not None and (len(buffer) - 2 >= drop.after_bytes or end >= 0):
            self.drop(reset=drop.reset)
            return False
        if end < 0:
            # The end may begin in the last four octets seen.
            self._scan_from = max(0, len(buffer) - len(dots.END_OF_DATA) + 1)
            return False
        wire = bytes(memoryview(buffer)[2 : end + 2])
        del buffer[: end + len(dots.END_OF_DATA)]
        self._in_content = False
        self._content = dots.unstuff(wire)
        self._wire = wire if self._upstream.keep_wire else b""
        self._note_content(wire)
        limit = self._offers.size
        if limit is not None and len(self._content) > limit:
            self._say(Reply(552, "5.3.4 Message too big"))
            self._end_transaction()
        else:
            self._ask(Stage.FINAL_DOT)
        return True

    def _note_content(self, wire: bytes) -> None:
        if dots.has_bare_line_end(wire):
            self._violation("bare CR or LF in content")
        if dots.has_unstuffed_line(wire):
            self._violation("line with one leading dot in content")
        if not wire.isascii() and not {"BODY=8BITMIME", "SMTPUTF8"} & {
            param.upper() for param in self._mail_params
        }:
            self._violation("8-bit content without BODY=8BITMIME")  # RFC 6152 §3

    def _take(self) -> str:
        upstream = self._upstream
        content, summary = self._content, summarise(self._content)
        delivery = Delivery(
            mail_from=self._mail_from,
            mail_params=self._mail_params,
            rcpt_tos=tuple(self._rcpt_tos),
            content=content if upstream.keep_content else b"",
            wire=self._wire,
            size=summary.size,
            sha256=summary.sha256,
            body_sha256=summary.body_sha256,
            message_id=summary.message_id,
            ledger_id=summary.ledger_id,
            tls=self.tls,
            auth=self._user,
            connection=self.connection,
            transaction=self.transaction,
            time=time.time(),
        )
        self._end_transaction()
        upstream.take(delivery)
        return f"U{delivery.transaction}"

    def _end_transaction(self) -> None:
        if self._in_transaction:
            self._in_transaction = False
            self._upstream.transaction_ended()
        self._in_content = False
        self._mail_from, self._mail_params, self._rcpt_tos = "", (), []
        self._content = self._wire = b""

    def _violation(self, what: str) -> None:
        self._upstream.violations.append(f"connection {self.connection}: {what}")

    def _command(self, line: bytes) -> None:
        raise NotImplementedError

    # --- STARTTLS -----------------------------------------------------------------

    def _start_tls(self) -> None:
        self._flush()
        # What came in plain text must not be taken for protected (RFC 3207 §6, CVE-2011-0411).
        self._buffer.clear()
        self._held = True
        self._transport.pause_reading()
        self._upgrade = asyncio.get_running_loop().create_task(self._shake_hands())

    async def _shake_hands(self) -> None:
        context = self._offers.starttls
        if context is None:
            return
        loop = asyncio.get_running_loop()
        try:
            transport = await loop.start_tls(
                self._transport,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=TLS_HANDSHAKE_SECONDS,
            )
        except OSError as error:  # ssl.SSLError and ConnectionError are such
            self._upstream.tls_failures.append(str(error))
            self._transport.abort()
            self.connection_lost(error)  # asyncio does not tell the protocol of this one
            return
        except asyncio.CancelledError:
            self._transport.abort()
            self.connection_lost(None)
            raise
        finally:
            self._upgrade = None
        if transport is None:
            self.connection_lost(None)
            return
        self._transport = transport
        self.tls = True
        # RFC 3207 §4.2: the session begins anew.
        self._greeted = False
        self._user = None
        self._held = False
        self._pump()
