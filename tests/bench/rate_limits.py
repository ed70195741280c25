"""What rate limits cost ingress: `make bench ARGS=limits`.

One ingress and one nats-server that syncs every write take messages of 5 KB over 50 kept
connections: without limits, with limits that nobody reaches and 50 senders, and with another sender
for each message, in turns. Printed are each run, and medians: messages a second, and CPU time a
message of ingress and nats-server, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from mailrelay_cli.nats_server import find_nats_server
from tests.ingress.conftest import silent_log
from tests.ingress.ingress_process import running_ingress
from tests.support.ledger import Ledger
from tests.support.load import run_load
from tests.support.load_plan import LoadPlan
from tests.support.nats import NatsServer, limits

SESSIONS = 50
NEVER_REACHED = 10**8
WITHOUT, FIFTY, DIFFERENT = "without limits", "50 senders", "every sender different"
SENDERS = {WITHOUT: 50, FIFTY: 50, DIFFERENT: 10**9}


@dataclass(frozen=True, slots=True)
class Run:
    """One run in figures."""

    per_second: float
    ingress_ms: float  # CPU time a message
    nats_ms: float
    tokens_leased: float  # additions are fewer: a lease is of several

    def __str__(self) -> str:
        return (
            f"{self.per_second:7.0f} messages/s, CPU a message: ingress {self.ingress_ms:.3f} ms, "
            f"nats-server {self.nats_ms:.3f} ms; tokens leased {self.tokens_leased:.0f}"
        )


def run_once(kind: str, server: NatsServer, folder: Path, messages: int) -> Run:
    """Start an ingress, send, and measure; a twentieth is sent before, to warm up."""
    server.reset(silent_log(), limits(queue_size=1_000_000))
    keys = ("maxPerHour", "maxPerDay", "globalMaxPerHour", "globalMaxPerDay")
    changes: dict[str, Any] = {
        "rateLimits": {"enabled": kind != WITHOUT, **dict.fromkeys(keys, NEVER_REACHED)}
    }
    with running_ingress(folder, server, **changes) as ingress, Ledger(None) as ledger:

        def load(count: int, run: str) -> float:
            plan = LoadPlan(
                host="127.0.0.1",
                port=ingress.port,
                count=count,
                sessions=SESSIONS,
                senders=SENDERS[kind],
                run=run,
            )
            report = asyncio.run(run_load(plan, ledger))
            assert report.accepted == count, report
            return report.accepted_per_second

        processes = [psutil.Process(ingress.process.pid), psutil.Process(server.pid)]
        load(messages // 20, "warm")
        before = [sum(process.cpu_times()[:2]) for process in processes]
        per_second = load(messages, "")
        after = [sum(process.cpu_times()[:2]) for process in processes]
        cpu = [(b - a) * 1000 / messages for a, b in zip(before, after, strict=True)]
        leased = ingress.metric("mailrelay_limit_tokens_leased_total")
        return Run(per_second, cpu[0], cpu[1], leased)


def main(arguments: list[str]) -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=limits")
    parser.add_argument("--messages", type=int, default=6000, help="in each run")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    runs: dict[str, list[Run]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        server = NatsServer(find_nats_server(print), Path(folder) / "nats")
        server.start()
        try:
            for number in range(options.rounds):
                for kind in SENDERS:
                    run = run_once(
                        kind, server, Path(folder) / f"{number}-{kind}", options.messages
                    )
                    runs[kind].append(run)
                    sys.stdout.write(f"{kind:24}{run}\n")
                    sys.stdout.flush()
        finally:
            server.kill()
    middle = {
        kind: Run(
            *(statistics.median(column) for column in zip(*map(_figures, found), strict=True))
        )
        for kind, found in runs.items()
    }
    base = middle[WITHOUT]
    for kind, run in middle.items():
        slower = 1 - run.per_second / base.per_second
        cpu = (run.ingress_ms + run.nats_ms) / (base.ingress_ms + base.nats_ms) - 1
        sys.stdout.write(
            f"median {kind:24}{run.per_second:7.0f}/s, {slower:.1%} slower; CPU {cpu:+.1%}\n"
        )
    return 0


def _figures(run: Run) -> tuple[float, float, float, float]:
    return run.per_second, run.ingress_ms, run.nats_ms, run.tokens_leased
