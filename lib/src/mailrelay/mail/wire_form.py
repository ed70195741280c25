"""From wire form back to the message: undo the dot-stuffing of RFC 5321 section 4.5.2."""

from __future__ import annotations


class DotUnstuffer:
    """Takes content in pieces, cut anywhere, and returns it with one dot off each such line."""

    def __init__(self) -> None:
        self._tail = b"\r\n"  # what came before; the content begins a line

    def feed(self, piece: bytes) -> bytes:
        """Return the next piece without the dots that were stuffed."""
        joined = self._tail + piece
        kept = joined.replace(b"\r\n.", b"\r\n")
        # A line end stays behind as context, of which the dot may come with the next piece. A dot
        # that was taken off is no context any more.
        before = len(self._tail)
        self._tail = _line_end(joined)
        return kept[before:]


def _line_end(octets: bytes) -> bytes:
    """Return how much of a line end the octets end with."""
    if octets.endswith(b"\r\n"):
        return b"\r\n"
    return b"\r" if octets.endswith(b"\r") else b""
