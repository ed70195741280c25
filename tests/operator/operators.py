"""Operators on the real API server with just the shipped rights, and a node's part played.

There is no node, so nothing would ever be ready. `PlayedNode` says of each pod what a kubelet
would: running and ready, or ended. Everything above pods is Kubernetes' own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from mailrelay_operator.rights import OWN, RELAYS, rules
from tests.operator.running import RunningOperator
from tests.operator.silent_api import SilentApi
from tests.support.kubernetes.client import ApiRefusedError, Client, Manifest
from tests.support.kubernetes.cluster import ApiServer
from tests.support.wait import wait_until

ACCOUNT = "mailrelay-operator"
RELAY = ("mailrelay.dev/v1alpha1", "MailRelay")
SOON = 90.0  # seconds; on a quiet machine it is one


def relay(name: str = "relay", **spec: Any) -> Manifest:  # noqa: ANN401 — JSON
    """A resource with one smart host."""
    return {
        "apiVersion": RELAY[0],
        "kind": RELAY[1],
        "metadata": {"name": name},
        "spec": {"routes": [{"name": "all", "smartHosts": [{"host": "smtp.test"}]}], **spec},
    }


@contextlib.asynccontextmanager
async def operator(
    api_server: ApiServer,
    namespace: str,
    folder: Path,
    *,
    way: SilentApi | None = None,
    **settings: Any,  # noqa: ANN401 — RunningOperator's
) -> AsyncIterator[RunningOperator]:
    """An operator that keeps one namespace, with rights in it alone; it is ready in the block.

    `way` is how it gets to the API server, when that is not directly.
    """
    await api_server.service_account(namespace, ACCOUNT, rules=rules((*RELAYS, *OWN)))
    kubeconfig = await api_server.kubeconfig_of(namespace, ACCOUNT)
    if way is not None:
        way.lead_here(kubeconfig)
    running = RunningOperator(folder, kubeconfig, namespace, watched=namespace, **settings)
    try:
        await running.start()
        await running.wait_ready()
        yield running
    finally:
        await running.kill()


async def conditions(client: Client, name: str = "relay") -> dict[str, tuple[str, str, str]]:
    """A relay's conditions: status, reason, message by type."""
    found = await client.find(*RELAY, name)
    told = ((found or {}).get("status") or {}).get("conditions", ())
    return {each["type"]: (each["status"], each["reason"], each["message"]) for each in told}


async def wait_condition(
    client: Client, kind: str, status: str, reason: str, name: str = "relay", words: str = ""
) -> str:
    """Wait for a condition, with these words in its message; the message."""
    message = ""

    async def holds() -> bool:
        nonlocal message
        told = (await conditions(client, name)).get(kind)
        assert told is not None, "no status yet"
        assert told[:2] == (status, reason), told
        message = told[2]
        assert words in message, message
        return True

    await wait_until(holds, SOON, f"{name}: {kind} is {status}, {reason}", interval=0.1)
    return message


async def wait_made(client: Client, name: str = "relay") -> None:
    """Wait until the operator has made everything and said so."""
    await wait_condition(client, "Progressing", "True", "Rolling", name)


async def wait_replicas(client: Client, name: str, replicas: int, seconds: float = SOON) -> None:
    """Wait until a Deployment is to have so many pods."""

    async def has_them() -> bool:
        found = await client.find("apps/v1", "Deployment", name)
        there = found["spec"]["replicas"] if found is not None else None
        assert there == replicas, f"it has {there}"
        return True

    await wait_until(has_them, seconds, f"{name} has {replicas} replicas", interval=0.1)


@contextlib.asynccontextmanager
async def kept_relay(
    api_server: ApiServer,
    admin: Client,
    folder: Path,
    spec: dict[str, Any] | None = None,
    **settings: Any,  # noqa: ANN401 — the operator's
) -> AsyncIterator[RunningOperator]:
    """An operator in the client's namespace, and a relay whose objects it has made."""
    async with operator(api_server, admin.namespace, folder, **settings) as running:
        await admin.apply(relay(**(spec or {})))
        await wait_made(admin)
        yield running


@contextlib.asynccontextmanager
async def played_node(client: Client, *, failing: str = " ") -> AsyncIterator[None]:
    """Make pods run, all but those whose image contains `failing`."""
    playing = asyncio.create_task(_play(client, failing))
    try:
        yield
    finally:
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)


async def _play(client: Client, failing: str) -> None:
    while True:
        for pod in await client.list("v1", "Pod"):
            is_done = pod["status"].get("phase") in {"Running", "Succeeded"}
            image = pod["spec"]["containers"][0]["image"]
            if is_done or failing in image or "deletionTimestamp" in pod["metadata"]:
                continue
            with contextlib.suppress(ApiRefusedError):  # gone meanwhile
                await play_pod(client, pod)
        await asyncio.sleep(0.3)


async def play_pod(client: Client, pod: Manifest) -> None:
    """Say of a pod that it runs, or that it ended well when it is a Job's."""
    status = {"status": _status(pod)}
    await client.patch("v1", "Pod", pod["metadata"]["name"], status, subresource="status")


def _status(pod: Manifest) -> Manifest:
    if any(owner["kind"] == "Job" for owner in pod["metadata"]["ownerReferences"]):
        return {"phase": "Succeeded"}
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    return {"phase": "Running", "conditions": [ready]}
