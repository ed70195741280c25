"""Senders by the monitor's numbers, on the real API server; the monitor's part is played."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.operator.operators import (
    RELAY,
    SOON,
    kept_relay,
    operator,
    relay,
    wait_condition,
    wait_replicas,
)
from tests.support.kubernetes.client import Client
from tests.support.kubernetes.cluster import ApiServer
from tests.support.wait import wait_until

pytestmark = pytest.mark.operator

DEPLOYMENT = ("apps/v1", "Deployment")
AUTOSCALING = {
    "minReplicas": 0,
    "maxReplicas": 5,
    "readyPerReplica": 10,
    "scaleDownSeconds": 0,
}


class PlayedMonitor:
    """Answers as the monitor does (docs/http.md)."""

    def __init__(self) -> None:
        self.new = 0
        self.soon = 0
        self.jobs = 0
        self.health: dict[str, object] = {"status": "ok"}
        self.tokens: set[str] = set()
        self.server: ThreadingHTTPServer

    def answer(self, path: str, token: str) -> dict[str, object]:
        self.tokens.add(token)
        if path.endswith("/health"):
            return self.health
        ready = {"new": self.new, "soon": self.soon}
        return {"ready": ready, "jobs": self.jobs, "failed": 0, "captured": 0}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/{{namespace}}/{{name}}"


@pytest.fixture
def monitor() -> Iterator[PlayedMonitor]:
    played = PlayedMonitor()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(played.answer(self.path, self.headers.get("Authorization", "")))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    played.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=played.server.serve_forever)
    thread.start()
    yield played
    with contextlib.suppress(OSError):
        played.server.shutdown()
        played.server.server_close()
    thread.join()


async def test_senders_follow_what_is_ready_to_zero_and_back(
    api_server: ApiServer,
    admin: Client,
    tmp_path: Path,
    monitor: PlayedMonitor,
) -> None:
    async with kept_relay(
        api_server,
        admin,
        tmp_path,
        {"sender": {"autoscaling": AUTOSCALING}},
        monitor_url=monitor.url,
    ):
        # 10,000 jobs are deferred for long: nobody is needed for them.
        monitor.jobs = 10_000
        await wait_replicas(admin, "relay-sender", 0)
        monitor.soon = 35
        await wait_replicas(admin, "relay-sender", 4)
        monitor.new, monitor.soon = 1, 0
        await wait_replicas(admin, "relay-sender", 1)
        secret = await admin.get("v1", "Secret", "relay-http-token")
        assert len(monitor.tokens) == 1
        assert secret["data"]["token"] not in str(monitor.tokens)


async def test_a_monitor_that_is_killed_while_there_are_no_senders_brings_one(
    api_server: ApiServer,
    admin: Client,
    tmp_path: Path,
    monitor: PlayedMonitor,
) -> None:
    async with kept_relay(
        api_server,
        admin,
        tmp_path,
        {"sender": {"autoscaling": AUTOSCALING}},
        monitor_url=monitor.url,
    ):
        await wait_replicas(admin, "relay-sender", 0)
        monitor.server.shutdown()
        monitor.server.server_close()
        await wait_replicas(admin, "relay-sender", 1)


async def test_what_the_monitor_says_is_told(
    api_server: ApiServer,
    admin: Client,
    namespace: str,
    tmp_path: Path,
    monitor: PlayedMonitor,
) -> None:
    reason = "the upstream smtp.test:587 cannot be used: connection refused"
    monitor.health = {"status": "degraded", "reasons": [reason]}
    monitor.jobs = 7
    async with operator(api_server, namespace, tmp_path, monitor_url=monitor.url):
        await admin.apply(relay())
        said = await wait_condition(admin, "Degraded", "True", "Health")
        assert said == reason
        body = await admin.get(*RELAY, "relay")
        assert body["status"]["queue"]["jobs"] == 7


async def test_somebody_elses_scaling_is_left_alone(
    api_server: ApiServer, admin: Client, tmp_path: Path
) -> None:
    async with kept_relay(api_server, admin, tmp_path, {"sender": {"replicas": 3}}):
        await admin.apply(relay(sender={"scaledExternally": True}))

        async def is_seen() -> bool:
            body = await admin.get(*RELAY, "relay")
            return bool(body["status"]["observedGeneration"] == body["metadata"]["generation"])

        await wait_until(is_seen, SOON, "the change was seen", interval=0.1)
        assert (await admin.get(*DEPLOYMENT, "relay-sender"))["spec"]["replicas"] == 3
        scale = {"spec": {"replicas": 5}}
        await admin.patch(*DEPLOYMENT, "relay-sender", scale, subresource="scale")
        await admin.apply(relay(sender={"scaledExternally": True}, ingress={"replicas": 4}))

        async def is_made() -> bool:
            found = await admin.get(*DEPLOYMENT, "relay-ingress")
            return bool(found["spec"]["replicas"] == 4)

        await wait_until(is_made, SOON, "the change was made", interval=0.1)
        assert (await admin.get(*DEPLOYMENT, "relay-sender"))["spec"]["replicas"] == 5
