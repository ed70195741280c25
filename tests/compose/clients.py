"""What somebody on the host does with a relay in containers: HTTP, and mail under TLS with AUTH."""

from __future__ import annotations

import ssl
from typing import Any

import httpx

from tests.support.load_plan import LoadPlan
from tests.support.wait import wait_until

USER = "mailrelay"  # of the relay's own making
HTTP_SECONDS = 10.0


def any_certificate() -> ssl.SSLContext:
    """Return a client's context that takes a self-signed certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def load_plan(port: int, password: str, run: str, **changes: Any) -> LoadPlan:  # noqa: ANN401
    """Return a load of mail that a relay in a container takes."""
    settings: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": port,
        "sessions": 8,
        "rate": 50.0,  # a second: what is still queued at the end does not keep a test waiting
        "credentials": (USER, password),
        "starttls": any_certificate(),
        "retries_temporary": True,
        "patience_seconds": 60.0,
        "run": run,
    }
    return LoadPlan(**settings | changes)


async def wait_total(port: int, count: int) -> None:
    """Wait until the totals have so many messages; they follow within a second."""

    async def has() -> bool:
        return bool((await ask(port, "GET", "/metrics")).json()["total_emails"] == count)

    await wait_until(has, 15.0, f"{count} messages are counted", 0.1)


async def ask(port: int, method: str, path: str, token: str = "") -> httpx.Response:
    """Ask over HTTP as curl would on the host."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with httpx.AsyncClient(timeout=HTTP_SECONDS) as client:
        return await client.request(method, f"http://localhost:{port}{path}", headers=headers)
