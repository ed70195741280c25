"""Transparency (RFC 5321 §4.5.2): only CRLF ends a line, whatever else looks like one.

Bare CR and bare LF are never line ends here; a server or client that takes them
for such is what SMTP smuggling (CVE-2023-51764 and its siblings) is made of.
"""

from __future__ import annotations

END_OF_DATA = b"\r\n.\r\n"


def stuff(content: bytes) -> bytes:
    """Make the octets that follow a 354, the final dot included.

    Content that does not end in CRLF is given one: the protocol cannot carry
    it otherwise (RFC 5321 §4.1.1.4).
    """
    stuffed = content.replace(b"\r\n.", b"\r\n..")
    if stuffed.startswith(b"."):
        stuffed = b"." + stuffed
    if stuffed and not stuffed.endswith(b"\r\n"):
        stuffed += b"\r\n"
    return stuffed + b".\r\n"


def unstuff(wire: bytes) -> bytes:
    """Take the first dot off each line that begins with one; no final dot is expected."""
    content = wire.replace(b"\r\n.", b"\r\n") if b"\r\n." in wire else wire
    return content[1:] if content.startswith(b".") else content


def has_unstuffed_line(wire: bytes) -> bool:
    """Whether a line begins with one dot only, which a conforming client never sends."""
    if wire.startswith(b".") and not wire.startswith(b".."):
        return True
    return wire.count(b"\r\n.") != wire.count(b"\r\n..")


def has_bare_line_end(content: bytes) -> bool:
    """Whether a CR or an LF stands alone (RFC 5321 §2.3.8 forbids both)."""
    pairs = content.count(b"\r\n")
    return content.count(b"\n") != pairs or content.count(b"\r") != pairs
