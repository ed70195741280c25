"""How fast mail goes through, beside Postfix: `make bench ARGS=throughput`.

Each system takes the same messages over 50 sessions and hands them on to the same sink, in turns.
A message counts when the sink has it, and each must arrive once. Both sync to disk before they
answer 250. Clients, sink and system share the machine. Printed for each run: messages a second
taken, messages a second delivered, and CPU time a message of all the system's own processes; then
the medians.

Postfix has its defaults (20 deliveries at once to one next hop); the relay has as many slots.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import psutil

from tests.support.ledger import Ledger
from tests.support.load import run_load
from tests.support.load_plan import LoadPlan
from tests.support.postfix import PostfixOptions, running_postfix
from tests.support.relay import forwarding_to, running_relay
from tests.support.wait import wait_until

SLOTS = 20
SESSIONS = 50
ARRIVAL_SECONDS = 300
_DELIVERY = b'{"kind":"delivery"'


@dataclass(frozen=True, slots=True)
class Run:
    """One run in figures."""

    taken_per_second: float
    delivered_per_second: float
    cpu_ms: float  # a message

    def __str__(self) -> str:
        return (
            f"taken {self.taken_per_second:6.0f}/s, delivered {self.delivered_per_second:6.0f}/s, "
            f"CPU {self.cpu_ms:5.2f} ms a message"
        )


@dataclass(frozen=True, slots=True)
class System:
    """A running relay of either make."""

    port: int
    pid: int  # of the process that all its others come from

    def cpu_seconds(self) -> float:
        """What it has used, the processes that have ended meanwhile included."""
        used = 0.0
        first = psutil.Process(self.pid)
        for process in (first, *first.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                used += sum(process.cpu_times()[:4])  # own, and of children that were waited for
        return used


class Sink:
    """The next hop, a process of its own; it writes down what it took."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "sink.jsonl"
        self._read_to = 0
        self.port = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Sink]:
        """Run it for a `with` block."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.upstream_process", "--record", self._file),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            self.port = int((await process.stdout.readline()).split()[1])
            yield self
        finally:
            process.terminate()
            await process.wait()

    async def last_of(self, count: int) -> float:
        """Wait for so many deliveries more; when the last one came. Fails when one is too many."""
        times: list[float] = []

        def arrived() -> bool:
            times.extend(self._new_deliveries())
            return len(times) >= count

        await wait_until(arrived, ARRIVAL_SECONDS, f"{count} have arrived", interval=0.05)
        assert len(times) == count, f"{len(times)} deliveries of {count} messages"
        return times[-1]

    def _new_deliveries(self) -> list[float]:
        with self._file.open("rb") as file:
            file.seek(self._read_to)
            lines = file.read().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
        self._read_to += sum(map(len, lines))
        found = [json.loads(line) for line in lines if line.startswith(_DELIVERY)]
        return [each["time"] for each in found]


@contextlib.asynccontextmanager
async def relay(sink: Sink) -> AsyncIterator[System]:
    """MailRelay, all of it."""
    with tempfile.TemporaryDirectory(prefix="mailrelay-bench-") as folder:
        options = {"workerCount": SLOTS, "queueSize": 1_000_000, **forwarding_to(sink.port)}
        async with running_relay(Path(folder), **options) as running:
            yield System(running.smtp_port, running.pid("supervisor"))


@contextlib.asynccontextmanager
async def postfix(sink: Sink) -> AsyncIterator[System]:
    """Postfix."""
    async with running_postfix(PostfixOptions(relay_port=sink.port)) as running:
        pid = int((running.folder / "queue/pid/master.pid").read_text())
        yield System(running.port, pid)


Start = Callable[[Sink], AbstractAsyncContextManager[System]]
SYSTEMS: dict[str, Start] = {"mailrelay": relay, "postfix": postfix}


async def run_once(start: Start, sink: Sink, plan: LoadPlan, count: int) -> Run:
    """Send a tenth to warm up, then all, and wait for the last one at the sink."""

    async def send(port: int, messages: int, run: str) -> tuple[float, float]:
        with Ledger(None) as ledger:
            began = time.time()
            report = await run_load(replace(plan, port=port, count=messages, run=run), ledger)
            assert report.accepted == messages, report
            return report.accepted_per_second, messages / (await sink.last_of(messages) - began)

    async with start(sink) as system:
        await send(system.port, count // 10, "warm")
        before = system.cpu_seconds()
        taken, delivered = await send(system.port, count, "")
        cpu_ms = (system.cpu_seconds() - before) * 1000 / count
    return Run(taken, delivered, cpu_ms)


async def measure(options: argparse.Namespace) -> None:
    """Run all of them in turns."""
    plan = LoadPlan(
        host="127.0.0.1",
        port=0,
        count=1,
        sessions=options.sessions,
        messages_per_connection=options.per_connection or None,
        sizes=((options.size, 1.0),),
    )
    runs: dict[str, list[Run]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        async with Sink(Path(folder)).running() as sink:
            for _ in range(options.rounds):
                for name, start in SYSTEMS.items():
                    run = await run_once(start, sink, plan, options.messages)
                    runs[name].append(run)
                    sys.stdout.write(f"{name:10} {run}\n")
                    sys.stdout.flush()
    for name, found in runs.items():
        columns = zip(*(astuple(run) for run in found), strict=True)
        sys.stdout.write(f"median {name:10} {Run(*map(statistics.median, columns))}\n")


def main(arguments: list[str]) -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=throughput")
    parser.add_argument("--messages", type=int, default=5000, help="in each run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sessions", type=int, default=SESSIONS)
    parser.add_argument("--size", type=int, default=5000, help="octets")
    parser.add_argument("--per-connection", type=int, default=0, help="messages; 0: all of them")
    asyncio.run(measure(parser.parse_args(arguments)))
    return 0
