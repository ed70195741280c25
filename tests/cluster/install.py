"""The operator in the cluster, installed by Helm from the chart with no value set."""

from __future__ import annotations

from typing import Final

import yaml

from tests.chart.helm import CHART, Helm, Values
from tests.cluster.clusters import NEXT_TAG, Cluster, LeftOutError
from tests.cluster.names import SYSTEM
from tests.support.kubernetes.client import Client, Manifest
from tests.support.kubernetes.cluster import RESTRICTED
from tests.support.wait import wait_until

NAMESPACE: Final = SYSTEM
NAME: Final = "mailrelay-operator"
RELEASE: Final = "mailrelay"
IMAGES: Final = ("operator", "ingress", "sender", "monitor", "nats", "tools")
READY_SECONDS: Final = 300.0
VERSION: Final[str] = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]


class Release:
    """The chart's release in a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._images = cluster.images
        self._helm = Helm(cluster.scratch / "helm", cluster.kubeconfig)

    async def install(self, client: Client) -> None:
        """Install it, and wait until the operator is ready."""
        await client.apply(namespace(NAMESPACE))
        await self._helm.did("install", *self._arguments(self._images.tag))
        await self.wait_ready(client)

    async def upgrade(self, client: Client) -> None:
        """Upgrade it to another version of all images. Raises LeftOutError if there is none."""
        if not self._images.next_tag:
            raise LeftOutError(f"{NEXT_TAG} names no images of another version")
        await self._helm.did("upgrade", *self._arguments(self._images.next_tag))
        await self.wait_ready(client)

    async def change(self, values: Values) -> None:
        """Upgrade it to these values beside those that it was installed with."""
        arguments = (*self._arguments(self._images.tag), "--reset-values")
        await self._helm.did("upgrade", *arguments, values=values)

    async def roll_back(self, client: Client) -> None:
        """Go back to what was installed before."""
        await self._helm.did("rollback", RELEASE, "--namespace", NAMESPACE)
        await self.wait_ready(client)

    async def uninstall(self) -> None:
        """Uninstall it, and wait until it is gone. Relays and their definition stay."""
        await self._helm.did("uninstall", RELEASE, "--namespace", NAMESPACE, "--wait")

    async def test(self) -> str:
        """Run `helm test`; what it printed."""
        return await self._helm.did("test", RELEASE, "--namespace", NAMESPACE, "--logs")

    async def wait_ready(self, client: Client) -> None:
        """Wait until the operator is ready."""
        await wait_deployment(client, NAMESPACE, NAME, READY_SECONDS)

    def _arguments(self, tag: str) -> tuple[str, ...]:
        """Return what a release is made of; where nothing must be said, no value is set."""
        said = [RELEASE, str(CHART), "--namespace", NAMESPACE]
        if self._images.registry:
            said += ["--set", f"images.registry={self._images.registry.rstrip('/')}"]
        if tag != VERSION:
            said += ["--set", f"images.tag={tag}"]
        return tuple(said)


async def wait_deployment(client: Client, namespace: str, name: str, limit_seconds: float) -> None:
    """Wait until all pods of a Deployment's newest revision are ready, and no others are there."""

    async def is_ready() -> bool:
        found = await client.get("apps/v1", "Deployment", name, namespace=namespace)
        status, wanted = found.get("status", {}), found["spec"]["replicas"]
        assert status.get("observedGeneration") == found["metadata"]["generation"], status
        counted = [status.get(key, 0) for key in ("replicas", "updatedReplicas", "readyReplicas")]
        assert counted == [wanted] * 3, status
        return True

    await wait_until(is_ready, limit_seconds, f"{name} is ready", interval=0.2)


def namespace(name: str, *, restricted: bool = True) -> Manifest:
    """A namespace; the restricted Pod Security Standard is enforced unless told otherwise."""
    labels = RESTRICTED if restricted else {"pod-security.kubernetes.io/enforce": "privileged"}
    metadata = {"name": name, "labels": labels}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
