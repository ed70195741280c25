"""What a test gets: an API server, a namespace of its own, identities, and a way to stop it all.

It is a control plane of the tests' own, or the cluster of `MAILRELAY_TEST_KUBECONFIG`. That name
and no `KUBECONFIG`: nobody's cluster is used because a shell happened to know it. A cluster that
is somebody's is not stopped: tests that need that are skipped there, and say so.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, Final, Self

import pytest
import yaml

from tests.support import command
from tests.support.kubernetes.audit import AskedRequest, requests_of
from tests.support.kubernetes.client import Client, Manifest, open_client
from tests.support.kubernetes.control_plane import ControlPlane
from tests.support.kubernetes.credentials import write_kubeconfig
from tests.support.kubernetes.manifests import RBAC, role
from tests.support.kubernetes.programs import find_programs
from tests.support.wait import wait_until

VARIABLE: Final = "MAILRELAY_TEST_KUBECONFIG"
NAMESPACE_SECONDS: Final = 60.0  # its default ServiceAccount takes milliseconds
KUBECTL_SECONDS: Final = 60.0
TOKEN_SECONDS: Final = 3600  # longer than any test

# Pods below the standard are refused; what would make such Pods is answered with a warning
# (Client.warnings).
RESTRICTED: Final = {
    "pod-security.kubernetes.io/enforce": "restricted",
    "pod-security.kubernetes.io/warn": "restricted",
}


class ApiServer:
    """An API server for one test. What it makes is removed by `close`."""

    def __init__(self, kubeconfig: Path, folder: Path, plane: ControlPlane | None = None) -> None:
        self.kubeconfig = kubeconfig
        self._folder = folder
        self._plane = plane
        self._open = contextlib.AsyncExitStack()
        self._admin: Client | None = None

    async def __aenter__(self) -> Self:
        await self._mend()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._mend()
        await self._open.aclose()

    # --- Who asks -----------------------------------------------------------------------------

    async def admin(self, namespace: str = "default") -> Client:
        """A client that may do everything."""
        return await self._open.enter_async_context(open_client(self.kubeconfig, namespace))

    async def new_namespace(self, *, labels: dict[str, str] | None = None) -> str:
        """Make a namespace and wait until Pods could be made in it; it is gone after the test.

        The `restricted` Pod Security Standard holds in it, unless the labels say another.
        """
        admin = await self._administration()
        name = f"test-{secrets.token_hex(5)}"
        metadata = {"name": name, "labels": RESTRICTED | (labels or {})}
        await admin.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        self._remove_later("v1", "Namespace", name)

        async def has_account() -> bool:
            return bool(await admin.find("v1", "ServiceAccount", "default", namespace=name))

        await wait_until(has_account, NAMESPACE_SECONDS, f"{name} has its default ServiceAccount")
        return name

    async def service_account(
        self,
        namespace: str,
        name: str,
        *,
        rules: Iterable[Manifest] = (),
        cluster_rules: Iterable[Manifest] = (),
    ) -> Client:
        """A client that is a ServiceAccount, with rights in its namespace and in all of them.

        The account is found again by its name: asking twice gives a second token for the same.
        """
        admin = await self._administration()
        account = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
        metadata = {"name": name, "namespace": namespace}
        await admin.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
        if rules := list(rules):
            await admin.apply(role("Role", metadata, rules, account))
        if cluster_rules := list(cluster_rules):
            # Cluster-wide names are shared with tests that run at the same time.
            await admin.apply(
                role("ClusterRole", {"name": f"{namespace}.{name}"}, cluster_rules, account)
            )
            for kind in ("ClusterRole", "ClusterRoleBinding"):
                self._remove_later(RBAC, kind, f"{namespace}.{name}")
        return await self._open.enter_async_context(
            open_client(await self.kubeconfig_of(namespace, name), namespace)
        )

    async def kubeconfig_of(self, namespace: str, name: str) -> Path:
        """A kubeconfig file with a new token of a ServiceAccount that is there."""
        admin = await self._administration()
        path = await admin.path("v1", "ServiceAccount", name, namespace=namespace)
        asked = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": TOKEN_SECONDS},
        }
        answer = await admin.request("POST", f"{path}/token", asked)
        return write_kubeconfig(
            self._folder / f"{namespace}-{name}-{secrets.token_hex(4)}.kubeconfig",
            cluster_of(self.kubeconfig),
            answer["status"]["token"],
            namespace,
        )

    async def kubectl(self, *arguments: str, stdin: str = "", namespace: str = "default") -> str:
        """Run kubectl as administrator; its output, or a failure that tells what it said."""
        program = find_programs(["kubectl"], print)["kubectl"]
        done = await command.run(
            program,
            f"--kubeconfig={self.kubeconfig}",
            f"--namespace={namespace}",
            f"--cache-dir={self._folder / 'kubectl-cache'}",
            *arguments,
            limit=KUBECTL_SECONDS,
            stdin=stdin,
        )
        assert done.code == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    # --- What may happen to it ----------------------------------------------------------------

    async def stop(self, *, kill: bool = False) -> None:
        """End the API server, in order or by SIGKILL: connections break, watches end."""
        if kill:
            self.plane.api_server.kill()
        else:
            await self.plane.api_server.stop()

    async def start(self) -> None:
        """Start it again, on the same port and data, and wait until it is ready."""
        await self.plane.start_api_server()

    async def restart(self, *, kill: bool = False) -> None:
        """Stop it and start it again."""
        await self.stop(kill=kill)
        await self.start()

    async def freeze(self) -> None:
        """Let it hang: connections stand, watches are silent, nothing is answered."""
        await self.plane.api_server.freeze()

    def thaw(self) -> None:
        """Let it go on."""
        self.plane.api_server.thaw()

    # --- What it saw --------------------------------------------------------------------------

    def requests_of(self, namespace: str, name: str) -> list[AskedRequest]:
        """What a ServiceAccount asked for so far (`audit`)."""
        return requests_of(self.plane.audit_log, f"system:serviceaccount:{namespace}:{name}")

    @property
    def plane(self) -> ControlPlane:
        """The processes, where they are the tests' own; skips the test where they are not."""
        if self._plane is None:
            pytest.skip(f"the cluster of {VARIABLE} is somebody's, and is not stopped")
        return self._plane

    async def _mend(self) -> None:
        if self._plane is not None:
            self._plane.api_server.thaw()
            await self._plane.start_what_is_stopped()

    async def _administration(self) -> Client:
        if self._admin is None:
            self._admin = await self.admin()
        return self._admin

    def _remove_later(self, api_version: str, kind: str, name: str) -> None:
        async def remove() -> None:
            # Not waited for: a namespace takes seconds to go, and nobody needs its name again.
            async with open_client(self.kubeconfig) as client:
                if await client.find(api_version, kind, name):
                    await client.delete(api_version, kind, name)

        self._open.push_async_callback(remove)


def chosen_kubeconfig() -> Path | None:
    """The cluster that the developer wants the tests to use, if any."""
    named = os.environ.get(VARIABLE)
    return Path(named).absolute() if named else None


def cluster_of(kubeconfig: Path) -> dict[str, Any]:
    """The current context's cluster of a kubeconfig file, its paths made absolute."""
    config = yaml.safe_load(kubeconfig.read_text())
    contexts = {each["name"]: each["context"] for each in config["contexts"]}
    clusters = {each["name"]: each["cluster"] for each in config["clusters"]}
    cluster: dict[str, Any] = clusters[contexts[config["current-context"]]["cluster"]]
    if authority := cluster.get("certificate-authority"):
        cluster["certificate-authority"] = str(kubeconfig.parent / authority)
    return cluster


@contextlib.asynccontextmanager
async def open_api_server(plane: ControlPlane | None, folder: Path) -> AsyncIterator[ApiServer]:
    """One test's API server: on this control plane, or on the cluster that was chosen."""
    kubeconfig = chosen_kubeconfig() if plane is None else plane.kubeconfig
    assert kubeconfig is not None, f"neither a control plane nor {VARIABLE}"
    async with ApiServer(kubeconfig, folder, plane) as api_server:
        yield api_server
