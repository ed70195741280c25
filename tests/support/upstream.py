"""An SMTP server of our own, on a real socket, that answers as a script says.

It stands for the smart host or MX that the relay delivers to. It is lenient in
what it answers and strict in what it notes: `violations` must stay empty for a
client that keeps to RFC 5321, 2920, 3207 and 6152.

Counters and deliveries outlive a `stop()` and `start()`, so a test can take the
upstream away and bring it back without losing count. Between the two the port
stays reserved, and a connection to it is refused.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.support.extensions import Extensions
from tests.support.scripts import accept_all
from tests.support.upstream_session import UpstreamSession

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from tests.support.deliveries import Delivery
    from tests.support.scripting import Script
    from tests.support.upstream_connection import UpstreamConnection

# Connections that wait to be accepted: more than any test opens at once.
BACKLOG = 1024

# How often a waiter looks again when nothing happened here: its predicate may
# look at something else.
LOOK_AGAIN_SECONDS = 0.05


@dataclass(eq=False)
class ScriptedUpstream:
    """Set `script` at any time: the next command is answered by the new one."""

    script: Script = accept_all
    host: str = "127.0.0.1"
    port: int = 0  # 0: a free one, kept from the first start on
    extensions: Extensions = field(default_factory=Extensions)
    name: str = "upstream.test"
    keep_content: bool = True
    keep_wire: bool = False
    keep_received: bool = True  # False: only counted, for long load runs
    # Called before the client is answered: (address, nth, connection, transaction).
    on_rcpt: Callable[[str, int, int, int], None] | None = None
    on_delivery: Callable[[Delivery], None] | None = None
    on_login_refused: Callable[[int], None] | None = None  # by which reply

    received: list[Delivery] = field(default_factory=list, init=False)
    received_count: int = field(default=0, init=False)
    attempts: Counter[str] = field(default_factory=Counter, init=False)
    connections: int = field(default=0, init=False)
    open_connections: int = field(default=0, init=False)
    max_open_connections: int = field(default=0, init=False)
    in_flight: int = field(default=0, init=False)  # transactions, from MAIL to their end
    max_in_flight: int = field(default=0, init=False)
    transactions: int = field(default=0, init=False)
    violations: list[str] = field(default_factory=list, init=False)
    tls_failures: list[str] = field(default_factory=list, init=False)

    _sessions: set[UpstreamConnection] = field(default_factory=set, init=False)
    _server: asyncio.Server | None = field(default=None, init=False)
    _reserved: socket.socket | None = field(default=None, init=False)
    _changed: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    async def __aenter__(self) -> Self:
        """Start listening."""
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop, and give the port back."""
        await self.stop()
        self._release()

    async def start(self) -> None:
        """Listen; the port is the one of the last time."""
        if self._server is not None:
            return
        listener = self._reserved or self._bind()
        self._reserved = None
        offers = self.extensions
        self._server = await asyncio.get_running_loop().create_server(
            lambda: UpstreamSession(self),
            sock=listener,
            backlog=BACKLOG,
            ssl=offers.starttls if offers.implicit_tls else None,
        )

    async def stop(self, grace_seconds: float = 0.0) -> None:
        """Refuse new connections, let open transactions end within the grace, drop the rest."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        self._reserved = self._bind()
        if grace_seconds > 0 and self.in_flight:
            loop = asyncio.get_running_loop()
            deadline = loop.time() + grace_seconds
            while self.in_flight and loop.time() < deadline:
                await self._wait_change(deadline - loop.time())
        for session in list(self._sessions):
            session.abort()
        while self._sessions:
            await self._wait_change(LOOK_AGAIN_SECONDS)
        await server.wait_closed()

    def _bind(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((self.host, self.port))
        except OSError:
            sock.close()
            raise
        self.port = int(sock.getsockname()[1])
        return sock

    def _release(self) -> None:
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None

    def drop_connections(self, *, reset: bool = False) -> None:
        """Drop all open connections; the upstream goes on listening."""
        for session in list(self._sessions):
            session.drop(reset=reset)

    async def wait_received(self, count: int, timeout: float = 10.0) -> list[Delivery]:  # noqa: ASYNC109 - the limit belongs to the failure message
        """Wait for so many deliveries over the upstream's life."""
        await self.wait_until(lambda: self.received_count >= count, timeout, f"{count} deliveries")
        return self.received

    async def wait_until(
        self,
        predicate: Callable[[], object],
        timeout: float = 10.0,  # noqa: ASYNC109 - the limit belongs to the failure message
        what: str = "the condition",
    ) -> None:
        """Wait for a condition, looked at whenever something happens here."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while not predicate():
            remaining = deadline - loop.time()
            if remaining <= 0:
                raise AssertionError(f"not within {timeout:g} s: {what}\n{self.describe()}")
            await self._wait_change(min(remaining, LOOK_AGAIN_SECONDS))

    def describe(self) -> str:
        """Say what happened so far, for failure messages."""
        attempts = ", ".join(f"{who} x{times}" for who, times in self.attempts.most_common(10))
        return (
            f"upstream {self.host}:{self.port}: {self.received_count} received, "
            f"{self.connections} connections ({self.open_connections} open), "
            f"{self.in_flight} in flight; attempts: {attempts or 'none'}; "
            f"violations: {self.violations or 'none'}"
        )

    async def _wait_change(self, seconds: float) -> None:
        self._changed.clear()
        try:
            await asyncio.wait_for(self._changed.wait(), max(0.0, seconds))
        except TimeoutError:
            return

    # --- told by the sessions ---------------------------------------------------

    def session_began(self, session: UpstreamConnection) -> int:
        """Count a connection; its number is returned."""
        self._sessions.add(session)
        self.connections += 1
        self.open_connections += 1
        self.max_open_connections = max(self.max_open_connections, self.open_connections)
        self._changed.set()
        return self.connections

    def session_ended(self, session: UpstreamConnection) -> None:
        """Forget a connection."""
        self._sessions.discard(session)
        self.open_connections -= 1
        self._changed.set()

    def next_transaction(self) -> int:
        """Number a MAIL command."""
        self.transactions += 1
        return self.transactions

    def transaction_began(self) -> None:
        """Count a transaction as in flight."""
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def transaction_ended(self) -> None:
        """Count a transaction as over, however it ended."""
        self.in_flight -= 1
        self._changed.set()

    def rcpt_seen(self, address: str, connection: int, transaction: int) -> int:
        """Count an attempt at a recipient before it is answered; which one is returned."""
        self.attempts[address] += 1
        nth = self.attempts[address]
        if self.on_rcpt is not None:
            self.on_rcpt(address, nth, connection, transaction)
        self._changed.set()
        return nth

    def login_refused(self, code: int) -> None:
        """Note an AUTH that went wrong."""
        if self.on_login_refused is not None:
            self.on_login_refused(code)
        self._changed.set()

    def take(self, delivery: Delivery) -> None:
        """Take responsibility for a message before the client is told."""
        self.received_count += 1
        if self.keep_received:
            self.received.append(delivery)
        if self.on_delivery is not None:
            self.on_delivery(delivery)
        self._changed.set()
