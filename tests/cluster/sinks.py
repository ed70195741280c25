"""Where relays send to: a pod that takes mail, over TLS from who logs in, and keeps a record."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.cluster.clusters import Cluster
from tests.cluster.code import code
from tests.cluster.install import namespace, wait_deployment
from tests.cluster.names import CLIENTS
from tests.cluster.pods import container, pod
from tests.cluster.shared import MOUNT, Shared
from tests.support.certificates import make_certificates
from tests.support.deliveries import Delivery, count_refused_logins, read_deliveries
from tests.support.kubernetes.client import Client
from tests.support.kubernetes.manifests import deployment, service
from tests.support.ledger import Ledger, Verdict, compare
from tests.support.wait import wait_until

DEFERRING: Final = "sink"  # defers what the mix says, each recipient once
WILLING: Final = "willing-sink"  # takes all mail, from anybody, in the clear
PORT: Final = 2526
DEFERRED: Final = 0.05
USER: Final = "relay"
PASSWORD: Final = "first password"  # noqa: S105 — of a sink's
_USERS: Final = "users.json"
_CERTIFICATE: Final = "/certificate"
_SOON_SECONDS: Final = 120.0
# What was claimed when a sender was killed comes back after ackWait, deferred mail a little later.
DELIVERED_SECONDS: Final = 180.0


@dataclass(frozen=True, slots=True)
class Sink:
    """Where the relay sends to."""

    name: str
    shared: Shared = field(repr=False)
    authority: str = ""  # PEM; empty: it speaks no TLS

    def deliveries(self, run: str) -> list[Delivery]:
        """What it took so far of a run."""
        path = self.shared.path
        found = read_deliveries(path) if path.exists() else []
        return [delivery for delivery in found if delivery.ledger_id.startswith(run)]

    def refused_logins(self) -> int:
        """How often AUTH went wrong so far."""
        return count_refused_logins(self.shared.path)

    async def let_in(self, **users: str) -> None:
        """Take mail from these users, by their passwords, and from nobody else."""
        await self.shared.put(_USERS, json.dumps(users))

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
        if self.authority:
            assert all(each.tls and each.auth for each in self.deliveries(run))
        return verdict


def sink_host(name: str) -> str:
    """What a relay calls a sink."""
    return f"{name}.{CLIENTS}.svc.cluster.local"


async def start_sink(cluster: Cluster, client: Client, name: str) -> Sink:
    """Start one of the two sinks, and wait until it listens."""
    await client.apply([namespace(CLIENTS, restricted=False), code(CLIENTS)])
    shared = cluster.shared(name, "deliveries.jsonl")
    command = [
        *("python", "-m", "tests.support.upstream_process"),
        *("--host", "0.0.0.0", "--port", str(PORT)),  # noqa: S104 — its pod's own
        *("--record", f"{MOUNT}/deliveries.jsonl"),
    ]
    authority = ""
    is_strict = name == DEFERRING
    if is_strict:
        authority = await _make_certificate(client, cluster.scratch / f"{name}-certificate", name)
        command += [
            *("--defer-fraction", str(DEFERRED), "--tls-required"),
            *("--certificate", f"{_CERTIFICATE}/tls.crt", "--key", f"{_CERTIFICATE}/tls.key"),
            *("--users", f"{MOUNT}/{_USERS}"),
        ]
    main = container(cluster.images.reference("mailrelay-tools"), command)
    main["readinessProbe"] = {"tcpSocket": {"port": PORT}, "periodSeconds": 1}
    spec = pod(main, shared)
    if is_strict:
        main["volumeMounts"].append({"name": "certificate", "mountPath": _CERTIFICATE})
        spec["volumes"].append({"name": "certificate", "secret": {"secretName": name}})
    labels, ports = {"app": name}, [{"port": PORT, "targetPort": PORT}]
    await client.apply(
        [deployment(name, CLIENTS, labels, spec), service(name, CLIENTS, labels, ports)]
    )
    await wait_deployment(client, CLIENTS, name, _SOON_SECONDS)
    await shared.began(f"deployment/{name}")
    sink = Sink(name, shared, authority)
    await sink.let_in(**{USER: PASSWORD})
    return sink


async def _make_certificate(client: Client, folder: Path, name: str) -> str:
    """Make the Secret of a sink's certificate; return the authority that signed it."""
    made = make_certificates(folder, sink_host(name))
    data = {"tls.crt": made.server.certificate, "tls.key": made.server.key}
    await client.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": CLIENTS},
            "stringData": {key: path.read_text() for key, path in data.items()},
        }
    )
    return made.authority.read_text()
