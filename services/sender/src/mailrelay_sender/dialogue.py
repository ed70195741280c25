"""Commands and replies on an open connection: any number of commands may be under way.

aiosmtplib connects (greeting, EHLO, STARTTLS, AUTH), one command after the other. For transactions
this takes its transport over, because there a round trip each for MAIL, RCPT and DATA is what costs
most: they leave together where the server offers PIPELINING (RFC 2920, docs/decisions/0031).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from mailrelay.mail.reply import Reply

MAX_LINE_BYTES = 8192
# Of one reply with all its lines: what a server may make us keep.
MAX_REPLY_BYTES = 4 * MAX_LINE_BYTES
_CONTROLS = bytes([*range(0x20), 0x7F])
_CODE_DIGITS = 3
_CONTINUES = b"-"
_UNBALANCED = "an answer to no command"


class DialogueError(Exception):
    """The connection cannot be used any more; the text says why."""


class Dialogue(asyncio.Protocol):
    """An upstream's answers, in the order of what it was told."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[asyncio.Future[Reply]] = deque()
        self._octets = bytearray()
        self._lines: list[bytes] = []  # of a reply that goes on
        self._ended = ""  # why, when it is over
        self._room: asyncio.Future[None] | None = None  # set while the transport takes no more

    @classmethod
    def take_over(cls, transport: asyncio.Transport) -> Dialogue:
        """Read what comes on a transport from now on. Nothing may be under way on it."""
        dialogue = cls()
        dialogue._transport = transport
        transport.set_protocol(dialogue)
        return dialogue

    @property
    def is_open(self) -> bool:
        """Whether the connection still stands, as far as we know."""
        return not self._ended and self._transport is not None and not self._transport.is_closing()

    def tell_nowait(self, commands: Sequence[tuple[bytes, ...]]) -> list[asyncio.Future[Reply]]:
        """Send commands, each of some words, in one piece; the replies come in their order.

        A reply's future raises DialogueError when the connection ends before it. Raises
        DialogueError when it has ended already, ValueError for a control character in a word.
        """
        lines = []
        for words in commands:
            line = b" ".join(words)
            if line.translate(None, _CONTROLS) != line:
                raise ValueError("a command must have no control character")
            lines.append(line)
        self._write(b"\r\n".join((*lines, b"")))
        replies = [self._loop.create_future() for _ in lines]
        self._waiting += replies
        return replies

    async def tell(self, *words: bytes) -> Reply:
        """Send one command and return its reply. Raises as `tell_nowait` and its futures do."""
        [reply] = self.tell_nowait([words])
        return await reply

    async def send(self, octets: bytes | memoryview) -> None:
        """Send content; returns when there is room for more. Raises DialogueError."""
        self._write(octets)
        if self._room is not None:
            await self._room

    def _write(self, octets: bytes | memoryview) -> None:
        if self._transport is None or not self.is_open:
            raise DialogueError(self._ended or "closed")
        self._transport.write(octets)

    def abort(self) -> None:
        """Drop the connection at once."""
        self._end("closed")

    # What the transport calls.
    def data_received(self, octets: bytes) -> None:
        """Give each complete reply to whoever waits for it."""
        self._octets += octets
        start = 0
        while (end := self._octets.find(b"\n", start)) >= 0:
            line = bytes(self._octets[start:end])
            start = end + 1
            if not self._take_line(line.rstrip(b" \t\r")):
                return
        del self._octets[:start]
        kept = len(self._octets) + sum(map(len, self._lines))
        if len(self._octets) > MAX_LINE_BYTES or kept > MAX_REPLY_BYTES:
            self._end("the reply is too long")

    def _take_line(self, line: bytes) -> bool:
        """Take a reply's line; False when it ended the connection."""
        code = line[:_CODE_DIGITS]
        if len(line) > MAX_LINE_BYTES or not (len(code) == _CODE_DIGITS and code.isdigit()):
            shown = line[:100].decode("utf-8", "replace")
            self._end(f"malformed reply: {shown}")
            return False
        self._lines.append(line[_CODE_DIGITS + 1 :].strip())
        if line[_CODE_DIGITS : _CODE_DIGITS + 1] == _CONTINUES:
            return True
        text = b"\n".join(self._lines).decode("utf-8", "surrogateescape")
        self._lines.clear()
        if not self._waiting:
            # 421 before it closes (RFC 5321 section 3.8), or a server that lost count: whatever
            # came next would be taken for the answer to another command.
            self._end(f"{_UNBALANCED}: {code.decode()} {text}")
            return False
        reply = self._waiting.popleft()
        if not reply.done():  # or its waiter went away
            reply.set_result(Reply.parse(int(code), text))
        return True

    def eof_received(self) -> bool:
        """The server ends the connection, and so do we."""
        self._end("the server closed the connection")
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Tell all who wait."""
        self._end(str(error or "") or "connection lost")

    def pause_writing(self) -> None:
        """Let writers wait."""
        if self._room is None:
            self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        """Let writers go on."""
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def _end(self, why: str) -> None:
        if not self._ended:
            self._ended = why
            if self._transport is not None:
                self._transport.abort()
        waiting, self._waiting = self._waiting, deque()
        for reply in waiting:
            if not reply.done():
                reply.set_exception(DialogueError(self._ended))
                reply.exception()  # seen: who asked may have gone at an earlier reply
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_exception(DialogueError(self._ended))
            room.exception()
