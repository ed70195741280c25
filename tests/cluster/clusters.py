"""The cluster that is tested: a node of the tests' own, or somebody's.

Somebody's is used when `MAILRELAY_TEST_KUBECONFIG` names it, never because a shell has a
`KUBECONFIG`. It must be without MailRelay; the tests make namespaces `mailrelay-test-…`, install
the chart, and remove all of it at the end. Its nodes get the images from
`MAILRELAY_TEST_REGISTRY` (unset: they have them) under the tag `MAILRELAY_TEST_TAG` (unset: the
chart's version), and another version of all of them under `MAILRELAY_TEST_NEXT_TAG` (unset: no
upgrade is tried).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.chart.left import CRD, remove_everything
from tests.cluster import names
from tests.cluster.pods import container, pod
from tests.cluster.shared import FolderOfNode, FolderOfPod, Shared
from tests.support import command
from tests.support.kubernetes.client import Client, Manifest, open_client
from tests.support.kubernetes.control_plane import ControlPlane
from tests.support.kubernetes.node_cluster import NodeCluster
from tests.support.kubernetes.programs import find_programs
from tests.support.wait import wait_until

REGISTRY: Final = "MAILRELAY_TEST_REGISTRY"
TAG: Final = "MAILRELAY_TEST_TAG"
NEXT_TAG: Final = "MAILRELAY_TEST_NEXT_TAG"
_KUBECTL_SECONDS: Final = 120.0
_GONE_SECONDS: Final = 300.0


class OccupiedError(Exception):
    """The cluster has something that the tests would get in the way of."""


class LeftOutError(Exception):
    """What a scenario does cannot be done here; the text says why."""


@dataclass(frozen=True, slots=True)
class Images:
    """What nodes call the images."""

    registry: str  # with a slash at its end, or empty
    tag: str
    next_tag: str  # of another version; empty: there is none

    def reference(self, name: str) -> str:
        """An image of the tag that relays run."""
        return f"{self.registry}{name}:{self.tag}"


class Cluster(ABC):
    """Where the tests run; `scratch` is a folder of this machine."""

    def __init__(self, scratch: Path, kubeconfig: Path, images: Images) -> None:
        self.scratch = scratch
        self.kubeconfig = kubeconfig
        self.images = images

    @abstractmethod
    def shared(self, name: str, record: str) -> Shared:
        """Return a new folder that a pod of the clients' namespace and the tests both see."""

    @abstractmethod
    async def kill_container(self, client: Client, of: Manifest) -> None:
        """Send SIGKILL to the first process of a pod's one container."""

    @abstractmethod
    def has_container(self, of: Manifest) -> bool:
        """Whether a node runs the container of a pod that is, or was, there."""

    @abstractmethod
    def network_of(self, of: Manifest) -> Path:
        """The network that a pod is in. Raises LeftOutError where the node is somebody's."""

    @property
    @abstractmethod
    def plane(self) -> ControlPlane:
        """The control plane's processes. Raises LeftOutError where they are somebody's."""

    @property
    @abstractmethod
    def node(self) -> NodeCluster:
        """The node from within. Raises LeftOutError where it is somebody's."""

    @abstractmethod
    async def keep_logs(self, target: Path) -> None:
        """Copy the logs of all pods to a folder that stays."""

    @abstractmethod
    async def end(self) -> None:
        """End it, or leave it as it was."""

    async def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """Run kubectl as administrator; its output, or a failure that tells what it said."""
        done = await command.run(
            *self.kubectl_command(), *arguments, limit=_KUBECTL_SECONDS, stdin=stdin
        )
        assert done.code == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def kubectl_command(self) -> tuple[str, ...]:
        """Return kubectl with what lets it find the cluster."""
        program = find_programs(["kubectl"], print)["kubectl"]
        cache = self.scratch / "kubectl-cache"
        return (str(program), f"--kubeconfig={self.kubeconfig}", f"--cache-dir={cache}")


class OwnCluster(Cluster):
    """A node of the tests' own; it is up already."""

    def __init__(self, made: NodeCluster, images: Images) -> None:
        super().__init__(made.scratch, made.kubeconfig, images)
        self._made = made

    def shared(self, name: str, record: str) -> Shared:
        """Return a folder of the node, which is this machine."""
        return FolderOfNode(self.scratch / "mail" / name, record)

    async def kill_container(self, client: Client, of: Manifest) -> None:
        """Its processes are this machine's."""
        del client
        (status,) = of["status"]["containerStatuses"]
        os.kill(self._made.node.pid_of(status["containerID"]), signal.SIGKILL)

    def has_container(self, of: Manifest) -> bool:
        """Ask containerd."""
        (status,) = of["status"]["containerStatuses"]
        try:
            self._made.node.pid_of(status["containerID"])
        except LookupError:
            return False
        return True

    def network_of(self, of: Manifest) -> Path:
        """As the kernel shows it of a process in it."""
        (status,) = of["status"]["containerStatuses"]
        return Path(f"/proc/{self._made.node.pid_of(status['containerID'])}/ns/net")

    @property
    def plane(self) -> ControlPlane:
        """The processes."""
        return self._made.plane

    @property
    def node(self) -> NodeCluster:
        """The node and all beside it."""
        return self._made

    async def keep_logs(self, target: Path) -> None:
        """Copy those of its programs, too."""
        self._made.keep_logs(target)

    async def end(self) -> None:
        """End all programs."""
        self._made.kill()


class SomebodysCluster(Cluster):
    """A cluster that is there, and stays."""

    def __init__(self, scratch: Path, kubeconfig: Path, version: str) -> None:
        registry = os.environ.get(REGISTRY, "").rstrip("/")
        images = Images(
            f"{registry}/" if registry else "",
            os.environ.get(TAG) or version,
            os.environ.get(NEXT_TAG, ""),
        )
        super().__init__(scratch, kubeconfig, images)

    async def check(self) -> None:
        """Refuse a cluster that has what the tests make. Raises OccupiedError."""
        async with open_client(self.kubeconfig) as client:
            there = [f"namespace {name}" for name in await namespaces_of_tests(client)]
            if await client.find(*CRD):
                there.append(f"definition {CRD[2]}")
        if there:
            raise OccupiedError(
                f"the cluster of {self.kubeconfig} has {', '.join(there)}: the tests install "
                "MailRelay themselves, and remove it afterwards; give them a cluster without it"
            )

    def shared(self, name: str, record: str) -> Shared:
        """Return a folder of the pod's."""
        kubectl = (*self.kubectl_command(), "--namespace", names.CLIENTS)

        async def run(*arguments: str, stdin: str = "") -> str:
            return await self.kubectl("--namespace", names.CLIENTS, *arguments, stdin=stdin)

        return FolderOfPod(self.scratch / "mail" / name, record, run, kubectl)

    async def kill_container(self, client: Client, of: Manifest) -> None:
        """By a pod beside it that sees the node's processes."""
        (status,) = of["status"]["containerStatuses"]
        wanted = status["containerID"].partition("://")[2]
        name = f"kill-{wanted[:20]}"
        program = ["python", "-m", "tests.cluster.kill_container", wanted]
        killer = pod(container(self.images.reference("mailrelay-tools"), program))
        killer |= {
            "hostPID": True,
            "nodeName": of["spec"]["nodeName"],
            "restartPolicy": "Never",
            "tolerations": [{"operator": "Exists"}],
        }
        killer["containers"][0]["securityContext"] = {
            "runAsUser": 0,
            "capabilities": {"drop": ["ALL"], "add": ["KILL"]},
        }
        metadata = {"name": name, "namespace": names.CLIENTS}
        await client.apply(
            {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": killer}
        )

        async def is_done() -> bool:
            found = await client.get("v1", "Pod", name, namespace=names.CLIENTS)
            phase = found["status"].get("phase")
            if phase == "Failed":
                said = await self.kubectl("--namespace", names.CLIENTS, "logs", name)
                raise RuntimeError(f"{program}: {said}")
            return bool(phase == "Succeeded")

        await wait_until(is_done, _GONE_SECONDS, f"{name} has killed", 0.2)
        await client.delete("v1", "Pod", name, namespace=names.CLIENTS)

    def has_container(self, of: Manifest) -> bool:
        """The node is somebody's: its word is that a pod is there until its containers ended."""
        namespace, name = of["metadata"]["namespace"], of["metadata"]["name"]
        asked = [*self.kubectl_command(), "--namespace", namespace, "get", "pod", name]
        return subprocess.run(asked, capture_output=True, check=False).returncode == 0

    def network_of(self, of: Manifest) -> Path:
        """It is on another machine."""
        del of
        raise LeftOutError("nobody enters the networks of somebody's pods")

    @property
    def plane(self) -> ControlPlane:
        """It is somebody's."""
        raise LeftOutError("the API server is somebody's, and is not stopped")

    @property
    def node(self) -> NodeCluster:
        """It is somebody's."""
        raise LeftOutError("the node is somebody's, and gets no images of the tests'")

    async def keep_logs(self, target: Path) -> None:
        """Ask the API server for them."""
        target.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 — nothing else goes on
        async with open_client(self.kubeconfig) as client:
            for namespace in await namespaces_of_tests(client):
                for each in await client.list("v1", "Pod", namespace=namespace):
                    name = each["metadata"]["name"]
                    with contextlib.suppress(AssertionError):  # it has none yet
                        text = await self.kubectl("--namespace", namespace, "logs", name)
                        (target / f"{namespace}_{name}.log").write_text(text)

    async def end(self) -> None:
        """Remove what the tests have made."""
        async with open_client(self.kubeconfig) as client:
            await remove_everything(client)
            for name in await namespaces_of_tests(client):
                await client.delete("v1", "Namespace", name)

            async def are_gone() -> bool:
                return not await namespaces_of_tests(client)

            await wait_until(are_gone, _GONE_SECONDS, "the tests' namespaces are gone", 0.5)
        shutil.rmtree(self.scratch, ignore_errors=True)


async def namespaces_of_tests(client: Client) -> list[str]:
    """The tests' namespaces that are there."""
    found = [each["metadata"]["name"] for each in await client.list("v1", "Namespace")]
    return [name for name in found if name.startswith(names.PREFIX)]
