from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from mailrelay.config.model import RelayConfig, Security
from mailrelay.mail.event import Accepted, Attempted
from mailrelay.queue.connection import QueueConnection
from mailrelay.queue.lanes import LADDER
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.rights import Role
from mailrelay.queue.streams import ensure
from mailrelay.queue.wire import encode_events
from mailrelay.runtime.logging import Logger
from mailrelay.service import ServiceSettings
from mailrelay_ingress.replies import CLIENT_DENIED
from mailrelay_monitor.http import make_app
from mailrelay_monitor.main import _Monitor
from tests.monitor.conftest import LIMITS, Connect
from tests.monitor.nats import NatsServer
from tests.monitor.story import (
    BOUNCED,
    SENT,
    accepted,
    attempted,
    queue_id,
    summary,
)
from tests.support.guide import HEALTH_ANSWER, METRICS_ANSWER
from tests.support.wait import wait_until

Background = Callable[[Awaitable[object]], "asyncio.Future[object]"]
PROMETHEUS_ACCEPTS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)


class Greeter:
    """An SMTP listener that greets, and says what it was told."""

    def __init__(self) -> None:
        self.greeting = b"220 relay.example ESMTP\r\n"
        self.heard = b""
        self.port = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self.greeting)
        self.heard = await reader.readline()
        writer.close()


@pytest.fixture
async def greeter() -> AsyncIterator[Greeter]:
    greeter = Greeter()
    server = await asyncio.start_server(greeter.answer, "127.0.0.1", 0)
    greeter.port = server.sockets[0].getsockname()[1]
    async with server:
        yield greeter


@pytest.fixture
async def monitor(
    connection: QueueConnection,
    server: NatsServer,
    tmp_path: Path,
    log: Logger,
    greeter: Greeter,
    background: Background,
) -> AsyncIterator[_Monitor]:
    """All parts, the collector running."""
    settings = ServiceSettings(
        role="monitor",
        config_file=None,
        config=RelayConfig(security=Security(requireAuth=False)),
        data_dir=tmp_path,
        queue=server.connection_settings(Role.MONITOR),
        listen_fds=(),
        probe_address="",
        log_format="json",
        smtp_address=("127.0.0.1", greeter.port),
    )
    monitor = _Monitor(settings, connection, log)
    await monitor._backlog.look()
    background(monitor._collector.run())
    await wait_until(lambda: monitor._collector.is_caught_up, 10, "caught up")
    yield monitor
    await monitor._keep()


def client_of(monitor: _Monitor, address: str = "127.0.0.1") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(make_app(monitor._sources), client=(address, 5))
    return httpx.AsyncClient(transport=transport, base_url="http://localhost:8025")


@pytest.fixture
async def client(monitor: _Monitor) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(monitor) as client:
        yield client


Tell = Callable[..., Awaitable[None]]


@pytest.fixture
async def tell(monitor: _Monitor, connect: Connect) -> Tell:
    """Store events, and wait until they are counted."""
    sender = await connect(Role.SENDER)

    async def tell(*events: Accepted | Attempted) -> None:
        record = Record(sender.names.event_subject("sender"), encode_events(list(events)), "")
        stored = await Publisher(sender).store(record)
        collector = monitor._collector
        await wait_until(lambda: collector.ledger.sequence >= stored.sequence, 10, "counted")

    return tell


def shape(answer: object) -> object:
    """Keys in order and types of a JSON value."""
    if isinstance(answer, dict):
        return {key: shape(value) for key, value in answer.items()}
    return type(answer).__name__


async def test_health_and_metrics_have_the_keys_and_types_of_the_guides_examples(
    client: httpx.AsyncClient, tell: Tell
) -> None:
    one, two = summary(queue_id(), 2), summary(queue_id(), 3)
    await tell(attempted(one, {0: SENT, 1: SENT}), attempted(two, {0: SENT, 1: BOUNCED, 2: SENT}))
    for path, example in (("/health", HEALTH_ANSWER), ("/metrics", METRICS_ANSWER)):
        answer = await client.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert json.dumps(shape(answer.json())) == json.dumps(shape(json.loads(example)))
    assert (await client.get("/health")).json()["details"]["success_rate"] == 50.0


async def test_health_has_exactly_the_guides_shape(client: httpx.AsyncClient, tell: Tell) -> None:
    one, two, three = (summary(queue_id(), 2) for _ in range(3))
    await tell(attempted(one, {0: SENT, 1: SENT}), attempted(two, {0: SENT, 1: BOUNCED}))
    await tell(accepted(three))
    answer = await client.get("/health")
    health = answer.json()
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert list(health) == ["status", "timestamp", "details"]
    assert health["status"] == "ok"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", health["timestamp"])
    assert health["details"].pop("disk_space_available_mb") > 0
    assert health["details"] == {
        "queued_emails": 1,
        "failed_emails": 1,
        "total_emails_processed": 2,
        "success_rate": 50.0,
    }


async def test_metrics_are_the_guides_json_unless_asked_otherwise(
    client: httpx.AsyncClient, tell: Tell
) -> None:
    await tell(attempted(summary(queue_id(), 2), {0: SENT, 1: SENT}, after=0.25))
    answer = await client.get("/metrics")
    assert answer.json() == {
        "total_emails": 1,
        "successful_emails": 1,
        "failed_emails": 0,
        "total_recipients": 2,
        "avg_processing_time_ms": 250,
    }


async def test_metrics_are_in_exposition_format_for_prometheus(
    client: httpx.AsyncClient, tell: Tell
) -> None:
    await tell(attempted(summary(queue_id()), {0: SENT}))
    answer = await client.get("/metrics", headers={"Accept": PROMETHEUS_ACCEPTS})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert "mailrelay_emails_accepted_total 1.0\n" in answer.text
    assert 'mailrelay_emails{state="successful"} 1.0\n' in answer.text
    assert 'mailrelay_queue_jobs{state="new"} 0.0\n' in answer.text
    assert 'mailrelay_store_bytes{stream="body"} 0.0\n' in answer.text
    plain = await client.get("/metrics", headers={"Accept": "text/plain"})
    assert plain.headers["content-type"].startswith("text/plain")


async def test_health_is_unavailable_while_the_queue_is_away(
    client: httpx.AsyncClient, monitor: _Monitor, server: NatsServer
) -> None:
    server.kill()
    await wait_until(lambda: not monitor._connection.is_connected, 10, "disconnected")
    answer = await client.get("/health")
    assert answer.status_code == 503
    assert answer.json()["status"] == "unavailable"
    assert answer.json()["reasons"][0] == "queue unreachable: not connected"
    assert (await client.get("/metrics")).status_code == 200
    assert (await client.get("/healthz")).status_code == 200
    server.start()
    await wait_until(lambda: monitor._connection.is_connected, 10, "connected again")
    await monitor._backlog.look()
    await wait_until(lambda: not monitor._collector.fault, 10, "the collector goes on")
    assert (await client.get("/health")).json()["status"] == "ok"


async def test_ready_once_queue_and_listener_answer(
    client: httpx.AsyncClient, greeter: Greeter
) -> None:
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.text) == (200, "ok\n")
    assert greeter.heard == b"QUIT\r\n"


async def test_not_ready_while_the_listener_does_not_greet_with_220(
    client: httpx.AsyncClient, greeter: Greeter
) -> None:
    greeter.greeting = b"421 4.3.2 too busy\r\n"
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert "says '421 4.3.2 too busy'" in answer.text


async def test_ready_when_the_listener_serves_other_networks_than_the_monitors(
    client: httpx.AsyncClient, greeter: Greeter
) -> None:
    greeter.greeting = f"{CLIENT_DENIED}\r\n".encode()
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.text) == (200, "ok\n")


async def test_not_ready_before_the_totals_are_caught_up(
    client: httpx.AsyncClient, monitor: _Monitor
) -> None:
    monitor._collector.is_caught_up = False
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.text) == (503, "the totals are not caught up yet\n")


async def test_message_is_shown_with_its_recipients(client: httpx.AsyncClient, tell: Tell) -> None:
    about = summary(queue_id(), 2)
    await tell(accepted(about), attempted(about, {1: BOUNCED}))
    answer = await client.get(f"/api/messages/{about.submission}")
    assert answer.status_code == 200
    assert answer.json() == {
        "id": about.submission,
        "accepted_at": "1970-01-01T00:16:40Z",
        "reverse_path": "a@from.example",
        "size_bytes": 1234,
        "total_recipients": 2,
        "state": "queued",
        "recipients": [
            {
                "number": 0,
                "address": "r0@to.example",
                "state": "queued",
                "attempts": 0,
                "reply": "",
                "next_hop": "",
                "changed_at": None,
            },
            {
                "number": 1,
                "address": "r1@to.example",
                "state": "bounced",
                "attempts": 1,
                "reply": "550 5.1.1 nobody <here>",
                "next_hop": "mx.to.example:25",
                "changed_at": "1970-01-01T00:16:41Z",
            },
        ],
    }


@pytest.mark.parametrize("name", ["none", "0" * 22, "..%2f..%2fetc", "%00"])
async def test_unknown_message_is_404(client: httpx.AsyncClient, name: str) -> None:
    assert (await client.get(f"/api/messages/{name}")).status_code == 404


async def test_newest_messages_come_first_and_no_more_than_asked_for(
    client: httpx.AsyncClient, tell: Tell
) -> None:
    about = [summary(queue_id(1_000_000.0 + number)) for number in range(3)]
    await tell(*(accepted(one) for one in about))
    answer = await client.get("/api/messages?limit=2")
    assert [one["id"] for one in answer.json()["messages"]] == [
        about[2].submission,
        about[1].submission,
    ]
    assert (await client.get("/api/messages?limit=100000")).status_code == 422


async def test_page_shows_the_mail_and_loads_nothing(client: httpx.AsyncClient, tell: Tell) -> None:
    about = summary(queue_id())
    await tell(attempted(about, {0: BOUNCED}))
    answer = await client.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert about.submission in answer.text
    assert "nobody &lt;here&gt;" in answer.text
    assert "://" not in answer.text


async def test_strangers_get_403_as_json(monitor: _Monitor) -> None:
    async with client_of(monitor, "192.0.2.1") as stranger:
        answer = await stranger.get("/health", headers={"X-Forwarded-For": "127.0.0.1"})
        assert answer.status_code == 403
        assert answer.json()["error"].startswith("only this machine is answered")
    async with client_of(monitor) as local:
        rebound = await local.get("/health", headers={"Host": "evil.example"})
        assert rebound.status_code == 403
        posted = await local.post("/admin/retry-failed", headers={"Origin": "http://evil.example"})
        assert posted.status_code == 403


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json"])
async def test_no_api_pages_are_served(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 404


async def test_the_backlog_says_what_is_ready_and_what_waits(
    client: httpx.AsyncClient, connect: Connect, monitor: _Monitor
) -> None:
    sender = await connect(Role.SENDER)
    for lane in (LADDER[0], LADDER[-1]):
        record = Record(sender.names.lane_subject(lane, None), b"x", lane.name)
        await Publisher(sender).store(record)
    await monitor._backlog.look()
    answer = await client.get("/api/backlog")
    assert answer.status_code == 200
    assert answer.json() == {
        "ready": {"new": 0, "soon": 1},
        "jobs": 2,
        "failed": 0,
        "captured": 0,
        "missing": [],
    }


async def test_what_is_gone_of_the_queue_is_named_and_mail_cannot_be_taken(
    client: httpx.AsyncClient, connect: Connect, monitor: _Monitor
) -> None:
    admin = await connect(Role.ADMIN)
    names = admin.names
    await admin.api(f"CONSUMER.DELETE.{names.lane_stream}.{names.lane_consumer(LADDER[0])}")
    await admin.api(f"STREAM.DELETE.{names.pace_stream}")
    await monitor._backlog.look()
    answer = await client.get("/api/backlog")
    assert answer.status_code == 200
    assert answer.json()["missing"] == [names.pace_stream, f"consumers of {names.lane_stream}"]
    (reason,) = (await client.get("/health")).json()["reasons"]
    assert reason.startswith(f"senders cannot claim from {names.lane_stream}: ")
    await admin.api(f"STREAM.DELETE.{names.in_stream()}")
    await admin.api(f"STREAM.DELETE.{names.lane_stream}")
    await monitor._backlog.look()
    answer = await client.get("/api/backlog")
    assert answer.status_code == 503
    gone = [names.in_stream(), names.lane_stream]
    assert answer.json()["missing"] == [*gone, names.pace_stream]
    health = await client.get("/health")
    assert health.status_code == 503
    assert health.json()["reasons"][0] == (
        f"the queue has no stream {', '.join(gone)}: `mailrelay queue ensure` makes them"
    )
    await ensure(admin, LIMITS)
    await monitor._backlog.look()
    assert (await client.get("/api/backlog")).json()["missing"] == []
