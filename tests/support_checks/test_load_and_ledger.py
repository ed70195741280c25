from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import scripts
from tests.support.deliveries import count_rcpts, read_deliveries
from tests.support.extensions import Extensions
from tests.support.ledger import Ledger, Outcome, compare, delivery_seconds
from tests.support.load import run_load
from tests.support.load_plan import LoadPlan, make_message
from tests.support.replies import Reply
from tests.support.scripting import AcceptThenClose, Close, Stage
from tests.support.upstream import ScriptedUpstream
from tests.support.wait import wait_until

ROOT = Path(__file__).parents[2]


def plan_for(upstream: ScriptedUpstream, count: int, **more: object) -> LoadPlan:
    plan = LoadPlan(upstream.host, upstream.port, count=count, sessions=5)
    return replace(plan, **more)  # type: ignore[arg-type] # fields by name


async def test_a_load_arrives_once_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    async with ScriptedUpstream(keep_content=False) as upstream:
        plan = plan_for(
            upstream,
            100,
            sizes=((600, 1.0), (20_000, 1.0)),
            recipient_counts=((1, 1.0), (3, 1.0)),
        )
        with Ledger(path) as ledger:
            report = await run_load(plan, ledger)
        verdict = compare(Ledger.read(path), upstream.received)
        assert verdict.exactly_once, str(verdict)
        assert (report.accepted, report.connections) == (100, 5)
        assert verdict.delivered_recipients > 100
        assert {entry.size for entry in ledger.entries} == {600, 20_000}
        assert {d.sha256 for d in upstream.received} == {e.sha256 for e in ledger.entries}
        assert upstream.violations == []
        assert len(delivery_seconds(ledger, upstream.received)) == verdict.accepted_recipients


async def test_a_connection_for_each_message_and_a_rate() -> None:
    async with ScriptedUpstream(keep_content=False) as upstream:
        ledger = Ledger()
        report = await run_load(
            plan_for(upstream, 20, messages_per_connection=1, rate=100.0), ledger
        )
        assert upstream.connections == 20
        assert report.seconds > 0.18


async def test_lost_connections_are_told_apart_by_the_final_dot() -> None:
    script = scripts.first_of(
        scripts.fail_at(Stage.FINAL_DOT, AcceptThenClose(reset=True), times=2),
        scripts.fail_at(Stage.DATA, Close(), times=2),
        scripts.fail_at(Stage.CONNECT, Reply(421, "4.3.2 busy"), times=2),
        scripts.fail_at(Stage.MAIL, Reply(451, "4.3.0 no"), times=2),
    )
    async with ScriptedUpstream(script, keep_content=False) as upstream:
        ledger = Ledger()
        report = await run_load(plan_for(upstream, 40), ledger)
        assert (report.accepted, report.unknown, report.refused) == (36, 2, 2)
        verdict = compare(ledger, upstream.received)
        assert verdict.exactly_once, str(verdict)
        assert [row[2] for row in verdict.unaccepted_but_delivered] == [Outcome.UNKNOWN] * 2


async def test_a_temporary_refusal_is_tried_again_when_asked() -> None:
    script = scripts.defer_fraction(0.5)
    async with ScriptedUpstream(script, keep_content=False) as upstream:
        ledger = Ledger()
        report = await run_load(plan_for(upstream, 20, retries_temporary=True), ledger)
        assert report.accepted == 20
        assert compare(ledger, upstream.received).exactly_once


async def test_the_verdict_names_what_is_lost_doubled_altered_and_foreign() -> None:
    async with ScriptedUpstream(keep_content=False) as upstream:
        ledger = Ledger()
        await run_load(plan_for(upstream, 5), ledger)
        taken = {delivery.ledger_id: delivery for delivery in upstream.received}
    refused = replace(ledger.entries[4], outcome=Outcome.REFUSED)
    ledger.entries[4] = refused
    ids = [entry.ledger_id for entry in ledger.entries]
    deliveries = [
        taken[ids[1]],
        taken[ids[1]],
        replace(taken[ids[2]], body_sha256="00"),
        taken[ids[3]],
        taken[ids[4]],
        replace(taken[ids[3]], ledger_id="stranger"),
    ]
    verdict = compare(ledger, deliveries)
    assert [row[0] for row in verdict.lost] == [ids[0]]
    assert [(row[0], row[2]) for row in verdict.duplicated] == [(ids[1], 2)]
    assert verdict.altered == [(ids[2], "00")]
    assert [row[0] for row in verdict.refused_but_delivered] == [ids[4]]
    assert [row[0] for row in verdict.strangers] == ["stranger"]
    assert not verdict.nothing_lost
    assert f"lost                             1\n    {ids[0]} to" in str(verdict)


def test_messages_are_the_same_for_the_same_number_and_of_the_asked_size() -> None:
    plan = LoadPlan("localhost", 25, count=1, sizes=((5_000, 1.0),), run="a-")
    assert make_message(plan, 7) == make_message(plan, 7)
    assert len(make_message(plan, 7).content) == 5_000
    assert make_message(plan, 7).body_sha256 != make_message(plan, 8).body_sha256


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_processes_of_their_own_leave_complete_books(
    tmp_path: Path, number: signal.Signals
) -> None:
    record, book = tmp_path / "record.jsonl", tmp_path / "ledger.jsonl"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    upstream = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.upstream_process", "--defer-fraction", "0.2"),
        *("--record", str(record)),
        stdout=asyncio.subprocess.PIPE,
        env=environment,
        cwd=ROOT,
    )
    try:
        assert upstream.stdout is not None
        ready = await asyncio.wait_for(upstream.stdout.readline(), 20)
        load = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.load", "--port", ready.split()[1].decode()),
            *("--count", "200", "--retry-temporary", "--ledger", str(book)),
            stdout=asyncio.subprocess.PIPE,
            env=environment,
            cwd=ROOT,
        )
        printed, _ = await asyncio.wait_for(load.communicate(), 30)
        await wait_until(lambda: sum(count_rcpts(record).values()) > 200, 5, "all RCPT lines")
    finally:
        upstream.send_signal(number)
        code = await asyncio.wait_for(upstream.wait(), 10)
    assert code == (0 if number is signal.SIGTERM else -signal.SIGKILL)
    assert json.loads(printed)["accepted"] == 200
    verdict = compare(Ledger.read(book), read_deliveries(record))
    assert verdict.exactly_once, str(verdict)
    assert max(count_rcpts(record).values()) == 2


async def test_a_refusal_for_a_time_is_counted_and_a_password_that_changes_is_read_anew(
    tmp_path: Path,
) -> None:
    login, path = tmp_path / "login.json", tmp_path / "ledger.jsonl"
    login.write_text('["app", "old"]')
    offers = Extensions(auth=("PLAIN",), auth_required=True, credentials={"app": "new"})
    refused: list[int] = []
    async with ScriptedUpstream(extensions=offers, on_login_refused=refused.append) as upstream:
        plan = plan_for(upstream, 5, credentials_file=login, retries_temporary=True)
        with Ledger(path) as ledger:
            running = asyncio.create_task(run_load(plan, ledger))
            await wait_until(lambda: ledger.told[535] >= 5, 30, "all are refused")
            login.write_text('["app", "new"]')
            report = await running
            ledger.end({"accepted": report.accepted})
    assert report.accepted == 5
    assert len(refused) == ledger.told[535]
    kept = Ledger.read(path)
    assert kept.told == ledger.told
    assert kept.report == {"accepted": 5}
    assert compare(kept, upstream.received).exactly_once
