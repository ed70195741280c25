"""Mail through a relay in the cluster: a client's pod that keeps a ledger, and what it sends.

Clients and sinks are in a namespace of their own, without a Pod Security Standard: on a node of the
tests' own they see folders of it, and what kills sees its processes.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, Final

from tests.cluster.clusters import Cluster
from tests.cluster.names import CLIENTS
from tests.cluster.pods import container, pod
from tests.cluster.shared import MOUNT, Shared
from tests.support.kubernetes.client import ApiRefusedError, Client
from tests.support.ledger import Ledger
from tests.support.wait import wait_until

_SOON_SECONDS: Final = 120.0
# The mix: a twentieth above 1 MB, a tenth with several batches, none alike.
SIZES: Final = ((5_000, 0.95), (1_200_000, 0.05))
RECIPIENT_COUNTS: Final = ((1, 0.9), (12, 0.1))
RATE: Final = 50.0
# A client that was not answered for a while makes up for it as fast as it can.
_CAUGHT_UP_SECONDS: Final = 120.0


class Load:
    """A client's pod, while it sends."""

    def __init__(self, shared: Shared, run: str) -> None:
        self._shared = shared
        self.run = run

    def ledger(self) -> Ledger:
        """Its book so far."""
        path = self._shared.path
        return Ledger.read(path) if path.exists() else Ledger()

    async def log_in_as(self, user: str, password: str) -> None:
        """Tell it what to log in by from its next connection on."""
        await self._shared.put("login.json", json.dumps([user, password]))

    async def wait_accepted(self, more: int = 100, limit_seconds: float = _SOON_SECONDS) -> None:
        """Wait until so many more messages were accepted than now."""
        before = len(self.ledger().accepted)
        await wait_until(
            lambda: len(self.ledger().accepted) >= before + more,
            limit_seconds,
            f"{more} more messages are accepted",
            0.5,
        )

    async def wait_told(self, code: int, times: int, limit_seconds: float = _SOON_SECONDS) -> None:
        """Wait until it was refused so often for a time by this reply."""
        await wait_until(
            lambda: self.ledger().told[code] >= times,
            limit_seconds,
            f"the client was told {code} {times} times",
            0.5,
        )

    async def wait_caught_up(self) -> None:
        """Wait until it has sent what was due since its first message, or sends no faster."""

        def is_caught_up() -> bool:
            entries = self.ledger().entries
            assert entries
            seconds = entries[-1].time - min(entry.started for entry in entries)
            late = seconds * RATE - len(entries)
            assert late < RATE, f"{late:.0f} messages behind"
            return True

        await wait_until(is_caught_up, _CAUGHT_UP_SECONDS, "the client has caught up", 0.5)

    async def finish(self) -> Ledger:
        """Have it stop, and wait until it has finished what it had begun."""
        await self._shared.put("stop", "")
        await wait_until(
            lambda: self.ledger().report is not None,
            2 * _SOON_SECONDS,
            f"{self.run}: the client ends",
            0.2,
        )
        return self.ledger()


@contextlib.asynccontextmanager
async def load(
    cluster: Cluster,
    client: Client,
    run: str,
    relay: str,
    relay_namespace: str,
    **changes: Any,  # noqa: ANN401 — of the plan
) -> AsyncIterator[Load]:
    """Send through a relay's Service while the block runs."""
    shared = cluster.shared(run, "ledger.jsonl")
    host = f"{relay}-ingress.{relay_namespace}.svc"
    user = await secret(client, f"{relay}-smtp", relay_namespace)
    authority = await secret(client, f"{relay}-ca", relay_namespace)
    plan = {
        "host": host,
        "starttls_name": host,
        "port": 587,
        "sessions": 10,
        "messages_per_connection": 50,  # each sends for some ten seconds
        "rate": RATE,
        "duration_seconds": 1800.0,  # the test ends it before
        "sizes": SIZES,
        "recipient_counts": RECIPIENT_COUNTS,
        "reply_seconds": 30.0,
        "patience_seconds": 120.0,
        "retries_temporary": True,
        "finishes_begun": True,
        "run": f"{run}-",
        **changes,
    }
    image = cluster.images.reference("mailrelay-tools")
    spec = pod(container(image, ["python", "-m", "tests.cluster.load_pod", MOUNT]), shared)
    name = f"load-{run}"
    await client.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": CLIENTS},
            "spec": {**spec, "restartPolicy": "Never"},
        }
    )
    try:
        await shared.began(f"pod/{name}")
        sending = Load(shared, f"{run}-")
        await shared.put("ca.crt", authority["ca.crt"])
        await sending.log_in_as(user["username"], user["password"])
        await shared.put("plan.json", json.dumps(plan))
        yield sending
    finally:
        with contextlib.suppress(ApiRefusedError):
            await client.delete("v1", "Pod", name, namespace=CLIENTS)
        shared.end()


async def secret(client: Client, name: str, in_namespace: str) -> dict[str, str]:
    """A Secret's data, as text."""
    found = await client.get("v1", "Secret", name, namespace=in_namespace)
    return {key: base64.b64decode(value).decode() for key, value in found["data"].items()}
