"""What clients see while one of three nats-servers fails: `python -m tests.chaos.failover`.

One relay, one steady load, one failure after the other; after each the cluster is made whole again.
The table has the replies to messages begun while the failure lasted, how long clients waited, and
the longest time in which no 250 was given.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from mailrelay.queue.rights import Role
from mailrelay_cli.nats_server import find_nats_server
from tests.support.cluster_relay import ClusterRelay, running_cluster_relay
from tests.support.ledger import Ledger, LedgerEntry, Outcome
from tests.support.load import run_load
from tests.support.load_plan import LoadPlan
from tests.support.nats_cluster import ClusterNode
from tests.support.relay import forwarding_to
from tests.support.upstream import ScriptedUpstream

RATE = 25.0
SESSIONS = 60  # more than wait at once, or the load would wait with them
LASTS_SECONDS = 12.0
NO_QUORUM_SECONDS = 25.0  # longer than the relay waits for the queue
_STANDS_SECONDS = 8.0
_COLUMNS = ("failure", "250", "451", "other", "p50 s", "p99 s", "max s", "longest gap s")


@dataclass(frozen=True, slots=True)
class Seen:
    """What clients saw of one failure."""

    failure: str
    entries: Sequence[LedgerEntry]
    began: float
    ended: float

    def row(self) -> tuple[str, ...]:
        """Return the table's row."""
        codes = Counter(entry.code for entry in self.entries)
        waits = sorted(entry.seconds for entry in self.entries) or [0.0]
        return (
            self.failure,
            str(codes[250]),
            str(codes[451]),
            str(len(self.entries) - codes[250] - codes[451]),
            f"{waits[len(waits) // 2]:.3f}",
            f"{waits[min(len(waits) - 1, len(waits) * 99 // 100)]:.2f}",
            f"{waits[-1]:.2f}",
            f"{self.longest_gap():.2f}",
        )

    def longest_gap(self) -> float:
        """Return the longest time without a 250 while the failure lasted."""
        taken = sorted(
            entry.time
            for entry in self.entries
            if entry.outcome is Outcome.ACCEPTED and entry.time <= self.ended
        )
        times = [self.began, *taken, self.ended]
        return max(later - earlier for earlier, later in itertools.pairwise(times))


async def measure(relay: ClusterRelay, failures: Iterable[str]) -> list[Seen]:
    """Let one failure after the other happen under load."""
    log = structlog.get_logger()
    seen = []
    ledger = Ledger()
    stop = asyncio.Event()
    plan = LoadPlan(
        "127.0.0.1",
        relay.smtp_port,
        duration_seconds=3600,
        sessions=SESSIONS,
        rate=RATE,
        recipient_counts=((1, 0.9), (45, 0.1)),
    )
    load = asyncio.create_task(run_load(plan, ledger, stop))
    try:
        async with relay.cluster.connected(Role.ADMIN, log) as admin:
            for failure in failures:
                await relay.cluster.wait_whole(admin)
                await asyncio.sleep(2)  # mail flows again
                began = time.time()
                await _fail(relay, failure)
                ended = time.time()
                await relay.cluster.wait_whole(admin)
                await asyncio.sleep(3)  # so that what was begun has its reply
                entries = [each for each in ledger.entries if began <= each.started <= ended]
                seen.append(Seen(failure, entries, began, ended))
    finally:
        stop.set()
        await load
    await relay.wait_health(120, queued_emails=0)
    return seen


FAILURES = (
    "none",
    "kill -9 of the leader of new mail",
    "kill -9 of a follower of new mail",
    "kill -9 of the leader of the lanes",
    "kill -9 of the leader of events",
    "SIGTERM of the leader of new mail",
    "SIGSTOP of the leader of new mail",
    "kill -9 of two servers",
    "kill -9 of ingress",
    "kill -9 of sender",
)


async def _fail(relay: ClusterRelay, failure: str) -> None:
    what, _, whom = failure.partition(" of ")
    if whom in {"ingress", "sender"}:
        relay.kill(whom)
        await asyncio.sleep(LASTS_SECONDS)  # how long it lasts
        return
    if whom == "two servers":
        await _down(relay.cluster.nodes[:2], NO_QUORUM_SECONDS)
        return
    if not whom:
        await asyncio.sleep(LASTS_SECONDS)  # how long it lasts
        return
    names = relay.cluster.names
    streams = {"new mail": names.in_stream(), "lanes": names.lane_stream}
    stream = next((each for key, each in streams.items() if key in whom), names.event_stream)
    node = await relay.cluster.leader_of(stream, structlog.get_logger())
    if "follower" in whom:
        node = next(each for each in relay.cluster.nodes if each is not node)
    if what == "SIGSTOP":
        node.signal(signal.SIGSTOP)
        await asyncio.sleep(_STANDS_SECONDS)  # how long it lasts
        node.signal(signal.SIGCONT)
        await asyncio.sleep(LASTS_SECONDS - _STANDS_SECONDS)  # the time that is measured
        return
    await _down([node], LASTS_SECONDS, in_order=what == "SIGTERM")


async def _down(nodes: Sequence[ClusterNode], seconds: float, *, in_order: bool = False) -> None:
    for node in nodes:
        if in_order:
            await asyncio.to_thread(node.stop)
        else:
            node.kill()
    await asyncio.sleep(seconds)  # how long it lasts
    for node in nodes:
        node.start()


def render(seen: Sequence[Seen]) -> str:
    """Return the table."""
    rows = [_COLUMNS, *(each.row() for each in seen)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


async def _run(folder: Path, failures: Iterable[str]) -> list[Seen]:
    async with ScriptedUpstream(keep_content=False, keep_received=False) as upstream:
        server = find_nats_server(print)
        log = structlog.get_logger()
        options = forwarding_to(upstream.port)
        async with running_cluster_relay(folder, server, log, **options) as relay:
            return await measure(relay, failures)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="tests.chaos.failover", description=__doc__)
    parser.add_argument("--only", choices=FAILURES, action="append", help="may be repeated")
    options = parser.parse_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mailrelay-failover-"))
        seen = asyncio.run(_run(Path(folder), options.only or FAILURES))
    sys.stdout.write(f"{RATE:g} messages a second, a tenth of them to 45 recipients\n")
    sys.stdout.write(render(seen) + "\n")


if __name__ == "__main__":
    main()
