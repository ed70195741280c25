"""Two relays of one name in two namespaces, and a Prometheus that its operator has watch both.

One relay has several pods of each kind. The other one is ill: a smart host is away, and its
certificate ends soon. Both have a client that does not know its password.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import smtplib
import ssl
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cluster import install
from tests.cluster.clusters import Cluster
from tests.cluster.mail import secret
from tests.cluster.names import PREFIX
from tests.cluster.prometheus_operator import NAMESPACE, SELECTED, PrometheusOperator
from tests.cluster.relays import KIND, NAME, make_relay, wait_ready
from tests.cluster.sinks import PORT, WILLING, Sink, sink_host
from tests.support.certificates import make_certificates
from tests.support.kubernetes.client import Client, Manifest
from tests.support.prometheus import Labels, PrometheusClient
from tests.support.wait import wait_until

BUSY: Final = f"{PREFIX}watched-busy"
ILL: Final = f"{PREFIX}watched-ill"
RELAYS: Final[tuple[Labels, ...]] = tuple(
    {"namespace": namespace, "relay": NAME} for namespace in (BUSY, ILL)
)
# Not the Prometheus' own, so that it is seen where it comes from.
OPERATOR_INTERVAL: Final = "3s"
LIMIT_SECONDS: Final = 300.0
MAIL: Final = {BUSY: ("one@here.test",), ILL: ("one@here.test", "two@away.test")}
_COMPONENTS: Final = "app.kubernetes.io/component in (ingress,sender,monitor)"
_MONITORING: Final = {
    "podMonitor": {"enabled": True, "labels": SELECTED, "interval": OPERATOR_INTERVAL},
    "prometheusRule": {"enabled": True, "labels": SELECTED},
    "dashboards": {"enabled": True},
}
# Soon again, and longer than the tests take.
_RETRY: Final = {"initialIntervalSeconds": 5, "multiplier": 1, "maxAttempts": 1000}
_SPEC: Final[Manifest] = {
    "monitor": {"podMonitor": {"labels": SELECTED}},
    "networkPolicy": {"monitorNamespaces": [NAMESPACE]},
    # Limits that nobody reaches: they have numbers where they hold.
    "limits": {"enabled": True}
    | dict.fromkeys(("maxPerHour", "maxPerDay", "globalMaxPerHour", "globalMaxPerDay"), 1_000_000),
}


@dataclass(frozen=True, slots=True)
class Watched:
    """What is there, and an administrator's client for the tests of it."""

    client: Client
    cluster: Cluster
    prometheus: PrometheusClient


@contextlib.asynccontextmanager
async def watched_relays(
    client: Client, cluster: Cluster, sink: Sink, folder: Path
) -> AsyncIterator[Watched]:
    """Start everything; each pod was scraped before its first mail.

    Raises LeftOutError where the node is somebody's.
    """
    operator = PrometheusOperator(cluster.node)
    release = install.Release(cluster)
    try:
        await operator.start(client)
        await release.change({"monitoring": _MONITORING})
        await asyncio.gather(_make_busy(client, sink), _make_ill(client, sink, folder))
        prometheus = await operator.start_prometheus(client)
        await wait_watched(client, prometheus)
        for namespace, recipients in MAIL.items():
            await _try(client, namespace, recipients)
        await _wait_counted(prometheus)
        yield Watched(client, cluster, prometheus)
    finally:
        await operator.stop(client)
        for namespace in (BUSY, ILL):
            await client.delete("v1", "Namespace", namespace)
        await release.change({})


async def wait_watched(client: Client, prometheus: PrometheusClient) -> None:
    """Wait until exactly the pods that there are were scraped, twice each."""

    async def are_watched() -> bool:
        wanted = {place(pod) for pod in await watched_pods(client)}
        targets = await prometheus.active_targets()
        found = {target["labels"]["pod"]: target["lastError"] for target in targets}
        assert found == {name: "" for _, name in wanted}, found
        twice = await prometheus.query("count_over_time(up[10m]) >= 2 and up == 1")
        scraped = {(each.labels["namespace"], each.labels["pod"]) for each in twice}
        assert wanted <= scraped, wanted - scraped
        return True

    await wait_until(are_watched, LIMIT_SECONDS, "Prometheus has scraped each pod", 0.5)


async def watched_pods(client: Client) -> list[Manifest]:
    """The pods that a selected PodMonitor means: those of the two relays, and the operator's."""
    operators = f"app.kubernetes.io/name={install.NAME}"
    found = [
        pod
        for namespace, labels in (
            (BUSY, _COMPONENTS),
            (ILL, _COMPONENTS),
            (install.NAMESPACE, operators),
        )
        for pod in await client.list("v1", "Pod", namespace=namespace, labels=labels)
    ]
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def place(pod: Manifest) -> tuple[str, str]:
    """Where a pod is, and its name."""
    return pod["metadata"]["namespace"], pod["metadata"]["name"]


async def _make_busy(client: Client, sink: Sink) -> None:
    await make_relay(client, BUSY, sink, **_SPEC)
    await wait_ready(client, BUSY)


async def _make_ill(client: Client, sink: Sink, folder: Path) -> None:
    await client.apply(install.namespace(ILL))
    await client.apply(_certificate(folder))
    spec: dict[str, Any] = {
        **_SPEC,
        "ingress": {"replicas": 1, "tls": {"secretName": "ends-soon"}},
        "sender": {"replicas": 1, "retry": _RETRY},
        "routes": [
            {"name": "default", "smartHosts": [_smart_host(sink_host(WILLING), PORT)]},
            # Nobody listens at that port of the sender's own pod.
            {
                "name": "away",
                "recipientDomains": ["away.test"],
                "smartHosts": [_smart_host("127.0.0.1", 9)],
            },
        ],
    }
    await make_relay(client, ILL, sink, **spec)
    await wait_ready(client, ILL)


def _smart_host(host: str, port: int) -> Manifest:
    return {"host": host, "port": port, "tls": "Opportunistic"}


def _certificate(folder: Path) -> Manifest:
    pair = make_certificates(folder).ends_soon
    data = {"tls.crt": pair.certificate.read_bytes(), "tls.key": pair.key.read_bytes()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"name": "ends-soon", "namespace": ILL},
        "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
    }


async def _try(client: Client, namespace: str, recipients: Iterable[str]) -> None:
    """Give a relay mail, and a password that is wrong."""
    service = await client.get("v1", "Service", f"{NAME}-ingress", namespace=namespace)
    user = await secret(client, f"{NAME}-smtp", namespace)
    address = service["spec"]["clusterIP"]
    login = (user["username"], user["password"])
    await asyncio.to_thread(_submit, address, login, recipients)
    with pytest.raises(smtplib.SMTPAuthenticationError):
        await asyncio.to_thread(_submit, address, (login[0], "wrong"), ())


async def _wait_counted(prometheus: PrometheusClient) -> None:
    """Wait until that mail is scraped, so that it is in whatever a test compares with."""

    async def is_counted() -> bool:
        for metric, wanted in (
            ("mailrelay_accepted_total", {each: len(MAIL[each]) for each in MAIL}),
            ('mailrelay_recipients_total{disposition="sent"}', dict.fromkeys(MAIL, 1)),
        ):
            samples = await prometheus.query(f"sum by (namespace, relay) ({metric}) > 0")
            assert {each.labels["namespace"]: each.value for each in samples} == wanted
        return True

    await wait_until(is_counted, LIMIT_SECONDS, "the first mail is counted", 0.5)


def _submit(address: str, login: tuple[str, str], recipients: Iterable[str]) -> None:
    context = ssl.create_default_context()
    # Its certificate is for other names, and of no authority that anybody knows.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with smtplib.SMTP(address, 587, timeout=60) as smtp:
        smtp.starttls(context=context)
        smtp.login(*login)
        for recipient in recipients:
            smtp.sendmail("a@here.test", [recipient], "Subject: hello\r\n\r\nhi\r\n")


async def set_senders(client: Client, count: int) -> None:
    """Give the ill relay so many senders, and wait until there are as many."""
    spec = {"sender": {"replicas": count}}
    await client.patch(*KIND, NAME, {"spec": spec}, namespace=ILL)

    async def are_there() -> bool:
        labels = "app.kubernetes.io/component=sender"
        found = await client.list("v1", "Pod", namespace=ILL, labels=labels)
        return len(found) == count

    await wait_until(are_there, LIMIT_SECONDS, f"{count} senders", 0.5)
