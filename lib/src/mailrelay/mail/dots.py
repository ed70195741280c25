"""Take the stuffed dots out of content in wire form (RFC 5321 section 4.5.2), piece by piece."""

from __future__ import annotations

_TAIL = 2  # of what was fed before: a line end may be cut anywhere


class Unstuffer:
    """Feed it content in pieces; what comes back is the message as its author wrote it."""

    def __init__(self) -> None:
        self._tail = b"\r\n"  # the beginning counts as the beginning of a line

    def feed(self, piece: bytes) -> bytes:
        """Return the piece without the dots that stand for nothing."""
        if not piece:
            return b""
        kept = len(self._tail)
        wire = self._tail + piece
        self._tail = wire[-_TAIL:]
        return wire.replace(b"\r\n.", b"\r\n")[kept:]
