"""Prometheus in the cluster, run by its own operator as people run it.

The operator is the real one. It runs beside the API server, as the other controllers do here; the
StatefulSet that it makes runs Prometheus and the reloader of its configuration in a pod. What is
scraped, and by which rules, is what the operator makes of PodMonitors and PrometheusRules.
"""

from __future__ import annotations

from typing import Final

from tests.cluster.install import namespace
from tests.cluster.names import PREFIX
from tests.support.kubernetes.client import Client, Manifest
from tests.support.kubernetes.definitions import find_definitions
from tests.support.kubernetes.manifests import RBAC, account
from tests.support.kubernetes.node_cluster import NodeCluster
from tests.support.kubernetes.process import Daemon
from tests.support.kubernetes.programs import PROMETHEUS, dotted, find_programs
from tests.support.ports import free_port
from tests.support.prometheus import PrometheusClient
from tests.support.wait import wait_until

NAMESPACE: Final = f"{PREFIX}monitoring"
# The label by which this Prometheus selects, as that of the widely used chart does.
SELECTED: Final = {"release": "watching"}
SCRAPE: Final = "2s"
READY_SECONDS: Final = 300.0  # on a machine that is busy
_NAME: Final = "cluster"
_ACCOUNT: Final = "prometheus"
_IMAGE: Final = "localhost/prometheus:1"
_RELOADER: Final = "localhost/prometheus-config-reloader:1"
# What its controller of Prometheus resources cannot do without. PodMonitor and PrometheusRule are
# there since the cluster started.
_DEFINITIONS: Final = ("Probe", "Prometheus", "ServiceMonitor")
_USER: Final = 65_534
_KIND: Final = ("monitoring.coreos.com/v1", "Prometheus")


class PrometheusOperator:
    """The operator and one Prometheus. Start it in the main thread (see `process`)."""

    def __init__(self, cluster: NodeCluster) -> None:
        self._cluster = cluster
        plane = cluster.plane
        programs = find_programs(("prometheus-operator", "prometheus-config-reloader"), print)
        self._reloader = programs["prometheus-config-reloader"]
        self._daemon = Daemon(
            programs["prometheus-operator"],
            f"--apiserver={plane.url}",
            f"--ca-file={plane.credentials.authority}",
            f"--cert-file={plane.credentials.admin.certificate}",
            f"--key-file={plane.credentials.admin.key}",
            f"--prometheus-config-reloader={_RELOADER}",
            f"--web.listen-address=127.0.0.1:{free_port()}",
            log=cluster.scratch / "prometheus-operator.log",
        )

    async def start(self, client: Client) -> None:
        """Start the operator, and give the node what its pods run."""
        node = self._cluster.node
        node.import_program(_IMAGE, find_programs(["prometheus"], print)["prometheus"])
        node.import_program(_RELOADER, self._reloader)
        for path in find_definitions(_DEFINITIONS, print):
            await client.apply(path.read_text())
        self._daemon.start()

    async def start_prometheus(self, client: Client) -> PrometheusClient:
        """Have it make a Prometheus, and wait until that answers.

        Monitors and rules that are there already are in its first configuration; others follow when
        the kubelet shows the changed Secret and ConfigMap to the pod.
        """
        await client.apply(namespace(NAMESPACE))
        await client.apply(_manifests())
        found: list[PrometheusClient] = []

        async def answers() -> bool:
            self._daemon.check()
            pod = await client.find("v1", "Pod", f"prometheus-{_NAME}-0", namespace=NAMESPACE)
            assert pod is not None, "no pod"
            status = pod["status"]
            containers = {
                each["name"]: each["state"]
                for kind in ("initContainerStatuses", "containerStatuses")
                for each in status.get(kind, ())
            }
            assert status.get("podIP"), containers
            prometheus = PrometheusClient(f"http://{status['podIP']}:9090")
            assert await prometheus.is_ready(), containers
            found[:] = [prometheus]
            return True

        await wait_until(answers, READY_SECONDS, "Prometheus answers in its pod", 0.5)
        return found[0]

    async def stop(self, client: Client) -> None:
        """End the operator, and have what it made deleted."""
        self._daemon.kill()
        await client.delete(*_KIND, _NAME, namespace=NAMESPACE)
        await client.delete("v1", "Namespace", NAMESPACE)
        for kind in ("ClusterRole", "ClusterRoleBinding"):
            await client.delete(RBAC, kind, _ACCOUNT)


def _manifests() -> list[Manifest]:
    pods = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
    return [
        *account(_ACCOUNT, NAMESPACE, [pods]),
        {
            "apiVersion": _KIND[0],
            "kind": _KIND[1],
            "metadata": {"name": _NAME, "namespace": NAMESPACE},
            "spec": {
                "image": _IMAGE,
                "version": f"v{dotted(PROMETHEUS.version)}",
                "serviceAccountName": _ACCOUNT,
                "scrapeInterval": SCRAPE,
                "evaluationInterval": SCRAPE,
                "podMonitorSelector": {"matchLabels": SELECTED},
                "podMonitorNamespaceSelector": {},
                "ruleSelector": {"matchLabels": SELECTED},
                "ruleNamespaceSelector": {},
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": _USER,
                    "fsGroup": _USER,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
            },
        },
    ]
