"""Postfix's policy protocol (SMTPD_POLICY_README): Postfix asks at each RCPT what to do.

So a test decides what a real Postfix refuses, from one RCPT to the next, and sees every RCPT in
the order in which Postfix got it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

ACCEPT = "DUNNO"


@dataclass(eq=False)
class PolicyService:
    """Set `decide` at any time: recipient to action, such as `450 4.2.0 Later`."""

    decide: Callable[[str], str] = lambda _recipient: ACCEPT
    port: int = field(default=0, init=False)
    asked: list[dict[str, str]] = field(default_factory=list, init=False)

    def asked_for(self, domain: str) -> list[dict[str, str]]:
        """All RCPT commands with recipients of a domain, in order."""
        return [asked for asked in self.asked if asked["recipient"].lower().endswith(domain)]

    def recipients(self, domain: str) -> list[str]:
        """The recipients of a domain in all RCPT commands, in order."""
        return [asked["recipient"] for asked in self.asked_for(domain)]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one Postfix process until it hangs up."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                request = (await reader.readuntil(b"\n\n")).decode()
                pairs = (line.partition("=") for line in request.splitlines())
                attributes = {name: value for name, _, value in pairs}
                self.asked.append(attributes)
                writer.write(f"action={self.decide(attributes['recipient'])}\n\n".encode())
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def running_policy() -> AsyncIterator[PolicyService]:
    """A policy service on a free port for a `with` block; it outlives the Postfix that asks it."""
    policy = PolicyService()
    server = await asyncio.start_server(policy.serve, "127.0.0.1", 0)
    policy.port = server.sockets[0].getsockname()[1]
    try:
        yield policy
    finally:
        server.close()
