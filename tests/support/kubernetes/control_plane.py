"""etcd, kube-apiserver and kube-controller-manager on loopback, with everything in one folder.

As in a real cluster: RBAC decides, admission is what it is by default, controllers do their part.
Not as in one: no node, so a Pod stays Pending; no scheduler; and etcd syncs nothing to disk,
because nobody needs these data after the test.

A port is taken once and kept by a socket that never listens; the servers share it (SO_REUSEPORT).
So a server that starts again finds its port free, and tests that run side by side never meet.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.kubernetes import audit
from tests.support.kubernetes.client import Client, open_client
from tests.support.kubernetes.credentials import Credentials, make_credentials, write_kubeconfig
from tests.support.kubernetes.process import Daemon
from tests.support.wait import wait_until

SERVICES = "10.96.0.0/16"
SERVICE_ADDRESS = "10.96.0.1"  # of the API server: the first one
API_PORT = 6443  # of a cluster with a node
START_SECONDS = 120.0  # measured: docs/decisions/0030; the rest is for a machine that is busy


class ControlPlane:
    """One control plane on one folder. Start it in the main thread (see `process`).

    With a `node_address` the API server can be reached there, too, and pods find it by its Service.
    """

    def __init__(
        self, programs: dict[str, Path], folder: Path, *, node_address: str | None = None
    ) -> None:
        folder.mkdir(mode=0o700, parents=True)
        self.folder = folder
        self._node_address = node_address
        # With a node the network is one of its own, and the port what policies take it to be.
        self._ports = _Ports(api_server=_Port(API_PORT)) if node_address else _Ports()
        self.credentials = make_credentials(
            folder / "credentials", (node_address, SERVICE_ADDRESS) if node_address else ()
        )
        self.url = f"https://127.0.0.1:{self._ports.api_server.number}"
        self.cluster: dict[str, Any] = {
            "server": self.url,
            "certificate-authority": str(self.credentials.authority),
        }
        self.kubeconfig = write_kubeconfig(
            folder / "admin.kubeconfig", self.cluster, self.credentials.admin
        )
        self.audit_log = folder / "audit.log"
        self.etcd = self._etcd(programs["etcd"])
        self.api_server = self._api_server(programs["kube-apiserver"], self.credentials)
        self.controller_manager = self._controller_manager(programs["kube-controller-manager"])

    async def start(self, definitions: Iterable[str] = ()) -> None:
        """Start all three, and wait until the API server answers and accounts are made.

        Custom resource definitions that everybody needs come before the controller manager: its
        garbage collector looks for new kinds only every 30 seconds, and until then it deletes
        nothing that belongs to one of them.
        """
        self.etcd.start()
        await self.start_api_server()
        async with open_client(self.kubeconfig) as client:
            for definition in definitions:
                await client.apply(definition)
        await self.start_controller_manager()

    async def start_api_server(self) -> None:
        """Start the API server and wait until it is ready.

        A controller manager that missed it is started anew: it would look again only after a pause
        that doubles with each API server that went away, up to a minute, and until then no
        namespace gets its ServiceAccount.
        """
        missed_it = self.controller_manager.is_running
        self.controller_manager.kill()
        self.api_server.start()
        async with open_client(self.kubeconfig) as client:
            await self._wait_for(client, "/readyz")
        if missed_it:
            await self.start_controller_manager()

    async def start_controller_manager(self) -> None:
        """Start the controller manager and wait until it has made the default ServiceAccount."""
        self.controller_manager.start()
        async with open_client(self.kubeconfig) as client:
            await self._wait_for(client, "/api/v1/namespaces/default/serviceaccounts/default")

    async def fill_etcd(self) -> None:
        """Let etcd take nothing more, as when its quota is reached: reads and deletions go on."""
        await self._alarm("ACTIVATE")

    async def empty_etcd(self) -> None:
        """Let it take everything again, as an administrator does who has made room."""
        await self._alarm("DEACTIVATE")

    async def _alarm(self, action: str) -> None:
        """Set or clear the alarm by which etcd itself stops writes (its API, `Maintenance`)."""
        asked = {"action": action, "memberID": "0", "alarm": "NOSPACE"}
        url = f"http://127.0.0.1:{self._ports.etcd.number}/v3/maintenance/alarm"
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, json=asked) as answer,
        ):
            assert answer.status == 200, await answer.text()

    async def start_what_is_stopped(self) -> None:
        """Start again what a test has ended."""
        if not self.etcd.is_running:
            self.etcd.start()
        if not self.api_server.is_running:
            await self.start_api_server()
        if not self.controller_manager.is_running:
            await self.start_controller_manager()

    def kill(self) -> None:
        """End all three by SIGKILL, and give the ports back."""
        for daemon in (self.controller_manager, self.api_server, self.etcd):
            daemon.kill()
        self._ports.close()

    async def _wait_for(self, client: Client, path: str) -> None:
        async def answers() -> bool:
            for daemon in (self.etcd, self.api_server, self.controller_manager):
                daemon.check()
            return await client.answers(path)

        await wait_until(answers, START_SECONDS, f"{path} is there", interval=0.05)

    def _etcd(self, program: Path) -> Daemon:
        client = f"http://127.0.0.1:{self._ports.etcd.number}"
        peer = f"http://127.0.0.1:{self._ports.etcd_peer.number}"
        return Daemon(
            program,
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--socket-reuse-port",
            "--unsafe-no-fsync",
            "--log-level=warn",
            log=self.folder / "etcd.log",
        )

    def _api_server(self, program: Path, credentials: Credentials) -> Daemon:
        policy = self.folder / "audit-policy.json"
        policy.write_text(json.dumps(audit.POLICY))
        return Daemon(
            program,
            f"--etcd-servers=http://127.0.0.1:{self._ports.etcd.number}",
            f"--bind-address={'0.0.0.0' if self._node_address else '127.0.0.1'}",  # noqa: S104 — pods
            f"--secure-port={self._ports.api_server.number}",
            "--permit-port-sharing",
            f"--advertise-address={self._node_address or '127.0.0.1'}",
            # Without a node nothing in this cluster looks for the API server, and a Service that
            # leads to loopback would be refused.
            f"--endpoint-reconciler-type={'lease' if self._node_address else 'none'}",
            # Without it an orderly stop waits up to a minute for watches to end by themselves.
            "--shutdown-watch-termination-grace-period=1s",
            f"--cert-dir={self.folder}",
            f"--tls-cert-file={credentials.server.certificate}",
            f"--tls-private-key-file={credentials.server.key}",
            f"--client-ca-file={credentials.authority}",
            "--authorization-mode=Node,RBAC",
            f"--kubelet-client-certificate={credentials.admin.certificate}",
            f"--kubelet-client-key={credentials.admin.key}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--audit-policy-file={policy}",
            f"--audit-log-path={self.audit_log}",
            "--audit-log-maxsize=2000",  # MB; a file that is rotated would hide what came before
            f"--service-cluster-ip-range={SERVICES}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={credentials.accounts_public}",
            f"--service-account-signing-key-file={credentials.accounts_private}",
            log=self.folder / "kube-apiserver.log",
        )

    def _controller_manager(self, program: Path) -> Daemon:
        kubeconfig = write_kubeconfig(
            self.folder / "controller-manager.kubeconfig",
            self.cluster,
            self.credentials.controller_manager,
        )
        return Daemon(
            program,
            f"--kubeconfig={kubeconfig}",
            "--leader-elect=false",
            "--secure-port=0",  # it serves nothing
            "--use-service-account-credentials",
            f"--service-account-private-key-file={self.credentials.accounts_private}",
            f"--root-ca-file={self.credentials.authority}",
            # Its own limit of 20 requests a second is for a big cluster's sake, not for tests.
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
            log=self.folder / "kube-controller-manager.log",
        )


class _Port:
    """A port of loopback that is nobody else's until it is closed."""

    def __init__(self, number: int = 0) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # Of 0 the kernel makes one that is free, and gives it to no outgoing connection.
        self._socket.bind(("127.0.0.1", number))
        self.number: int = self._socket.getsockname()[1]

    def close(self) -> None:
        self._socket.close()


@dataclass(frozen=True, slots=True)
class _Ports:
    etcd: _Port = field(default_factory=_Port)
    etcd_peer: _Port = field(default_factory=_Port)
    api_server: _Port = field(default_factory=_Port)

    def close(self) -> None:
        for port in (self.etcd, self.etcd_peer, self.api_server):
            port.close()
