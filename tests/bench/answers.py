"""How fast the monitor answers when much mail is queued: `make bench ARGS=answers`.

A monitor on a real nats-server counts the waiting messages first; then each path is asked, one
request after the other. Printed are the quarters, the 95th percentile and the worst. The aim is
50 ms with 100,000 messages.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx

from mailrelay.queue.publish import MAX_BATCH, Publisher, Record
from mailrelay.queue.rights import Role
from mailrelay.queue.wire import encode_events, encode_jobs
from mailrelay_cli.nats_server import find_nats_server
from tests.ingress.conftest import silent_log
from tests.monitor.monitor_process import MonitorProcess
from tests.monitor.story import accepted, job, queue_id, summary
from tests.support.nats import NatsServer, limits
from tests.support.wait import wait_until

PROMETHEUS = {"Accept": "text/plain;version=0.0.4"}
ASKED: tuple[tuple[str, dict[str, str]], ...] = (
    ("/health", {}),
    ("/metrics", {}),
    ("/metrics", PROMETHEUS),
)
COUNTED_SECONDS = 120


async def store_mail(server: NatsServer, messages: int) -> None:
    """Store so many accepted messages, and what is told of them."""
    async with server.connected(Role.INGRESS, silent_log()) as connection:
        publisher = Publisher(connection)
        for first in range(0, messages, MAX_BATCH):
            ids = [queue_id() for _ in range(min(MAX_BATCH, messages - first))]
            await publisher.store_together(
                [Record("mailrelay.in.0.-", encode_jobs([job(each)]), str(each)) for each in ids]
            )
            events = encode_events([accepted(summary(each)) for each in ids])
            await publisher.store(Record("mailrelay.event.ingress", events, ""))


async def ask(client: httpx.AsyncClient, path: str, headers: dict[str, str], times: int) -> str:
    """Ask one after the other; what it took."""
    milliseconds = []
    for _ in range(times):
        started = time.perf_counter()
        (await client.get(path, headers=headers)).raise_for_status()
        milliseconds.append((time.perf_counter() - started) * 1000)
    quarters = statistics.quantiles(milliseconds, n=4)
    figures = (*quarters, statistics.quantiles(milliseconds, n=20)[-1], max(milliseconds))
    return " ".join(f"{each:8.1f}" for each in figures)


async def measure(folder: Path, messages: int, times: int) -> None:
    """Make the queue, start the monitor on it, and ask."""
    server = NatsServer(find_nats_server(print), folder / "nats")
    server.start()
    process = MonitorProcess(server, folder)
    try:
        await server.ensure(silent_log(), limits(queue_size=2 * messages))
        await store_mail(server, messages)
        process.start()
        await process.wait_ready()
        async with httpx.AsyncClient(base_url=process.url) as client:

            async def all_counted() -> bool:
                found = (await client.get("/health")).json()["details"]["queued_emails"]
                return bool(found == messages)

            await wait_until(all_counted, COUNTED_SECONDS, "all are counted", interval=0.2)
            sys.stdout.write(f"{messages} messages queued, each path asked {times} times; ms\n")
            sys.stdout.write(
                f"{'':22}{'25 %':>8} {'50 %':>8} {'75 %':>8} {'95 %':>8} {'worst':>8}\n"
            )
            for path, headers in ASKED:
                name = f"{path} {'as text' if headers else 'as JSON'}"
                sys.stdout.write(f"{name:22}{await ask(client, path, headers, times)}\n")
    finally:
        process.kill()
        process.listener.close()
        server.kill()


def main(arguments: list[str]) -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=answers")
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=100)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder), options.messages, options.times))
    return 0
