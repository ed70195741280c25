"""A scenario's stage: who and what is there, and what several of them do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from tests.cluster.clusters import Cluster
from tests.cluster.install import Release
from tests.cluster.mail import Load
from tests.cluster.relays import KIND, NAME, NAMESPACE
from tests.cluster.sinks import Sink
from tests.support.kubernetes.client import Client, Manifest
from tests.support.wait import wait_until

SECONDS: Final = 300.0  # for one thing to come true, on a machine that is busy


@dataclass(frozen=True, slots=True)
class Scene:
    """Who and what is there."""

    cluster: Cluster
    client: Client
    load: Load
    sink: Sink
    release: Release


Scenario = Callable[[Scene], Awaitable[None]]


async def patch(scene: Scene, spec: Manifest) -> None:
    """Change the relay's spec; None removes a field."""
    await scene.client.patch(*KIND, NAME, {"spec": spec}, namespace=NAMESPACE)


async def generation(scene: Scene, kind: str, name: str) -> int:
    """Which version of its spec a workload has."""
    found = await scene.client.get("apps/v1", kind, name, namespace=NAMESPACE)
    return int(found["metadata"]["generation"])


async def is_newer(scene: Scene, kind: str, name: str, before: int) -> bool:
    """Whether a workload's spec has changed."""
    return await generation(scene, kind, name) > before


async def wait_replicas(scene: Scene, name: str, count: int) -> None:
    """Wait until a Deployment has so many pods, all ready, and none that ends."""

    async def has() -> bool:
        found = await scene.client.get("apps/v1", "Deployment", name, namespace=NAMESPACE)
        status = found["status"]
        counted = [status.get(key, 0) for key in ("replicas", "readyReplicas")]
        assert [found["spec"]["replicas"], *counted] == [count] * 3, status
        # Those that go may still be at work.
        assert not status.get("terminatingReplicas"), status
        return True

    await wait_until(has, SECONDS, f"{name} has {count} pods", 0.2)
