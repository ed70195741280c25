"""Three real nats-servers with JetStream, clustered on loopback, killed and started one by one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import nkeys

from mailrelay.queue.connection import ConnectionSettings, QueueConnection, open_connection
from mailrelay.queue.errors import QueueError
from mailrelay.queue.names import Names
from mailrelay.queue.rights import Role, rights_of
from mailrelay.queue.streams import QueueLimits, ensure
from mailrelay.runtime.logging import Logger
from tests.support.ports import free_port
from tests.support.wait import wait_until

SIZE = 3
START_SECONDS = 60.0  # an election takes seconds, on a busy machine more
_STORE_BYTES = 8 * 1024**3


class ClusterNode:
    """One server of a cluster, on a folder and ports of its own."""

    def __init__(self, executable: Path, folder: Path, name: str) -> None:
        self._executable = executable
        self.folder = folder
        self.name = name
        self.port = free_port()
        self.route_port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """The running process's id."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def log_text(self) -> str:
        """What it has logged."""
        file = self.folder / "nats.log"
        return file.read_text() if file.exists() else ""

    def start(self) -> None:
        """Start it; it becomes part of the cluster by and by."""
        if self.pid is None:
            self._process = subprocess.Popen(
                [self._executable, "-c", self.folder / "nats.conf", "-l", self.folder / "nats.log"],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in order."""
        self._end(signal.SIGTERM)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(20)
            self._process = None


class NatsCluster:
    """The servers together."""

    def __init__(self, executable: Path, folder: Path, prefix: str = "mailrelay") -> None:
        self._folder = folder
        self.prefix = prefix
        self.names = Names(prefix)
        self.nodes = [
            ClusterNode(executable, folder / f"n{number}", f"n{number}")
            for number in range(1, SIZE + 1)
        ]
        self._write_configs()

    @property
    def url(self) -> str:
        """All servers, as `MAILRELAY_NATS_URL` takes them."""
        return ",".join(node.url for node in self.nodes)

    def node(self, name: str) -> ClusterNode:
        """Return the server of that name."""
        return next(node for node in self.nodes if node.name == name)

    def seed_file(self, role: Role) -> Path:
        """A role's credential."""
        return self._folder / f"{role.value}.seed"

    def connection_settings(self, role: Role) -> ConnectionSettings:
        """How a role connects."""
        return ConnectionSettings(self.url, role.value, self.seed_file(role), self.prefix)

    @contextlib.asynccontextmanager
    async def connected(self, role: Role, log: Logger) -> AsyncIterator[QueueConnection]:
        """A role's connection for a `with` block."""
        connection = await open_connection(self.connection_settings(role), log)
        try:
            yield connection
        finally:
            await connection.close()

    async def start(self, log: Logger, limits: QueueLimits) -> None:
        """Start all servers, wait for their quorum, and make the streams."""
        for node in self.nodes:
            node.start()
        async with self.connected(Role.ADMIN, log) as admin:

            async def is_made() -> bool:
                with contextlib.suppress(QueueError):  # no leader yet
                    await ensure(admin, limits)
                    return True
                return False

            await wait_until(is_made, START_SECONDS, "the streams are made", interval=0.2)
            await self.wait_whole(admin)

    async def wait_whole(self, admin: QueueConnection) -> None:
        """Wait until every stream has a leader and all copies are current."""

        async def is_whole() -> bool:
            return all(map(self._is_whole, await self.states(admin)))

        await wait_until(is_whole, START_SECONDS, "all copies are current", interval=0.2)

    async def states(self, admin: QueueConnection) -> list[dict[str, Any]]:
        """Return each stream's place in the cluster, an empty one when it does not answer."""
        states = []
        for stream in self.streams:
            try:
                states.append((await admin.api(f"STREAM.INFO.{stream}")).get("cluster", {}))
            except QueueError:
                states.append({})
        return states

    async def leader_of(self, stream: str, log: Logger) -> ClusterNode:
        """Return the server that leads a stream; waits until one does."""
        found: list[ClusterNode] = []
        async with self.connected(Role.ADMIN, log) as admin:

            async def leads() -> bool:
                with contextlib.suppress(QueueError):
                    info = await admin.api(f"STREAM.INFO.{stream}")
                    name = info["cluster"].get("leader")
                    found.extend(node for node in self.nodes if node.name == name)
                return bool(found)

            await wait_until(leads, START_SECONDS, f"{stream} has a leader", interval=0.1)
        return found[0]

    @property
    def streams(self) -> Sequence[str]:
        """The streams' names."""
        names = self.names
        return (
            names.in_stream(),
            names.lane_stream,
            names.failed_stream,
            names.capture_stream,
            names.body_stream,
            names.event_stream,
            names.checkpoint_stream,
        )

    def kill(self) -> None:
        """End all servers."""
        for node in self.nodes:
            node.kill()

    async def keep_running(self, pause_seconds: float) -> None:
        """Start servers that have ended again, after a pause, until cancelled."""
        loop = asyncio.get_running_loop()
        gone_at: dict[str, float] = {}
        while True:
            for node in self.nodes:
                if node.pid is not None:
                    gone_at.pop(node.name, None)
                elif loop.time() - gone_at.setdefault(node.name, loop.time()) >= pause_seconds:
                    node.start()
            await asyncio.sleep(0.1)  # a sampling interval

    @staticmethod
    def _is_whole(state: dict[str, Any]) -> bool:
        replicas = state.get("replicas") or []
        return (
            bool(state.get("leader"))
            and len(replicas) == SIZE - 1
            and all(replica.get("current") and not replica.get("offline") for replica in replicas)
        )

    def _write_configs(self) -> None:
        users: dict[bool, list[dict[str, object]]] = {True: [], False: []}
        for role in Role:
            seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
            self.seed_file(role).write_bytes(seed)
            rights = rights_of(role, self.names)
            users[role.is_of_system_account].append(
                {
                    "nkey": nkeys.from_seed(bytearray(seed)).public_key.decode(),
                    "permissions": {
                        "publish": list(rights.publish),
                        "subscribe": list(rights.subscribe),
                    },
                }
            )
        password = secrets.token_hex(16)
        routes = [f"nats-route://route:{password}@127.0.0.1:{n.route_port}" for n in self.nodes]
        for node in self.nodes:
            config = {
                "server_name": node.name,
                "listen": f"127.0.0.1:{node.port}",
                "max_payload": 8 * 1024 * 1024,
                "jetstream": {
                    "store_dir": str(node.folder / "store"),
                    "max_file_store": _STORE_BYTES,
                    "sync_interval": "always",
                },
                "cluster": {
                    "name": "relay",
                    "listen": f"127.0.0.1:{node.route_port}",
                    "authorization": {"user": "route", "password": password},
                    "routes": routes,
                },
                "authorization": {"timeout": 5, "users": users[False]},
                "accounts": {"$SYS": {"users": users[True]}},
            }
            (node.folder / "nats.conf").write_text(json.dumps(config))
