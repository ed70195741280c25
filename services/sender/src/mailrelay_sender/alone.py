"""One attempt in a process of its own, for a record that may kill who tries it (queue rule 13).

It is given the job and its content on standard input, and nothing of the queue: no connection and
no credential. What it comes to goes back through a pipe of its own, so that its lines go where its
sender's go. Before the final dot it asks its sender, which may be about to stop. It ends when its
sender does.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
from collections.abc import AsyncIterator, Mapping

import msgspec

from mailrelay.config.load import ConfigError
from mailrelay.config.model import RelayConfig
from mailrelay.mail.disposition import Outcome
from mailrelay.mail.job import Job
from mailrelay.queue.bodies import BodyUnreadableError
from mailrelay.queue.wire import decode_jobs
from mailrelay.runtime.lifecycle import EXIT_OK, run_service
from mailrelay.service import config_in_force
from mailrelay_sender.attempt import AttemptResult, attempt, capture, defer
from mailrelay_sender.classify import another_plan, internal_fault
from mailrelay_sender.connection import ConnectionPool, UpstreamSettings, Verdicts
from mailrelay_sender.plan import Hosts, Plan
from mailrelay_sender.route import Capture, NamedHop, Route

RESULT_FD = "MAILRELAY_RESULT_FD"
# Frames on standard input: one octet of kind, four of length, then that many.
FRAME = struct.Struct(">cI")
RECORD, PIECE, END, UNREADABLE, GO = b"r", b"p", b"e", b"u", b"g"
ASKS = b"?"  # through the result's pipe: may the final dot go out? No result begins so


class AttemptAlone(msgspec.Struct, frozen=True):
    """What an attempt came to; `fault` says what our own code failed with, if it did."""

    outcomes: tuple[Outcome, ...]
    fault: str = ""


def main(environ: Mapping[str, str]) -> int:
    """Make the attempt and return the exit code."""
    return run_service(lambda _: _attempt(environ), environ)


async def _attempt(environ: Mapping[str, str]) -> int:
    loop = asyncio.get_running_loop()
    given = asyncio.StreamReader(loop=loop)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(given), sys.stdin)
    _, record = await _frame(given)
    job = decode_jobs(record)[0]
    asking = _AskedFirst(given, int(environ[RESULT_FD]))
    try:
        result = await _try(config_in_force(environ), job, given, asking)
    except ConfigError as error:  # the file changed meanwhile: no fault of this job
        result = defer(job, "", internal_fault(f"the configuration cannot be read: {error}"))
    fault = f"{type(result.fault).__name__}: {result.fault}" if result.fault else ""
    answer = msgspec.msgpack.encode(AttemptAlone(tuple(result.outcomes), fault))
    with os.fdopen(int(environ[RESULT_FD]), "wb") as pipe:
        pipe.write(answer)
    return EXIT_OK


class _AskedFirst(Verdicts):
    """Asks the sender whether the final dot may go out."""

    def __init__(self, given: asyncio.StreamReader, pipe: int) -> None:
        super().__init__()
        self._given = given
        self._pipe = pipe

    async def _wait_allowed(self) -> None:
        os.write(self._pipe, ASKS)
        await _frame(self._given)  # nothing but `GO` comes behind the content


async def _try(
    config: RelayConfig, job: Job, given: asyncio.StreamReader, asking: Verdicts
) -> AttemptResult:
    host_name = config.host_name or socket.getfqdn()
    plan = Plan.of(config, host_name, asking)
    shares = plan.routing.shares(job)
    if len(shares) > 1:  # its sender goes by another configuration, and so does the next attempt
        return defer(job, "", another_plan())
    route = shares[0].route
    hosts = _hosts(route, plan, config, host_name, asking)
    if hosts is None:
        return capture(job, plan.captured)

    async def pieces(_: Job) -> AsyncIterator[bytes]:
        while True:
            kind, octets = await _frame(given)
            if kind == UNREADABLE:
                raise BodyUnreadableError(octets.decode())
            if kind == END:
                return
            yield octets

    try:
        return await attempt(job, hosts, pieces, config.processing_timeout)
    finally:
        for pool in hosts.pools:
            await pool.close_idle()


def _hosts(
    route: Route, plan: Plan, config: RelayConfig, host_name: str, asking: Verdicts
) -> Hosts | None:
    if isinstance(route, Capture):
        return None
    if isinstance(route, NamedHop):
        settings = UpstreamSettings.from_config(config, host_name).for_named_hop(route.port)
        return Hosts((ConnectionPool(route, settings, verdicts=asking),))
    return plan.hosts[route.name]


async def _frame(given: asyncio.StreamReader) -> tuple[bytes, bytes]:
    kind, size = FRAME.unpack(await given.readexactly(FRAME.size))
    return kind, await given.readexactly(size)


if __name__ == "__main__":
    sys.exit(main(os.environ))
