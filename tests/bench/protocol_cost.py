"""What the queue's protocol costs a message: `make bench ARGS=protocol`.

Runs a relay and an upstream, sends messages of 5 KB to one recipient each, and prints for a
delivery, a deferral that is delivered at the second attempt, and a failure: records stored in each
stream, fsyncs of nats-server (counted by strace, which must be there, in a run of its own) and CPU
time of each process, all divided by the number of messages. `--waiting 300000` then puts that many
deferred messages into the longest lane and prints what each process uses while they wait.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import structlog

from mailrelay.mail.ids import new_queue_id
from mailrelay.mail.job import Job, Recipient, Try
from mailrelay.mail.reply import Reply as TheirReply
from mailrelay.queue.connection import ConnectionSettings, QueueConnection, open_connection
from mailrelay.queue.lanes import LADDER
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.rights import Role
from mailrelay.queue.wire import encode_jobs
from mailrelay.runtime.logging import Logger
from tests.support.ledger import Ledger
from tests.support.load import run_load
from tests.support.load_plan import LoadPlan
from tests.support.ports import free_port
from tests.support.relay import Relay, forwarding_to, relay_config
from tests.support.replies import Reply
from tests.support.scripting import Script, Stage
from tests.support.scripts import accept_all, defer_fraction, fail_at
from tests.support.upstream import ScriptedUpstream
from tests.support.wait import wait_until

MESSAGES = 2000
SESSIONS = 20
WORKERS = 20
SIZE_BYTES = 5_000
WAITING_BYTES = 1_000
WATCHED_SECONDS = 60
PROCESSES = ("ingress", "nats", "sender", "monitor")
STREAMS = ("in-0", "lane", "failed", "body", "event", "checkpoint")
SCENARIOS: dict[str, Script] = {
    "delivered at once": accept_all,
    "deferred once, then delivered": defer_fraction(1.0, 0),
    "refused for good": fail_at(Stage.RCPT, Reply(550, "5.1.1 nobody")),
}


@dataclass(slots=True)
class Cost:
    """Per message."""

    records: dict[str, float] = field(default_factory=dict)
    cpu_ms: dict[str, float] = field(default_factory=dict)
    fsyncs: float = float("nan")

    def __str__(self) -> str:
        records = ", ".join(f"{name} {count:.2f}" for name, count in self.records.items() if count)
        cpu = ", ".join(f"{name} {ms:.2f}" for name, ms in self.cpu_ms.items())
        return (
            f"  records stored: {records} (sum {sum(self.records.values()):.2f})\n"
            f"  fsyncs of nats-server: {self.fsyncs:.2f}\n"
            f"  CPU, ms: {cpu} (sum {sum(self.cpu_ms.values()):.2f})"
        )


def quiet() -> Logger:
    """A logger that says nothing."""
    logger: Logger = structlog.wrap_logger(structlog.ReturnLogger(), processors=[])
    return logger


@contextlib.asynccontextmanager
async def connected(relay: Relay, role: Role) -> AsyncIterator[QueueConnection]:
    """A role's connection to the running relay's server."""
    running = relay.run_file()
    seed = Path(running.credentials) / f"{role.value}.seed"
    connection = await open_connection(ConnectionSettings(running.nats, role.value, seed), quiet())
    try:
        yield connection
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def started(folder: Path, port: int, **options: object) -> AsyncIterator[Relay]:
    """A relay that forwards to `port`."""
    relay = Relay(
        folder,
        relay_config(
            workerCount=WORKERS,
            queueSize=400_000,
            queue={"storeBytes": 8 * 1024**3},
            **options,
            **forwarding_to(port),
        ),
    )
    folder.mkdir()  # noqa: ASYNC240 — nothing else runs yet
    await relay.start()
    try:
        yield relay
    finally:
        await relay.stop()


async def measure(folder: Path, script: Script, *, count_fsyncs: bool) -> Cost:
    """Send the messages once and divide."""
    cost = Cost()
    async with (
        ScriptedUpstream(script, keep_content=False, keep_received=False) as upstream,
        started(folder, upstream.port) as relay,
        connected(relay, Role.MONITOR) as monitor,
    ):
        before, cpu = await stored(monitor), cpu_seconds(relay)
        async with fsyncs_of(relay.pid("nats"), folder / "strace.txt", count_fsyncs) as counted:
            await submit(relay, folder)
        after, cpu_after = await stored(monitor), cpu_seconds(relay)
    cost.records = {name: (after[name] - before[name]) / MESSAGES for name in STREAMS}
    cost.cpu_ms = {name: 1000 * (cpu_after[name] - cpu[name]) / MESSAGES for name in PROCESSES}
    if count_fsyncs:
        cost.fsyncs = counted[0] / MESSAGES
    return cost


async def submit(relay: Relay, folder: Path) -> None:
    """Send all, and wait until nothing is queued."""
    plan = LoadPlan(
        "127.0.0.1",
        relay.smtp_port,
        count=MESSAGES,
        sessions=SESSIONS,
        sizes=((SIZE_BYTES, 1.0),),
    )
    with Ledger(folder / "ledger.jsonl") as ledger:
        await run_load(plan, ledger)
    await relay.wait_health(120, queued_emails=0, total_emails_processed=MESSAGES)


async def stored(monitor: QueueConnection) -> dict[str, int]:
    """How many records each stream ever had."""
    prefix = monitor.names.prefix
    found = {}
    for name in STREAMS:
        info = await monitor.api(f"STREAM.INFO.{prefix}-{name}")
        found[name] = int(info["state"]["last_seq"])
    return found


def cpu_seconds(relay: Relay) -> dict[str, float]:
    """CPU time that each process has used."""
    used = {}
    for name in PROCESSES:
        times = psutil.Process(relay.pid(name)).cpu_times()
        used[name] = times.user + times.system
    return used


@contextlib.asynccontextmanager
async def fsyncs_of(pid: int, file: Path, wanted: bool) -> AsyncIterator[list[int]]:
    """Count a process's fsyncs during a `with` block; the count is there behind it."""
    counted = [0]
    if not wanted:
        yield counted
        return
    tracer = await asyncio.create_subprocess_exec(
        *("strace", "-f", "-q", "-e", "trace=fsync,fdatasync", "-o", str(file), "-p", str(pid))
    )
    await wait_until(file.exists, 5, "strace has begun")
    await asyncio.sleep(1)  # it says nowhere when it has attached to every thread
    try:
        yield counted
    finally:
        tracer.send_signal(signal.SIGINT)
        await tracer.wait()
    counted[0] = count_calls(file)


def count_calls(file: Path) -> int:
    """Count the begun calls in strace's lines."""
    return len(re.findall(r"^\d+ +(?:fsync|fdatasync)\(", file.read_text(), re.MULTILINE))


async def watch_waiting(folder: Path, waiting: int) -> str:
    """Return what each process uses without deferred messages, and with `waiting` of them."""
    port = free_port()
    async with started(folder, port) as relay:
        idle = await percent_used(relay)
        async with connected(relay, Role.SENDER) as sender:
            await put_deferred(sender, waiting)
        await asyncio.sleep(10)  # the store's own writes end
        used = await percent_used(relay)
        memory = psutil.Process(relay.pid("nats")).memory_info().rss // 1024**2
    return (
        "\n".join(
            f"{what}, percent of a core over {WATCHED_SECONDS} s: "
            + ", ".join(f"{name} {percent:.2f}" for name, percent in found.items())
            + f" (sum {sum(found.values()):.2f})"
            for what, found in (("idle", idle), (f"{waiting} deferred messages waiting", used))
        )
        + f"; nats-server's memory {memory} MB"
    )


async def percent_used(relay: Relay) -> dict[str, float]:
    """Watch for a while what each process uses of a core."""
    before = cpu_seconds(relay)
    await asyncio.sleep(WATCHED_SECONDS)  # the time that is measured
    after = cpu_seconds(relay)
    return {name: 100 * (after[name] - before[name]) / WATCHED_SECONDS for name in PROCESSES}


async def put_deferred(sender: QueueConnection, waiting: int) -> None:
    """Store jobs that are due in four hours."""
    publisher = Publisher(sender)
    lane = LADDER[-1]
    now, began = time.time(), time.monotonic()
    content = b"Subject: x\r\n\r\n" + b"y" * WAITING_BYTES + b"\r\n"
    tried = (Try(1, now, "next:25", TheirReply(450, "4.2.0", "later")),)
    room = asyncio.Semaphore(64)

    async def put(number: int) -> None:
        async with room:
            job = Job(
                submission=new_queue_id(now, number),
                batch=1,
                batches=1,
                total_recipients=1,
                accepted_at=now,
                reverse_path="a@example.org",
                recipients=(Recipient(0, f"r{number}@example.com", tried),),
                content=content,
                size_bytes=len(content),
                attempt=2,
                due=now + lane.delay_seconds + 600,
            )
            subject = sender.names.lane_subject(lane, None)
            await publisher.store(Record(subject, encode_jobs([job]), job.name))

    for start in range(0, waiting, 5000):
        await asyncio.gather(*(put(number) for number in range(start, min(start + 5000, waiting))))
    sys.stdout.write(f"{waiting} stored after {time.monotonic() - began:.0f} s\n")


async def run(options: argparse.Namespace, folder: Path) -> None:
    """Measure everything and print it."""
    for number, (name, script) in enumerate(SCENARIOS.items()):
        if options.only_waiting:
            break
        cost = await measure(folder / f"cpu-{number}", script, count_fsyncs=False)
        traced = await measure(folder / f"fsync-{number}", script, count_fsyncs=True)
        cost.fsyncs = traced.fsyncs
        sys.stdout.write(f"{name}, a message ({MESSAGES} of {SIZE_BYTES} octets):\n{cost}\n")
    if options.waiting:
        sys.stdout.write(f"{await watch_waiting(folder / 'waiting', options.waiting)}\n")


def main(arguments: list[str]) -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=protocol")
    parser.add_argument("--waiting", type=int, default=0, help="deferred messages to watch")
    parser.add_argument("--only-waiting", action="store_true", help="nothing but --waiting")
    options = parser.parse_args(arguments)
    if not options.only_waiting and shutil.which("strace") is None:
        sys.stderr.write("strace is needed to count fsyncs\n")
        return 2
    with tempfile.TemporaryDirectory(prefix="mailrelay-cost-") as folder:
        asyncio.run(run(options, Path(folder)))
    return 0
