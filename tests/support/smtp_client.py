"""A dialogue spoken by hand, octet by octet, for what no proper client would send.

Every wait has a limit, and every failure shows the transcript: a failing test
is to be read without running it again.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from tests.support import dots
from tests.support.replies import MalformedReplyError, Reply, parse_reply_line

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Sequence
    from typing import Self

T = TypeVar("T")

LIMIT_SECONDS = 10.0

# How much of a long line the transcript shows.
SHOWN_OCTETS = 200


class ConnectionEndedError(AssertionError):
    """The peer closed or reset the connection where a reply was due."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """The replies to one transaction; `None` where the command was not sent."""

    mail: Reply
    rcpts: tuple[Reply, ...]
    data: Reply | None
    final: Reply | None

    @property
    def accepted(self) -> bool:
        """Whether the peer took the message, for the recipients it answered 250."""
        return self.final is not None and self.final.code == 250

    @property
    def queue_id(self) -> str | None:
        """The id in the final reply."""
        return self.final.queue_id if self.final is not None else None


class SmtpDialogue:
    """The client's side of one connection."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit_seconds: float
    ) -> None:
        self._reader = reader
        self._writer = writer
        self.limit_seconds = limit_seconds
        self.transcript: list[str] = []
        self.extensions: dict[str, str] = {}  # of the last EHLO: keyword to parameters

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
        cls,
        host: str,
        port: int,
        *,
        local_address: str | None = None,
        tls: ssl.SSLContext | None = None,
        limit_seconds: float = LIMIT_SECONDS,
    ) -> AsyncIterator[Self]:
        """Connect, with TLS from the first octet when a context is given; close at the end."""
        async with asyncio.timeout(limit_seconds):
            reader, writer = await asyncio.open_connection(
                host,
                port,
                local_addr=(local_address, 0) if local_address is not None else None,
                ssl=tls,
                server_hostname="localhost" if tls is not None else None,
            )
        dialogue = cls(reader, writer, limit_seconds)
        try:
            yield dialogue
        finally:
            await dialogue.close()

    @classmethod
    @contextlib.asynccontextmanager
    async def greeted(cls, host: str, port: int, name: str = "client.test") -> AsyncIterator[Self]:
        """Connect and come as far as after EHLO."""
        async with cls.connect(host, port) as dialogue:
            await dialogue.expect(220)
            await dialogue.ehlo(name)
            yield dialogue

    def send_raw(self, octets: bytes) -> None:
        """Send octets as they are."""
        self._note("C", octets)
        self._writer.write(octets)

    async def drain(self) -> None:
        """Wait until the peer has read enough for more to be sent."""
        await self._limited(self._writer.drain(), "the peer to read")

    async def read_reply(self) -> Reply:
        """Read one reply, all its lines."""
        texts: list[str] = []
        first_code: int | None = None
        while True:
            line = await self._read_line()
            try:
                code, last, text = parse_reply_line(line)
            except MalformedReplyError as error:
                raise AssertionError(self._explain(str(error))) from error
            if first_code is not None and code != first_code:
                raise AssertionError(self._explain(f"{code} within a reply of {first_code}"))
            first_code = code
            texts.append(text)
            if last:
                return Reply(code, "\n".join(texts))

    async def expect(self, *codes: int) -> Reply:
        """Read one reply, which must have one of the codes."""
        reply = await self.read_reply()
        if codes and reply.code not in codes:
            wanted = " or ".join(str(code) for code in codes)
            raise AssertionError(self._explain(f"expected {wanted}, got {reply}"))
        return reply

    async def cmd(self, line: str | bytes, *codes: int) -> Reply:
        """Send one command line and read its reply; any code will do when none is given."""
        self.send_raw((line if isinstance(line, bytes) else line.encode()) + b"\r\n")
        return await self.expect(*codes)

    async def ehlo(self, name: str = "client.test") -> dict[str, str]:
        """Send EHLO and read the keywords that are offered, in upper case."""
        reply = await self.cmd(f"EHLO {name}", 250)
        pairs = (line.partition(" ") for line in reply.lines[1:])
        self.extensions = {keyword.upper(): rest for keyword, _, rest in pairs}
        return self.extensions

    async def starttls(self, context: ssl.SSLContext, server_hostname: str = "localhost") -> None:
        """Send STARTTLS and shake hands; what was known of the session is forgotten."""
        await self.cmd("STARTTLS", 220)
        await self.shake_hands(context, server_hostname)

    async def shake_hands(self, context: ssl.SSLContext, server_hostname: str) -> None:
        """Start TLS on the connection as it stands."""
        async with asyncio.timeout(self.limit_seconds):
            await self._writer.start_tls(context, server_hostname=server_hostname)
        self.transcript.append("-- TLS")
        self.extensions = {}

    async def auth_plain(self, user: str, password: str, *codes: int) -> Reply:
        """Authenticate with PLAIN and an initial response (RFC 4616)."""
        response = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
        return await self.cmd(f"AUTH PLAIN {response}", *codes)

    async def submit(
        self,
        mail_from: str,
        rcpts: Sequence[str],
        content: bytes,
        *,
        mail_params: str = "",
        pipelined: bool = False,
    ) -> Submitted:
        """Go through one transaction; content is dot-stuffed here, nothing else is changed."""
        mail_line = f"MAIL FROM:<{mail_from}> {mail_params}".rstrip()
        rcpt_lines = [f"RCPT TO:<{rcpt}>" for rcpt in rcpts]
        if pipelined:
            lines = [mail_line, *rcpt_lines, "DATA"]
            self.send_raw("".join(f"{line}\r\n" for line in lines).encode())
            mail = await self.read_reply()
            answers = tuple([await self.read_reply() for _ in rcpts])
            data = await self.read_reply()
        else:
            mail = await self.cmd(mail_line)
            if mail.code != 250:
                return Submitted(mail, (), None, None)
            answers = tuple([await self.cmd(line) for line in rcpt_lines])
            if not any(answer.code in {250, 251} for answer in answers):
                await self.cmd("RSET")
                return Submitted(mail, answers, None, None)
            data = await self.cmd("DATA")
        if data.code != 354:
            return Submitted(mail, answers, data, None)
        if any(answer.code in {250, 251} for answer in answers):
            self.send_raw(dots.stuff(content))
            await self.drain()
        else:
            self.send_raw(b".\r\n")  # RFC 2920 §3.1: 354 though every RCPT was refused
        return Submitted(mail, answers, data, await self.read_reply())

    async def expect_closed(self) -> None:
        """Wait until the peer ends the connection; it must say nothing more."""
        try:
            rest = await self._limited(self._reader.read(SHOWN_OCTETS), "the peer to close")
        except ConnectionEndedError:
            return
        if rest:
            raise AssertionError(self._explain(f"expected the end, got {rest!r}"))

    async def quit(self) -> None:
        """End the session as is proper."""
        await self.cmd("QUIT", 221)
        await self.expect_closed()

    def reset(self) -> None:
        """Drop the connection with a RST, unsent octets with it."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def end_sending(self) -> None:
        """Half-close: the peer reads the end of our octets and can still answer."""
        self._writer.write_eof()

    async def close(self) -> None:
        """Close at once, without QUIT."""
        self._writer.close()
        # What comes of closing is of no interest any more.
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.wait_for(self._writer.wait_closed(), 1.0)

    async def _read_line(self) -> bytes:
        line = await self._limited(self._reader.readline(), "a reply")
        if not line:
            raise ConnectionEndedError(self._explain("connection closed while a reply was due"))
        self._note("S", line)
        if not line.endswith(b"\r\n"):
            raise AssertionError(self._explain("a reply line must end in CRLF"))
        return line[:-2]

    async def _limited(self, wait: Awaitable[T], what: str) -> T:
        try:
            async with asyncio.timeout(self.limit_seconds):
                return await wait
        except TimeoutError as error:
            waited = f"waited {self.limit_seconds:g} s for {what}"
            raise AssertionError(self._explain(waited)) from error
        except ConnectionError as error:
            ended = f"connection ended while waiting for {what}: {error!r}"
            raise ConnectionEndedError(self._explain(ended)) from error

    def _note(self, who: str, octets: bytes) -> None:
        shown = octets if len(octets) <= SHOWN_OCTETS else octets[:SHOWN_OCTETS] + b"..."
        self.transcript.append(f"{who}: {shown!r} ({len(octets)} octets)")

    def _explain(self, what: str) -> str:
        return "\n".join([what, "transcript:", *(f"  {line}" for line in self.transcript[-40:])])
