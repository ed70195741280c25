"""One SMTP reply, the same value whether we send it or read it (RFC 5321 §4.2)."""

from __future__ import annotations

import re
from dataclasses import dataclass

# RFC 3463 §2: class "." subject "." detail, here at the start of a reply's text.
_ENHANCED = re.compile(r"^([245]\.\d{1,3}\.\d{1,3})(?: |$)")

# RFC 5321 §4.2: "%x32-35 %x30-35 %x30-39", then "-" or SP or the line's end.
_REPLY_LINE = re.compile(rb"^([2-5][0-5][0-9])(?:([ -])(.*))?$", re.DOTALL)

_QUEUE_ID = re.compile(r"queued as\s+<?([^\s<>]+)>?", re.IGNORECASE)


class MalformedReplyError(Exception):
    """What the peer sent is not a reply of RFC 5321 §4.2."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A code with its text; a line feed in the text makes a multi-line reply."""

    code: int
    text: str = ""

    @property
    def lines(self) -> tuple[str, ...]:
        """The text of each line, codes taken off."""
        return tuple(self.text.split("\n"))

    @property
    def enhanced(self) -> str | None:
        """The enhanced status code of the first line, when there is one (RFC 2034)."""
        match = _ENHANCED.match(self.text)
        return match.group(1) if match else None

    @property
    def queue_id(self) -> str | None:
        """The id in `250 2.0.0 ... queued as <id>`."""
        match = _QUEUE_ID.search(self.text)
        return match.group(1) if match else None

    @property
    def wire(self) -> bytes:
        """The octets on the wire, final CRLF included."""
        lines = self.lines
        wire = b"".join(f"{self.code}-{line}\r\n".encode() for line in lines[:-1])
        return wire + f"{self.code} {lines[-1]}\r\n".encode()

    def __str__(self) -> str:
        """Read as one line in a failure message."""
        return f"{self.code} {self.text}".replace("\n", " / ")


def parse_reply_line(line: bytes) -> tuple[int, bool, str]:
    """Read one line without its CRLF: the code, whether it is the last, the text."""
    match = _REPLY_LINE.match(line)
    if match is None:
        message = f"not a reply line: {line!r}"
        raise MalformedReplyError(message)
    code, separator, text = match.groups()
    return int(code), separator != b"-", (text or b"").decode("utf-8", "surrogateescape")
