"""Mail through a relay in the cluster: a sink's pod and a client's pod, and their two books.

Their pods run this folder's and the tests' support code in the tools image, in a namespace without
a Pod Security Standard: they see folders of the node, which here is the machine that the tests
run on.
"""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.cluster.install import ROOT, namespace, wait_deployment
from tests.support.deliveries import Delivery, read_deliveries
from tests.support.kubernetes.client import ApiRefusedError, Client, Manifest
from tests.support.kubernetes.node import image_reference
from tests.support.ledger import Ledger, Verdict, compare
from tests.support.wait import wait_until

NAMESPACE: Final = "clients"
DEFERRING: Final = "sink"  # defers what the mix says, each recipient once
WILLING: Final = "willing-sink"
SINK_PORT: Final = 2526
_USER: Final = 10_001  # the image's own
_SOON_SECONDS: Final = 120.0
# What was claimed when a sender was killed comes back after ackWait, deferred mail a little later.
DELIVERED_SECONDS: Final = 180.0
# The mix: a twentieth above 1 MB, a tenth with several batches, none alike.
SIZES: Final = ((5_000, 0.95), (1_200_000, 0.05))
RECIPIENT_COUNTS: Final = ((1, 0.9), (12, 0.1))
DEFERRED: Final = 0.05
RATE: Final = 50.0


@dataclass(frozen=True, slots=True)
class Sink:
    """Where the relay sends to."""

    record: Path

    def deliveries(self, run: str) -> list[Delivery]:
        """What it took so far of a run."""
        found = read_deliveries(self.record) if self.record.exists() else []
        return [delivery for delivery in found if delivery.ledger_id.startswith(run)]

    async def wait_kept(self, ledger: Ledger, run: str) -> Verdict:
        """Wait until every promise of a run is kept; how the two books compare then."""
        verdict = compare(ledger, [])

        def is_nothing_lost() -> bool:
            nonlocal verdict
            verdict = compare(ledger, self.deliveries(run))
            return not verdict.lost

        with contextlib.suppress(AssertionError):  # the verdict tells more than the wait
            await wait_until(is_nothing_lost, DELIVERED_SECONDS, "everything arrived", 0.5)
        assert verdict.nothing_lost, str(verdict)
        return verdict


def sink_host(name: str) -> str:
    """What a relay calls a sink."""
    return f"{name}.{NAMESPACE}.svc.cluster.local"


async def start_sink(client: Client, folder: Path, name: str, deferred: float) -> Sink:
    """Start a sink that defers this fraction, and wait until it listens."""
    await client.apply(namespace(NAMESPACE, restricted=False))
    shared = _shared_folder(folder / name)
    labels = {"app": name}
    command = [
        *("python", "-m", "tests.support.upstream_process"),
        *("--host", "0.0.0.0", "--port", str(SINK_PORT)),  # noqa: S104 — its pod's own
        *("--record", "/shared/deliveries.jsonl", "--defer-fraction", str(deferred)),
    ]
    pod = _pod(command, shared)
    pod["containers"][0]["readinessProbe"] = {
        "tcpSocket": {"port": SINK_PORT},
        "periodSeconds": 1,
    }
    metadata = {"name": name, "namespace": NAMESPACE}
    ports = [{"port": SINK_PORT, "targetPort": SINK_PORT}]
    await client.apply(
        [
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": metadata,
                "spec": {
                    "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": labels}, "spec": pod},
                },
            },
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": metadata,
                "spec": {"selector": labels, "ports": ports},
            },
        ]
    )
    await wait_deployment(client, NAMESPACE, name, _SOON_SECONDS)
    return Sink(shared / "deliveries.jsonl")


class Load:
    """A client's pod, while it sends."""

    def __init__(self, folder: Path, run: str) -> None:
        self._folder = folder
        self.run = run

    def ledger(self) -> Ledger:
        """Its book so far."""
        path = self._folder / "ledger.jsonl"
        return Ledger.read(path) if path.exists() else Ledger()

    async def wait_accepted(self, more: int = 100, limit_seconds: float = _SOON_SECONDS) -> None:
        """Wait until so many more messages were accepted than now."""
        before = len(self.ledger().accepted)
        await wait_until(
            lambda: len(self.ledger().accepted) >= before + more,
            limit_seconds,
            f"{more} more messages are accepted",
            0.5,
        )

    async def finish(self) -> Ledger:
        """Have it stop, and wait until it has finished what it had begun."""
        (self._folder / "stop").touch()
        report = self._folder / "report.json"
        await wait_until(report.exists, 2 * _SOON_SECONDS, f"{self.run}: the client ends", 0.2)
        return self.ledger()


@contextlib.asynccontextmanager
async def load(
    client: Client,
    folder: Path,
    run: str,
    relay: str,
    relay_namespace: str,
    **changes: Any,  # noqa: ANN401 — of the plan
) -> AsyncIterator[Load]:
    """Send through a relay's Service while the block runs."""
    shared = _shared_folder(folder / run)
    host = f"{relay}-ingress.{relay_namespace}.svc"
    user = await secret(client, f"{relay}-smtp", relay_namespace)
    authority = await secret(client, f"{relay}-ca", relay_namespace)
    plan = {
        "host": host,
        "starttls_name": host,
        "port": 587,
        "sessions": 10,
        "rate": RATE,
        "duration_seconds": 1800.0,  # the test ends it before
        "sizes": SIZES,
        "recipient_counts": RECIPIENT_COUNTS,
        "credentials": (user["username"], user["password"]),
        "reply_seconds": 30.0,
        "patience_seconds": 120.0,
        "retries_temporary": True,
        "finishes_begun": True,
        "run": f"{run}-",
        **changes,
    }
    (shared / "plan.json").write_text(json.dumps(plan))
    (shared / "ca.crt").write_text(authority["ca.crt"])
    pod = _pod(["python", "-m", "tests.cluster.load_pod", "/shared"], shared)
    await client.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"load-{run}", "namespace": NAMESPACE},
            "spec": {**pod, "restartPolicy": "Never"},
        }
    )
    try:
        yield Load(shared, f"{run}-")
    finally:
        (shared / "stop").touch()
        with contextlib.suppress(ApiRefusedError):
            await client.delete("v1", "Pod", f"load-{run}", namespace=NAMESPACE)


async def secret(client: Client, name: str, in_namespace: str) -> dict[str, str]:
    """A Secret's data, as text."""
    found = await client.get("v1", "Secret", name, namespace=in_namespace)
    return {key: base64.b64decode(value).decode() for key, value in found["data"].items()}


def _shared_folder(folder: Path) -> Path:
    folder.parent.mkdir(mode=0o711, exist_ok=True)
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(mode=0o700)
    shutil.chown(folder, _USER, _USER)
    return folder


def _pod(command: list[str], shared: Path) -> Manifest:
    container = {
        "name": "main",
        "image": image_reference("mailrelay-tools"),
        "imagePullPolicy": "IfNotPresent",
        "command": command,
        "workingDir": "/code",
        "volumeMounts": [
            {"name": "tests", "mountPath": "/code/tests", "readOnly": True},
            {"name": "shared", "mountPath": "/shared"},
        ],
    }
    return {
        "terminationGracePeriodSeconds": 5,
        "automountServiceAccountToken": False,
        "containers": [container],
        "volumes": [
            {"name": "tests", "hostPath": {"path": str(ROOT / "tests")}},
            {"name": "shared", "hostPath": {"path": str(shared)}},
        ],
    }
