from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.rights import Role
from mailrelay.queue.wire import encode_events
from tests.monitor.conftest import Connect
from tests.monitor.monitor_process import MonitorProcess
from tests.monitor.nats import NatsServer
from tests.monitor.story import BOUNCED, DEFERRED, SENT, accepted, attempted, queue_id, summary
from tests.support.wait import wait_until

Background = Callable[[Awaitable[object]], "asyncio.Future[object]"]


@pytest.fixture
async def process(
    server: NatsServer,
    connect: Connect,  # noqa: ARG001 — makes the streams
    tmp_path: Path,
) -> AsyncIterator[MonitorProcess]:
    process = MonitorProcess(server, tmp_path)
    yield process
    process.kill()
    process.listener.close()


@pytest.mark.timeout(120)
async def test_totals_are_exact_when_the_process_is_killed_again_and_again(
    process: MonitorProcess, connect: Connect, background: Background
) -> None:
    sender = await connect(Role.SENDER)
    publisher = Publisher(sender)
    chance = random.Random(2026)  # noqa: S311
    told = 0
    enough = asyncio.Event()

    async def tell_all() -> None:
        nonlocal told
        subject = sender.names.event_subject("sender")
        while not enough.is_set() or told % 4:
            about = summary(queue_id(), 2)
            story = [accepted(about), attempted(about, {0: SENT, 1: DEFERRED})]
            await publisher.store(Record(subject, encode_events(list(story)), ""))
            final = attempted(about, {1: BOUNCED if told % 4 == 0 else SENT}, after=9)
            await publisher.store(Record(subject, encode_events([final, *story]), ""))
            told += 1

    telling = background(tell_all())
    for _ in range(5):
        process.start()
        await process.wait_ready()
        await asyncio.sleep(chance.random() * 0.5)
        process.kill()
    enough.set()
    await telling
    process.start()
    await process.wait_ready()
    async with httpx.AsyncClient(base_url=process.url) as client:

        async def finished() -> bool:
            details = (await client.get("/health")).json()["details"]
            return bool(details["total_emails_processed"] >= told)

        await wait_until(finished, 20, "all counted")
        metrics = (await client.get("/metrics")).json()
    assert metrics["total_emails"] == told > 50
    assert metrics["total_recipients"] == 2 * told
    assert metrics["failed_emails"] == told / 4
    assert metrics["successful_emails"] == told * 3 / 4


async def test_sigterm_ends_it_in_order_and_keeps_the_totals_at_the_queue(
    process: MonitorProcess, connect: Connect
) -> None:
    sender = await connect(Role.SENDER)
    about = summary(queue_id())
    subject = sender.names.event_subject("sender")
    await Publisher(sender).store(Record(subject, encode_events([accepted(about)]), ""))
    process.start()
    await process.wait_ready()
    async with httpx.AsyncClient(base_url=process.url) as client:

        async def counted() -> bool:
            return bool((await client.get("/metrics")).json()["total_emails"] == 1)

        await wait_until(counted, 10, "counted")
        started = time.monotonic()
        process.running.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(process.running.wait, 10)
    assert code == 0
    assert time.monotonic() - started < 3
    monitor = await connect(Role.MONITOR)
    info = await monitor.api(f"STREAM.INFO.{monitor.names.checkpoint_stream}")
    assert info["state"]["messages"] == 1
    lines = [json.loads(line) for line in (process.folder / "monitor.log").read_text().splitlines()]
    assert "monitor.stopped" in [line["event"] for line in lines]


async def test_sigterm_ends_it_in_time_with_the_queue_away(
    process: MonitorProcess, server: NatsServer
) -> None:
    process.start()
    await process.wait_ready()
    server.kill()
    started = time.monotonic()
    process.running.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.running.wait, 10) == 0
    assert time.monotonic() - started < 3


async def test_without_health_check_there_is_no_http_and_the_collector_runs(
    process: MonitorProcess, connect: Connect
) -> None:
    process.start(ENABLE_HEALTH_CHECK="false")
    await process.wait_ready()
    sender = await connect(Role.SENDER)
    subject = sender.names.event_subject("sender")
    await Publisher(sender).store(
        Record(subject, encode_events([accepted(summary(queue_id()))]), "")
    )
    await wait_until((process.folder / "data/monitor/index.sqlite3").exists, 10, "it collects")
    async with httpx.AsyncClient(base_url=process.url, timeout=0.5) as client:
        with pytest.raises(httpx.TimeoutException):  # the test's own socket, nobody accepts
            await client.get("/healthz")


async def test_own_port_is_on_loopback_and_a_taken_one_is_told(process: MonitorProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process.start(MAILRELAY_LISTEN_FDS="", HEALTH_CHECK_PORT=str(port))
        assert await asyncio.to_thread(process.running.wait, 10) == 1
    assert "Address already in use" in (process.folder / "monitor.log").read_text()
    process.start(MAILRELAY_LISTEN_FDS="", HEALTH_CHECK_PORT=str(port))
    await process.wait_ready()
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"http://127.0.0.1:{port}/healthz")).text == "ok\n"


def test_configuration_that_cannot_be_used_is_told_line_by_line_with_exit_code_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mailrelay_monitor"],
        env=os.environ | {"HEALTH_CHECK_PORT": "none", "QUEUE_SIZE": "0.5"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["QUEUE_SIZE", "HEALTH_CHECK_PORT"]


async def test_probe_tells_metrics_and_readiness_without_the_listener(
    process: MonitorProcess,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    process.start(MAILRELAY_PROBE_ADDRESS=address, ENABLE_HEALTH_CHECK="false")
    await process.wait_ready()
    async with httpx.AsyncClient(base_url=f"http://{address}") as client:

        async def ready() -> bool:
            return (await client.get("/readyz")).text == "ok\n"

        await wait_until(ready, 10, "ready")
        assert "mailrelay_queue_up 1.0\n" in (await client.get("/metrics")).text
