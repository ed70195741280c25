"""One HTTP client's connection: uvicorn's, but no client may hold it without doing anything.

uvicorn waits for ever for a request, for the rest of one, and for a client to read the answer. A
few hundred such clients, who need no right to ask anything, would keep everybody else from it.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

STALL_SECONDS = 15.0  # what moves nothing from one look to the next is cut off
# What somebody who reads has to read in that time, some 1 KB a second: less is as good as nothing.
LEAST_READ_BYTES = 16 * 1024


class HttpConnection(H11Protocol):
    """Cuts itself off when its client stands still. An answer may take its time to be made."""

    _look: asyncio.TimerHandle
    _answered = 0
    _drained = 0
    _seen: tuple[str, *tuple[int, ...]] | None = ("asking", 0)

    # uvicorn narrows the type of what asyncio hands over in the same way.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to look."""
        super().connection_made(transport)
        self._look_later()

    def connection_lost(self, exc: Exception | None) -> None:
        """Look no more."""
        self._look.cancel()
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        """Note that the client reads."""
        self._drained += 1
        super().resume_writing()

    def on_response_complete(self) -> None:
        """Note that a request was answered."""
        self._answered += 1
        super().on_response_complete()

    def _look_later(self) -> None:
        self._look = asyncio.get_running_loop().call_later(STALL_SECONDS, self._look_now)

    def _look_now(self) -> None:
        waiting_for = self._waiting_for()
        if waiting_for is not None and waiting_for == self._seen:
            self.transport.abort()
            return
        self._seen = waiting_for
        self._look_later()

    def _waiting_for(self) -> tuple[str, *tuple[int, ...]] | None:
        """Return what the client has to do now, and how far it is with it; None: nothing."""
        # First, because the last of an answer waits here when uvicorn is done with it.
        if unread := self.transport.get_write_buffer_size():
            return "reading", self._drained, unread // LEAST_READ_BYTES
        # uvicorn's type leaves out that there is none before the first request.
        if self.cycle is None or self.cycle.response_complete:  # type: ignore[redundant-expr]
            return "asking", self._answered
        if self.cycle.more_body:
            return "saying", self._answered
        return None
