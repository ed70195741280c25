"""A whole cluster with one real node, for tests with pods: control plane, node, DNS, volumes.

Only below `tests.support.kubernetes.machine`, whose scratch folder it lives in.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tests.support import command
from tests.support.kubernetes import machine
from tests.support.kubernetes.client import Manifest, open_client
from tests.support.kubernetes.control_plane import ControlPlane
from tests.support.kubernetes.dns import start_dns
from tests.support.kubernetes.manifests import RBAC
from tests.support.kubernetes.node import Node
from tests.support.kubernetes.process import Daemon
from tests.support.kubernetes.programs import CONTROL_PLANE, NODE, find_programs
from tests.support.kubernetes.volumes import STORAGE_CLASS
from tests.support.namespaces import ADDRESS

KUBECTL_SECONDS: Final = 120.0
# The API server's own authorizer of nodes learns a moment late which pods are a node's. A kubelet
# that is quicker is refused the pod's claim, and tries again some 13 s later: 16 s without NATS
# were seen. By this role of Kubernetes' own it may read all claims.
NODES_MAY: Final[Manifest] = {
    "apiVersion": RBAC,
    "kind": "ClusterRoleBinding",
    "metadata": {"name": "nodes-of-tests"},
    "roleRef": {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "ClusterRole",
        "name": "system:node",
    },
    "subjects": [
        {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:nodes"},
    ],
}


class NodeCluster:
    """Start it in the main thread (see `process`); after `kill` the namespaces do the rest."""

    def __init__(self, scratch: Path) -> None:
        programs = find_programs((*CONTROL_PLANE, *NODE, "kubectl"), print)
        self.scratch = scratch
        self._kubectl = programs["kubectl"]
        self.plane = ControlPlane(programs, scratch / "control-plane", node_address=ADDRESS)
        self.node = Node(programs, self.plane, scratch / "node", ADDRESS)
        self._volumes = Daemon(
            sys.executable,
            *("-m", "tests.support.kubernetes.volumes"),
            *(self.plane.kubeconfig, scratch / "volumes"),
            log=scratch / "volumes.log",
        )
        self.seconds: dict[str, float] = {}  # how long each part took to be ready

    @property
    def kubeconfig(self) -> Path:
        """An administrator's way to the cluster."""
        return self.plane.kubeconfig

    async def start(self, definitions: Iterable[str] = (), images: Iterable[str] = ()) -> None:
        """Start everything; pods run, are found by name and get their volumes afterwards.

        `images` are the Docker engine's, which the node gets meanwhile.
        """
        began = time.monotonic()
        await self.node.start_containerd()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.to_thread(self.node.import_from_engine, *images))
            await self._start_rest(definitions, began)
        self.seconds["images"] = time.monotonic() - began

    async def _start_rest(self, definitions: Iterable[str], began: float) -> None:
        await self.plane.start(definitions)
        self.seconds["control plane"] = time.monotonic() - began
        async with open_client(self.kubeconfig) as client:
            await client.apply(NODES_MAY)
        await self.node.start()
        self.seconds["node"] = time.monotonic() - began
        async with open_client(self.kubeconfig) as client:
            await client.apply(STORAGE_CLASS)
            self._volumes.start()
            await start_dns(client)
        self.seconds["dns"] = time.monotonic() - began

    def kill(self) -> None:
        """End all programs; containers end with the namespaces."""
        self._volumes.kill()
        self.node.kill()
        self.plane.kill()

    def keep_logs(self, target: Path) -> None:
        """Copy the logs of all pods and programs to a folder that stays."""
        target.mkdir(parents=True, exist_ok=True)
        for log in (*self.scratch.glob("*.log"), *self.scratch.glob("*/*.log")):
            shutil.copy2(log, target / log.name)
        with contextlib.suppress(shutil.Error, OSError):  # one may vanish while it is copied
            shutil.copytree(self.node.logs, target / "pods", dirs_exist_ok=True)

    async def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """Run kubectl as administrator; its output, or a failure that tells what it said."""
        done = await command.run(
            self._kubectl,
            f"--kubeconfig={self.kubeconfig}",
            f"--cache-dir={self.scratch / 'kubectl-cache'}",
            *arguments,
            limit=KUBECTL_SECONDS,
            stdin=stdin,
        )
        assert done.code == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout


def scratch_folder() -> Path | None:
    """The machine's folder, or None where no node can live."""
    named = os.environ.get(machine.VARIABLE)
    return Path(named) if named else None
