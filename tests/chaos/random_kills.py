"""Random kills under load, and the two books held against each other afterwards.

`python -m tests.chaos.random_kills --rounds 10 --seed 7` kills each kind of process ten times in
an order drawn by the seed, while a load goes through the relay to an upstream that defers a
twentieth of the recipients, and prints the table. Every duplicate must be traced to a kill while
its job was open (docs/decisions/0004 says when it is); nothing may be lost.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.deliveries import read_deliveries
from tests.support.ledger import Ledger, Verdict, compare
from tests.support.load import LoadReport, run_load
from tests.support.load_plan import LoadPlan
from tests.support.relay import Relay, forwarding_to, free_port, relay_config
from tests.support.wait import wait_until

KINDS = ("ingress", "sender", "monitor", "nats", "supervisor")
WORKERS = 16
REPLY_DELAY_SECONDS = 0.08  # keeps eight deliveries and more in flight at the load's rate
SECONDS_BETWEEN_KILLS = (1.0, 4.0)
RATE = 120.0
# From a recipient's RCPT to the ack of its job: delay, settling, and what a busy machine adds.
OPEN_SECONDS = 10.0
DRAIN_SECONDS = 180.0


@dataclass(slots=True)
class Run:
    """What a run came to."""

    seed: int
    kills: list[tuple[float, str]] = field(default_factory=list)
    load: LoadReport | None = None
    verdict: Verdict | None = None
    traced: int = 0
    untraced: list[str] = field(default_factory=list)
    most_in_flight: int = 0

    @property
    def is_good(self) -> bool:
        """Whether every promise was kept."""
        return self.verdict is not None and self.verdict.nothing_lost and not self.untraced

    def __str__(self) -> str:
        counts = Counter(kind for _, kind in self.kills)
        lines = [
            f"seed {self.seed}: {len(self.kills)} kills: "
            + ", ".join(f"{kind} {counts[kind]}" for kind in KINDS),
            f"load: {self.load}",
            f"most deliveries in flight: {self.most_in_flight}",
            str(self.verdict),
            f"duplicates traced to a kill while the job was open: {self.traced}",
            *(f"NOT TRACED: {line}" for line in self.untraced),
        ]
        return "\n".join(lines)


@contextlib.asynccontextmanager
async def upstream_process(port: int, record: Path) -> AsyncIterator[None]:
    """The scripted upstream in a process of its own, so that it is never killed with the rest."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.support.upstream_process", "--port", str(port), "--record", str(record)),
        *("--defer-fraction", "0.05", "--reply-delay", str(REPLY_DELAY_SECONDS)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        ready = await asyncio.wait_for(process.stdout.readline(), 10)
        assert ready.startswith(b"READY")
        yield
    finally:
        process.terminate()
        await process.wait()


async def run_kills(folder: Path, *, rounds: int, seed: int) -> Run:
    """Kill each kind of process `rounds` times; the caller judges the result."""
    run = Run(seed)
    record, port = folder / "upstream.jsonl", free_port()
    relay = Relay(
        folder,
        relay_config(
            workerCount=WORKERS,
            queueSize=100_000,
            queue={"storeBytes": 4 * 1024**3, "ackWaitSeconds": 6},
            **forwarding_to(port),
        ),
    )
    draw = random.Random(seed)  # noqa: S311 — a plan that can be repeated
    order = [kind for kind in KINDS for _ in range(rounds)]
    draw.shuffle(order)
    seconds = sum(SECONDS_BETWEEN_KILLS) / 2 * len(order) + 2
    plan = LoadPlan(
        "127.0.0.1",
        relay.smtp_port,
        duration_seconds=seconds,
        sessions=24,
        rate=RATE,
        sizes=((5_000, 0.97), (1_500_000, 0.03)),
        recipient_counts=((1, 0.9), (45, 0.1)),
        seed=seed,
        retries_temporary=True,
        patience_seconds=60,
    )
    with Ledger(folder / "ledger.jsonl") as ledger:
        async with upstream_process(port, record):
            await relay.start()
            try:
                load = asyncio.create_task(run_load(plan, ledger))
                watch = asyncio.create_task(_watch_in_flight(relay, run))
                await _kill_in_order(relay, order, draw, run)
                run.load = await load
                watch.cancel()
                await relay.wait_ready(60)
                await _wait_drained(relay)
                assert await relay.stop() == 0
            finally:
                if relay.process is not None and relay.process.returncode is None:
                    relay.process.kill()
                    await relay.process.wait()
        run.verdict = compare(ledger, read_deliveries(record))
    _trace_duplicates(run, record)
    return run


async def _wait_drained(relay: Relay) -> None:
    """Wait until nothing is queued; what still is, is told with the relay's own numbers."""
    try:
        await relay.wait_health(DRAIN_SECONDS, queued_emails=0)
    except AssertionError as error:
        metrics = await relay.get("/metrics", headers={"Accept": "text/plain"})
        kept = [line for line in metrics.text.splitlines() if re.match("mailrelay_(qu|st)", line)]
        listed = (await relay.get("/api/messages?state=queued&limit=5")).text
        raise AssertionError("\n".join([str(error), *kept, listed])) from error


async def _kill_in_order(relay: Relay, order: list[str], draw: random.Random, run: Run) -> None:
    for kind in order:
        await asyncio.sleep(draw.uniform(*SECONDS_BETWEEN_KILLS))  # the plan's own pace
        pid = 0

        async def kill(kind: str = kind) -> bool:
            nonlocal pid
            with contextlib.suppress(KeyError, ProcessLookupError, AssertionError):
                pid = relay.kill(kind, signal.SIGKILL)
                return True
            return False  # it is being restarted from the last kill

        await wait_until(kill, 30, f"there is a {kind} to kill")
        run.kills.append((time.time(), kind))
        if kind == "supervisor":
            assert relay.process is not None
            await relay.process.wait()
            await relay.start(wait_ready=False)
        elif draw.random() < 0.5:
            # Half of the kills hit a relay that is whole again, half one that is still hurt.
            await relay.wait_ready(60)


async def _watch_in_flight(relay: Relay, run: Run) -> None:
    """Look at the sender's own gauge now and then."""
    while True:
        await asyncio.sleep(0.5)  # a sampling interval
        with contextlib.suppress(Exception):
            reader, writer = await asyncio.open_connection(
                *relay.run_file().probes["sender"].rsplit(":", 1)
            )
            writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
            text = (await asyncio.wait_for(reader.read(), 5)).decode()
            writer.close()
            for line in text.splitlines():
                if line.startswith("mailrelay_deliveries_in_flight "):
                    run.most_in_flight = max(run.most_in_flight, int(float(line.split()[1])))


def _trace_duplicates(run: Run, record: Path) -> None:
    """A duplicate is allowed for a job that was open at a kill (docs/decisions/0004)."""
    assert run.verdict is not None
    seen: dict[str, list[float]] = {}
    for line in record.read_bytes().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            fields = json.loads(line)
            if fields["kind"] == "rcpt":
                seen.setdefault(fields["address"], []).append(fields["time"])
    for ledger_id, recipient, times in run.verdict.duplicated:
        tried = seen.get(recipient, [])
        kills = [
            when
            for when, kind in run.kills
            if kind in {"sender", "nats", "supervisor"}
            and any(at <= when <= at + OPEN_SECONDS for at in tried)
        ]
        if len(kills) >= times - 1:
            run.traced += 1
        else:
            run.untraced.append(f"{ledger_id} {recipient} taken {times} times, tried {tried}")


def main() -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="tests.chaos.random_kills")
    parser.add_argument("--rounds", type=int, default=10, help="kills of each kind of process")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--keep", type=Path, help="an empty folder to leave everything in")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = options.keep or stack.enter_context(
            tempfile.TemporaryDirectory(prefix="mailrelay-kills-")
        )
        run = asyncio.run(run_kills(Path(folder), rounds=options.rounds, seed=options.seed))
        sys.stdout.write(f"{run}\n{'good' if run.is_good else 'BAD'}\n")
    return 0 if run.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
