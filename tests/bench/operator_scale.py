"""The operator with many relays on a real API server: start, idle passes, memory, requests.

Without nodes and without Kubernetes' controllers, whose part is played once: what is measured is
the operator. `make bench ARGS="operator --relays 1000"`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.operator.running import RunningOperator
from tests.support.kubernetes.client import Client, Manifest, open_client
from tests.support.kubernetes.control_plane import ControlPlane
from tests.support.kubernetes.programs import CONTROL_PLANE, find_programs
from tests.support.wait import wait_until

ROOT = Path(__file__).parents[2]
RELAYS_OF_A_NAMESPACE = 50
AT_ONCE = 8
CREATE_SECONDS = 3600.0
STEADY_SECONDS = 1800.0


def main(arguments: list[str]) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="operator", description=__doc__)
    parser.add_argument("--relays", type=int, default=1000)
    parser.add_argument("--idle-seconds", type=float, default=60.0)
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        plane = ControlPlane(find_programs(CONTROL_PLANE, say), Path(folder) / "plane")
        try:
            asyncio.run(_measure(plane, Path(folder), chosen.relays, chosen.idle_seconds))
        finally:
            plane.kill()
    return 0


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def _measure(plane: ControlPlane, folder: Path, count: int, idle_seconds: float) -> None:
    plane.etcd.start()
    plane.api_server.start()
    async with open_client(plane.kubeconfig) as client:
        await wait_until(
            lambda: client.answers("/readyz"), STEADY_SECONDS, "the API server is there"
        )
        for path in sorted((ROOT / "operator" / "crd").glob("*.yaml")):
            await client.apply(path.read_text())
        await client.create(_namespace("operator"))
        await _make_relays(client, count)
        async with _running(plane, folder / "first") as (running, began):
            await _until(running, lambda done, _: done >= count, CREATE_SECONDS)
            seconds = time.monotonic() - began
            say(f"made {count} relays: {seconds:.0f} s, {count / seconds:.1f} a second")
            objects = await _play_controllers(client)
            say(f"their objects: {objects}, {objects / count:.1f} a relay, Secrets beside")
            await _calm(running)
        async with _running(plane, folder / "again") as (running, began):
            await _until(running, lambda done, depth: done >= count and not depth, STEADY_SECONDS)
            say(f"restart to steady: {time.monotonic() - began:.1f} s")
            await _calm(running)
            process = psutil.Process(running.pid)
            say(f"processor time of it: {sum(process.cpu_times()[:2]):.1f} s")
            await _idle(running, process, idle_seconds)
        # Lists and passes over all relays, each few seconds: what a pass costs that finds nothing.
        async with _running(plane, folder / "passes", relist_seconds=20.0) as (running, _):
            await _until(running, lambda done, depth: done >= count and not depth, STEADY_SECONDS)
            await _calm(running)
            await _passes(running, count)


async def _idle(running: RunningOperator, process: psutil.Process, seconds: float) -> None:
    requests = await running.metric("mailrelay_operator_api_requests")
    passes = await _done(running)
    used = sum(process.cpu_times()[:2])
    await asyncio.sleep(seconds)
    requests = await running.metric("mailrelay_operator_api_requests") - requests
    leases = seconds / 4.0 * 2  # each 4 s it is read and renewed
    used = sum(process.cpu_times()[:2]) - used
    say(f"memory: {process.memory_info().rss / 1e6:.0f} MB resident")
    say(
        f"idle for {seconds:.0f} s: {requests:.0f} API requests, some {leases:.0f} of them the "
        f"Lease's; {used / seconds * 100:.1f} % of a core; "
        f"{await _done(running) - passes:.0f} passes"
    )


async def _passes(running: RunningOperator, count: int) -> None:
    """What a pass takes: the time in passes, which on one thread is processor time at most."""
    before = await _done(running)
    spent = await running.metric("mailrelay_operator_reconcile_seconds_sum")

    async def are_enough() -> bool:
        return await _done(running) - before >= 3 * count

    await wait_until(are_enough, STEADY_SECONDS, "three passes over each", interval=1)
    done = await _done(running) - before
    spent = await running.metric("mailrelay_operator_reconcile_seconds_sum") - spent
    say(f"a pass that finds nothing to do: {spent / done * 1000:.3f} ms (mean of {done:.0f})")


@asynccontextmanager
async def _running(
    plane: ControlPlane,
    folder: Path,
    **settings: Any,  # noqa: ANN401 — RunningOperator's
) -> AsyncIterator[tuple[RunningOperator, float]]:
    running = RunningOperator(folder, plane.kubeconfig, "operator", **settings)
    began = time.monotonic()
    try:
        await running.start()
        await running.wait_leads()
        say(f"knows everything and leads after {time.monotonic() - began:.1f} s")
        yield running, began
        await running.stop()
    except Exception:
        say(running.tail())
        raise
    finally:
        await running.kill()


async def _until(
    running: RunningOperator, holds: Callable[[float, float], bool], limit_seconds: float
) -> None:
    async def is_so() -> bool:
        depth = await running.metric("mailrelay_operator_queue_depth")
        return holds(await _done(running), depth)

    await wait_until(is_so, limit_seconds, "passes over all relays", interval=0.5)


async def _calm(running: RunningOperator) -> None:
    """Wait until no pass was made for a while."""
    before = -1.0
    while (done := await _done(running)) != before:
        before = done
        await asyncio.sleep(3)


async def _done(running: RunningOperator) -> float:
    return await running.metric("mailrelay_operator_reconciles_total")


async def _make_relays(client: Client, count: int) -> None:
    relay: Manifest = yaml.safe_load(
        """
        apiVersion: mailrelay.dev/v1alpha1
        kind: MailRelay
        spec:
          routes:
            - name: everything
              smartHosts:
                - host: smtp.example.com
        """
    )
    for number in range(count):
        namespace = f"relays-{number // RELAYS_OF_A_NAMESPACE}"
        if number % RELAYS_OF_A_NAMESPACE == 0:
            await client.create(_namespace(namespace))
        head = {"name": f"relay-{number}", "namespace": namespace}
        await client.create({**relay, "metadata": head})


def _namespace(name: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


async def _play_controllers(client: Client) -> int:
    """Say of each workload that its pods are ready, and of each Job that it is done."""
    objects = 0
    room = asyncio.Semaphore(AT_ONCE)

    async def tell(api_version: str, kind: str, found: Manifest) -> None:
        head = found["metadata"]
        async with room:
            await client.patch(
                api_version,
                kind,
                head["name"],
                {"status": _status(kind, found)},
                namespace=head["namespace"],
                subresource="status",
            )

    for api_version, kind in (
        ("apps/v1", "Deployment"),
        ("apps/v1", "StatefulSet"),
        ("batch/v1", "Job"),
        ("v1", "Service"),
        ("v1", "ConfigMap"),
        ("v1", "ServiceAccount"),
        ("v1", "PersistentVolumeClaim"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
        ("policy/v1", "PodDisruptionBudget"),
    ):
        path = await client.path(api_version, kind)
        everywhere = path.replace("/namespaces/default", "")
        ours = {"labelSelector": "app.kubernetes.io/managed-by=mailrelay-operator"}
        items = (await client.request("GET", everywhere, query=ours))["items"]
        objects += len(items)
        if kind in {"Deployment", "StatefulSet", "Job"}:
            await asyncio.gather(*(tell(api_version, kind, item) for item in items))
    return objects


def _status(kind: str, found: Manifest) -> Manifest:
    now = "2026-01-01T00:00:00Z"
    if kind == "Job":
        done = [
            {"type": name, "status": "True", "lastTransitionTime": now}
            for name in ("SuccessCriteriaMet", "Complete")
        ]
        return {"conditions": done, "succeeded": 1, "startTime": now, "completionTime": now}
    replicas = found["spec"]["replicas"]
    return {
        "observedGeneration": found["metadata"]["generation"],
        "replicas": replicas,
        "readyReplicas": replicas,
        "updatedReplicas": replicas,
        "availableReplicas": replicas,
    }
