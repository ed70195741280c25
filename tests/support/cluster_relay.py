"""The relay's services as they are, on a cluster of nats-servers, kept alive by the test's own rig.

What `mailrelay run` is on one machine, Kubernetes is in a cluster; here it is this. A service that
ends is started again after `RESTART_SECONDS`; servers are left to who ends them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from mailrelay.queue.rights import Role
from mailrelay.queue.streams import QueueLimits
from mailrelay.runtime.lifecycle import LIFELINE_FD
from mailrelay.runtime.logging import Logger
from tests.support.nats_cluster import SIZE, NatsCluster
from tests.support.ports import free_port
from tests.support.relay import RelayClient, relay_config
from tests.support.wait import wait_until

SERVICES = ("sender", "monitor", "ingress")
RESTART_SECONDS = 0.2
READY_SECONDS = 60.0
STOP_SECONDS = 40.0
ACK_WAIT_SECONDS = 6.0
LIMITS = QueueLimits(
    store_bytes=2 * 1024**3,
    queue_size=100_000,
    capture_max_messages=1000,
    capture_drops_oldest=False,
    replicas=SIZE,
    ack_wait_seconds=ACK_WAIT_SECONDS,
)


class ClusterRelay(RelayClient):
    """Three servers, and one process of each service."""

    def __init__(self, folder: Path, executable: Path, config: dict[str, Any]) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.data_dir.mkdir()
        self.config = config
        self.cluster = NatsCluster(executable, self.data_dir / "nats")
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._keeping: list[asyncio.Task[None]] = []
        self._probe_ports = {name: free_port() for name in SERVICES}
        self._lifeline, self._held_end = os.pipe()  # services end when the rig does
        self._is_stopping = False
        self.exit_codes: list[int] = []  # of services that were not killed

    def pid(self, name: str) -> int:
        """The process id of a service or, as `n1` to `n3`, of a server. Raises KeyError."""
        if name in SERVICES:
            process = self._processes[name]
            if process.returncode is not None:
                raise KeyError(name)
            return process.pid
        pid = self.cluster.node(name).pid
        if pid is None:
            raise KeyError(name)
        return pid

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Send a signal to one of the processes; returns its pid."""
        pid = self.pid(name)
        os.kill(pid, number)
        return pid

    def log_lines(self, service: str, event: str) -> list[dict[str, Any]]:
        """A service's log lines of one event, in order."""
        lines = []
        for line in (self.folder / f"{service}.log").read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                decoded = json.loads(line)
                if decoded.get("event") == event:
                    lines.append(decoded)
        return lines

    async def start(self, log: Logger) -> None:
        """Start everything and wait until /readyz says 200."""
        (self.folder / "config.json").write_text(json.dumps(self.config))
        await self.cluster.start(log, LIMITS)
        self._keeping = [asyncio.create_task(self._keep(name)) for name in SERVICES]
        await self.wait_ready()

    async def wait_ready(self, limit_seconds: float = READY_SECONDS) -> None:
        """Wait until the relay takes mail and its totals are caught up."""

        async def is_ready() -> bool:
            for task in self._keeping:
                if task.done():
                    task.result()
            with contextlib.suppress(httpx.TransportError):
                return (await self.get("/readyz")).status_code == httpx.codes.OK
            return False

        await wait_until(is_ready, limit_seconds, "the relay is ready", interval=0.1)

    async def stop(self) -> dict[str, int]:
        """Stop the services in order; returns their exit codes. The servers go on."""
        self._is_stopping = True
        codes = {}
        for name in ("ingress", "sender", "monitor"):
            process = self._processes[name]
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            codes[name] = await asyncio.wait_for(process.wait(), STOP_SECONDS)
        return codes

    async def end(self) -> None:
        """Leave nothing running."""
        self._is_stopping = True
        for task in self._keeping:
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        for fd in (self._lifeline, self._held_end):
            os.close(fd)
        self.cluster.kill()

    async def _keep(self, name: str) -> None:
        while not self._is_stopping:
            with (self.folder / f"{name}.log").open("ab") as log:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *("-P", "-m", f"mailrelay_{name}"),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **self._environ(name)},
                    pass_fds=(self._lifeline,),
                    start_new_session=True,
                )
            self._processes[name] = process
            if await process.wait() > 0:
                self.exit_codes.append(process.returncode or 0)
            await asyncio.sleep(RESTART_SECONDS)  # as the supervisor does

    def _environ(self, name: str) -> dict[str, str]:
        return {
            "MAILRELAY_CONFIG": str(self.folder / "config.json"),
            "MAILRELAY_DATA_DIR": str(self.data_dir),
            "MAILRELAY_NATS_URL": self.cluster.url,
            "MAILRELAY_NATS_SEED_FILE": str(self.cluster.seed_file(Role(name))),
            "MAILRELAY_PROBE_ADDRESS": f"127.0.0.1:{self._probe_ports[name]}",
            LIFELINE_FD: str(self._lifeline),
        }


def cluster_config(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 — JSON
    """A configuration for a relay on three servers; `changes` go on top."""
    queue = {"replicas": SIZE, "ackWaitSeconds": ACK_WAIT_SECONDS}
    defaults = {"queueSize": LIMITS.queue_size, "workerCount": 16}
    return relay_config(**{**defaults, **changes, "queue": queue})


@contextlib.asynccontextmanager
async def running_cluster_relay(
    folder: Path,
    executable: Path,
    log: Logger,
    **changes: Any,  # noqa: ANN401 — JSON
) -> AsyncIterator[ClusterRelay]:
    """A relay on three servers for a `with` block; whatever happens, nothing of it is left."""
    relay = ClusterRelay(folder, executable, cluster_config(**changes))
    try:
        await relay.start(log)
        yield relay
        codes = await relay.stop()
        assert set(codes.values()) == {0}, codes
    finally:
        await relay.end()
