"""One run: a relay, an upstream, a load and a plan's faults; then repair, and judge."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from tests.chaos import disk
from tests.chaos.books import read_books, write_faults
from tests.chaos.end_state import EndState, settle_down
from tests.chaos.faults import Happening, Inflictor
from tests.chaos.flow import Flow
from tests.chaos.judge import ACK_WAIT_SECONDS, PROCESSING_SECONDS, Judgement, judge
from tests.chaos.one_machine import one_machine
from tests.chaos.plan import Plan
from tests.chaos.sites import ONE_MACHINE, THREE_SERVERS, Site
from tests.chaos.three_servers import three_servers
from tests.chaos.upstream import UpstreamProcess, upstream_process
from tests.support.ledger import Ledger, Outcome
from tests.support.load import LoadReport, run_load
from tests.support.load_plan import LoadPlan
from tests.support.ports import free_port
from tests.support.relay import RelayClient, forwarding_to

WORKERS = 16
SESSIONS = 24
STUCK_SECONDS = 120.0  # what waits gets less within this time, or is stuck
_READY_SECONDS = 120.0
_QUIET_SECONDS = 2.0  # mail flows before the first fault and after the last one
_LONGEST_SECONDS = 6 * 3600.0


@dataclass(frozen=True, slots=True)
class Report:
    """What a run came to."""

    plan: Plan
    seconds: float
    happened: list[Happening]
    load: LoadReport
    judgement: Judgement
    end: EndState
    resends: int
    left_out: int
    bad_stops: list[int]
    miscounted: list[str]

    @property
    def kills(self) -> int:
        """Processes ended by SIGKILL."""
        return sum(each.fault.kills for each in self.happened)

    @property
    def is_good(self) -> bool:
        """Whether every promise was kept and nothing was left behind."""
        return self.judgement.is_good and self.end.is_clean and not self.miscounted


async def run_plan(
    plan: Plan,
    folder: Path,
    *,
    rate: float,
    site: Site = ONE_MACHINE,
    small_disk: bool = disk.is_possible(),
) -> Report:
    """Carry a plan out in an empty folder; what is written there stays.

    Without `small_disk` the queue lies on the folder's own file system, which is never full.
    """
    record, ledger_file, faults_file = (
        folder / name for name in ("upstream.jsonl", "ledger.jsonl", "faults.json")
    )
    upstream_port = free_port()
    options = _options(upstream_port)
    starting = (
        three_servers(folder, options)
        if site is THREE_SERVERS
        else one_machine(folder, options, small_disk=small_disk)
    )
    began = time.monotonic()
    with Ledger(ledger_file) as ledger:
        async with upstream_process(upstream_port, record) as upstream, starting as rig:
            inflictor = Inflictor(rig, upstream, Flow(ledger, record))
            stop = asyncio.Event()
            load = asyncio.create_task(run_load(_load_plan(plan, rig.relay, rate), ledger, stop))
            try:
                try:
                    await _inflict(plan, inflictor, upstream)
                finally:
                    stop.set()
                    load_report = await load
                await rig.ready.wait_ready(_READY_SECONDS)
                log = structlog.get_logger()
                end = await settle_down(rig.relay, rig.monitor_settings(), log, STUCK_SECONDS)
            finally:
                write_faults(faults_file, inflictor.happened, rig.ready.ready_at)
            bad_stops = list(rig.exit_codes)
    books = read_books(ledger_file, record, faults_file)
    return Report(
        plan=plan,
        seconds=time.monotonic() - began,
        happened=inflictor.happened,
        load=load_report,
        judgement=judge(books),
        end=end,
        resends=len(inflictor.resent),
        left_out=inflictor.left_out,
        bad_stops=bad_stops,
        miscounted=_miscounted(ledger, end),
    )


async def _inflict(plan: Plan, inflictor: Inflictor, upstream: UpstreamProcess) -> None:
    """Follow the plan's tracks until that of the processes has ended."""
    await asyncio.sleep(_QUIET_SECONDS)  # the plan's own pace
    beside = [asyncio.create_task(inflictor.follow(track)) for track in (plan.upstream, plan.disk)]
    try:
        await inflictor.follow(plan.processes, plan.limit_seconds)
    finally:
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        upstream.set_trouble("")
        await inflictor.wait_over()
    await asyncio.sleep(_QUIET_SECONDS)  # the plan's own pace


def _options(upstream_port: int) -> dict[str, Any]:
    """Return what a run asks of the relay's configuration, on any site."""
    return {
        "workerCount": WORKERS,
        "queueSize": 100_000,
        "processingTimeout": PROCESSING_SECONDS,
        "queue": {"ackWaitSeconds": ACK_WAIT_SECONDS},
        "retry": {
            "maxAttempts": 1000,
            "initialIntervalSeconds": 1,
            "multiplier": 2,
            "maxIntervalSeconds": 8,  # longer than the shortest lane: jobs are moved, too
            "maxAgeSeconds": 24 * 3600,
        },
        **forwarding_to(upstream_port),
    }


def _load_plan(plan: Plan, relay: RelayClient, rate: float) -> LoadPlan:
    return LoadPlan(
        "127.0.0.1",
        relay.smtp_port,
        duration_seconds=_LONGEST_SECONDS,
        sessions=SESSIONS,
        rate=rate,
        # Inline, stored once it is written twice, and stored at once.
        sizes=((5_000, 0.92), (100_000, 0.05), (1_500_000, 0.03)),
        recipient_counts=((1, 0.85), (3, 0.08), (45, 0.07)),
        seed=plan.seed,
        patience_seconds=60,
    )


def _miscounted(ledger: Ledger, end: EndState) -> list[str]:
    """The relay's own totals against the clients' book.

    What got no answer, and what got a 451 after the relay's deadline, may be stored or not.
    """
    least = len(ledger.accepted)
    most = least + len(ledger.with_outcome(Outcome.UNKNOWN))
    most += len([entry for entry in ledger.with_outcome(Outcome.REFUSED) if entry.code == 451])
    found = end.totals.get("total_emails", 0)
    wrong = []
    if not least <= found <= most:
        wrong.append(f"{found} emails in the totals, {least} to {most} by the clients' book")
    if end.totals.get("failed_emails", 0):
        wrong.append(f"{end.totals['failed_emails']} failed emails after all were resent")
    return wrong
