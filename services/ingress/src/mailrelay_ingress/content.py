r"""The octets behind DATA: where they end, and what they must not contain. Pure and incremental.

The end is `<CRLF>.<CRLF>` and nothing else. A bare CR or LF anywhere is refused at once, because
hosts that read one as a line end would see another message there (SMTP smuggling,
CVE-2023-51764). What is kept stays as it came over the wire, dots stuffed, so that it goes out
again unchanged.
"""

from __future__ import annotations

from enum import Enum

END_OF_DATA = b"\r\n.\r\n"
MAX_LINE_OCTETS = 1000  # with its CRLF (RFC 5321 section 4.5.3.1.6); a stuffed dot comes on top


class Fault(Enum):
    """What is wrong with a message's octets."""

    BARE_LINE_END = "bare CR or LF"
    LINE_TOO_LONG = "line too long"
    NUL = "NUL octet"


class ContentScanner:
    """Feed it what comes; it hands on the content and knows when it ended.

    `fault` is the first thing found wrong; after it the octets are still read to their end but
    no longer handed on.
    """

    def __init__(self) -> None:
        # The beginning of the content counts as the beginning of a line.
        self._carry = b"\r\n"
        self._skip = 2
        self._line_octets = 0  # of the unfinished line that was handed on already
        self._line_dot = False  # whether that line begins with a dot
        self.ended = False
        self.rest = b""  # what the client sent behind the end: its next commands
        self.fault: Fault | None = None

    def feed(self, chunk: bytes) -> bytes:
        """Take the next octets and return content to keep (it may lag behind by a few octets)."""
        octets = self._carry + chunk if self._carry else chunk
        end = octets.find(END_OF_DATA)
        if end >= 0:
            self.ended = True
            self.rest = octets[end + len(END_OF_DATA) :]
            ready, self._carry = octets[: end + 2], b""
        else:
            keep = len(END_OF_DATA) - 1
            cut = max(0, len(octets) - keep)
            # A CRLF is judged whole: never cut between its two octets.
            if cut and octets[cut - 1] == _CR:
                cut -= 1
            ready, self._carry = octets[:cut], octets[cut:]
            pairs = self._carry.count(b"\r\n")
            feeds, returns = self._carry.count(b"\n"), self._carry[:-1].count(b"\r")
            if feeds != pairs or returns != pairs:
                # Said at once: a client that ended its mail by a bare LF or CR waits for the reply.
                self.fault = self.fault or Fault.BARE_LINE_END
        if self._skip:
            dropped = min(self._skip, len(ready))
            ready = ready[dropped:]
            self._skip -= dropped
        if not self.fault:
            self._check(ready)
        return b"" if self.fault else ready

    def _check(self, octets: bytes) -> None:
        line_feeds = octets.count(b"\n")
        if line_feeds != octets.count(b"\r\n") or line_feeds != octets.count(b"\r"):
            self.fault = Fault.BARE_LINE_END
        elif b"\0" in octets:
            self.fault = Fault.NUL
        elif self._has_long_line(octets):
            self.fault = Fault.LINE_TOO_LONG

    def _has_long_line(self, octets: bytes) -> bool:
        """Jump from line end to line end, nearly a full line's length at a time."""
        start, size = 0, len(octets)
        before, dot = self._line_octets, self._line_dot
        while True:
            if before == 0:
                dot = octets.startswith(b".", start)
            allowed = MAX_LINE_OCTETS + dot - before
            if size - start <= allowed:
                last = octets.rfind(b"\n", start)
                break
            last = octets.rfind(b"\n", start, start + allowed)
            if last < 0:
                return True
            start, before = last + 1, 0
        if last >= 0:
            self._line_octets = size - last - 1
            self._line_dot = octets.startswith(b".", last + 1)
        else:
            self._line_octets = before + size - start
            self._line_dot = dot
        return self._line_octets > MAX_LINE_OCTETS + 1


_CR = 0x0D
