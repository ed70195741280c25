"""One running relay and its upstream, as the walks use them.

Everything that a walk does to a relay goes through here, so that a rig on three NATS servers can
stand in for this one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import httpx
import structlog
from prometheus_client import CollectorRegistry

from mailrelay.queue.bodies import BodyStore
from mailrelay.queue.connection import ConnectionSettings, QueueConnection, open_connection
from mailrelay.queue.publish import Publisher, Record
from mailrelay.queue.rights import Role
from mailrelay.runtime.logging import Logger
from mailrelay_monitor.bodies import UNSPOKEN_AGE_SECONDS, BodyCleaner, BodyMetrics
from tests.crash.arming import Arming, Point
from tests.crash.queue_state import QueueState, read_state
from tests.support.relay import Relay, forwarding_to, relay_config
from tests.support.scripting import ACCEPT, Action, Context, Delay, Stage
from tests.support.scripts import DEFERRAL, REFUSAL
from tests.support.upstream import ScriptedUpstream
from tests.support.wait import wait_until

WHOLE_SECONDS = 60.0
CONNECTING_SECONDS = 10.0


def _logger() -> Logger:
    """A log that nobody reads: what goes wrong here shows in what is returned."""
    return cast(
        "Logger",
        structlog.wrap_logger(
            None,
            processors=[_drop],
            wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
        ),
    )


def _drop(*_: object) -> str:
    raise structlog.DropEvent


class Rig:
    """A relay with orders to kill, and an upstream that answers by the recipient's kind.

    A recipient's local part begins with its kind: `ok`; `later<n>` is deferred n times; `never`
    always; `refuse` is refused; `fix` is refused and `gate` deferred until the walk opens it;
    `slow` is answered late.
    """

    def __init__(self, folder: Path, name: str, changes: dict[str, Any], *, forwards: bool) -> None:
        folder.mkdir(parents=True)
        self.name = name
        self.folder = folder
        self.log = _logger()
        self.upstream = ScriptedUpstream(self._answer, keep_content=False)
        self.upstream.on_rcpt = self._note_rcpt
        self.tried: dict[str, list[float]] = {}  # by recipient: when its RCPTs came
        self.opened: set[str] = set()
        self.arming = Arming(folder / "orders")
        self._changes = changes
        self._forwards = forwards
        self._connections: dict[Role, QueueConnection] = {}
        # One for all requests: to make one reads the system's authorities each time.
        self._http = httpx.AsyncClient(timeout=60)
        self._supervisor = 0
        self._condemned: tuple[str, int] = ("", 0)  # who the order kills, and its process id

    async def start(self) -> None:
        """Start the relay; the upstream is there."""
        port = self.upstream.port
        forwarding = forwarding_to(port) if self._forwards else {}
        if self.name == "routes":
            forwarding |= {"routes": _routes(port)}
        self.relay = Relay(self.folder, relay_config(**(forwarding | self._changes)))
        self.relay.environ = self.arming.environ
        await self.relay.start()

    async def stop(self) -> None:
        """End the relay."""
        await self._disconnect()
        relay = self.relay
        try:
            if relay.process is not None and relay.process.returncode is None:
                await relay.stop()
        finally:
            if relay.process is not None and relay.process.returncode is None:
                relay.process.kill()
                await relay.process.wait()
            await self._http.aclose()

    def forget(self) -> None:
        """Begin a walk: no recipient is known, nothing is opened."""
        self.tried.clear()
        self.opened.clear()
        self.upstream.received.clear()
        self.upstream.attempts.clear()

    def arm(self, cell: str, point: Point) -> None:
        """Give the order of a cell."""
        self._condemned = (point.killed, self.relay.pid(point.killed))
        self.arming.arm(cell, point, self._condemned[1] if point.victim else 0)

    async def wait_restarted(self) -> None:
        """Wait until the one that was killed is replaced and the relay is whole."""
        await self.wait_replaced()
        await self.wait_whole()

    async def wait_replaced(self) -> None:
        """Wait until another process is in the place of the one that was killed."""
        name, pid = self._condemned

        def is_another() -> bool:
            running = self.relay.run_file()
            now = running.pid if name == "supervisor" else running.pids.get(name, pid)
            return now != pid

        await wait_until(is_another, WHOLE_SECONDS, f"{name} {pid} is replaced")

    async def wait_whole(self) -> None:
        """Wait until every process is there and ready."""
        relay = self.relay

        async def is_whole() -> bool:
            if set(relay.run_file().pids) != {"nats", "ingress", "sender", "monitor"}:
                return False
            if not await self._answers("sender"):
                return False
            with contextlib.suppress(httpx.TransportError):
                return (await self.get("/readyz")).status_code == httpx.codes.OK
            return False

        await wait_until(is_whole, WHOLE_SECONDS, "the relay is whole", interval=0.05)

    async def _answers(self, process: str) -> bool:
        with contextlib.suppress(httpx.TransportError):
            url = f"http://{self.relay.run_file().probes[process]}/readyz"
            return (await self._http.get(url, timeout=3)).status_code == httpx.codes.OK
        return False

    async def is_supervisor_gone(self) -> bool:
        """Whether the whole relay has to be started again."""
        return self.relay.process is None or self.relay.process.returncode is not None

    async def get(self, path: str) -> httpx.Response:
        """GET from the monitor. Raises httpx.TransportError."""
        return await self._http.get(self.relay.http_url + path)

    async def ask(self, method: str, path: str, **body: object) -> int:
        """Ask the monitor for something; returns the status, 0 when nobody answered."""
        try:
            asked = self._http.request(method, self.relay.http_url + path, json=body)
            return (await asked).status_code
        except httpx.TransportError:
            return 0

    def failed_files(self) -> set[str]:
        """The names of the files of failed mail."""
        return {file.name for file in self.relay.data_dir.glob("emails/failed/*")}

    async def kill(self, name: str) -> float:
        """Kill a process; returns when. The caller sees to it that a dead supervisor is revived."""
        self._condemned = (name, self.relay.pid(name))
        sender = self.relay.pid("sender")
        self.relay.kill(name)
        if name == "supervisor":  # the kernel ends its children a moment later
            gone = Path(f"/proc/{sender}")
            await wait_until(lambda: not gone.exists(), 10, "the sender has ended with it")
        return time.time()

    def freeze(self, name: str) -> None:
        """Stop a process as it stands."""
        self.relay.kill(name, signal.SIGSTOP)

    async def wipe_server(self) -> None:
        """Kill nats-server and take its data away before it is started again."""
        supervisor = self.relay.pid("supervisor")
        os.kill(supervisor, signal.SIGSTOP)
        try:
            await self.kill("nats")
            shutil.rmtree(self.relay.data_dir / "nats" / "jetstream")
        finally:
            os.kill(supervisor, signal.SIGCONT)
        await self.wait_restarted()

    async def shift_clock(self, process: str, seconds: float) -> None:
        """Have a process's clock go ahead by so much: it is killed, and starts with that."""
        self.arming.shift_clock(process, seconds)
        await self.kill(process)
        await self.wait_restarted()

    # The queue.
    async def state(self) -> QueueState:
        """What the streams hold. Raises QueueError."""
        return await read_state(await self.connection(Role.ADMIN))

    async def purge_stores(self) -> None:
        """Empty the failed store and the captured mail behind the monitor's back."""
        admin = await self.connection(Role.ADMIN)
        for stream in (admin.names.failed_stream, admin.names.capture_stream):
            await admin.api(f"STREAM.PURGE.{stream}")

    async def store(self, role: Role, record: Record) -> None:
        """Store a record as a service of the relay would, with its rights."""
        await Publisher(await self.connection(role)).store(record)

    async def sweep(self) -> int:
        """Sweep bodies as the monitor does when an hour has passed; returns how many went."""
        monitor = await self.connection(Role.MONITOR)
        cleaner = BodyCleaner(
            monitor,
            BodyStore(monitor, Publisher(monitor)),
            clock=lambda: time.time() + UNSPOKEN_AGE_SECONDS + 1,
            log=self.log,
            metrics=BodyMetrics(CollectorRegistry()),
        )
        return await cleaner.sweep()

    async def connection(self, role: Role) -> QueueConnection:
        """A role's connection to the server of this supervisor's life. Raises TimeoutError.

        A supervisor that was killed leaves the address of a server that is gone, and a service
        would wait for that one for ever.
        """
        async with asyncio.timeout(CONNECTING_SECONDS):
            running = self.relay.run_file()
            if running.pid != self._supervisor:
                await self._disconnect()
                self._supervisor = running.pid
            if role not in self._connections:
                settings = ConnectionSettings(
                    running.nats, role.value, Path(running.credentials) / f"{role.value}.seed"
                )
                self._connections[role] = await open_connection(settings, self.log)
            return self._connections[role]

    async def _disconnect(self) -> None:
        connections, self._connections = self._connections, {}
        for connection in connections.values():
            await connection.close()

    # The upstream.
    def _answer(self, stage: Stage, context: Context) -> Action:
        if stage is not Stage.RCPT:
            return ACCEPT
        kind = context.address.partition(".")[0]
        if kind == "refuse" or (kind == "fix" and kind not in self.opened):
            return REFUSAL
        if kind == "never" or (kind == "gate" and kind not in self.opened):
            return DEFERRAL
        if kind == "slow":
            return Delay(3)
        if kind.startswith("later") and context.nth <= int(kind.removeprefix("later")):
            return DEFERRAL
        return ACCEPT

    def _note_rcpt(self, address: str, *_: int) -> None:
        self.tried.setdefault(address, []).append(time.time())


QUICK = {
    "maxAttempts": 200,
    "initialIntervalSeconds": 0.3,
    "multiplier": 1,
    "maxIntervalSeconds": 0.3,
    "maxAgeSeconds": 600,
}
_COMMON: dict[str, Any] = {
    "workerCount": 4,
    "batchDelay": 20,
    "processingTimeout": 30,
    # As soon as that a killed sender's claims are another's.
    "queue": {"storeBytes": 1024**3, "ackWaitSeconds": 1},
}
# Which relay a walk needs: the changes of its configuration, and whether it forwards.
KINDS: dict[str, tuple[dict[str, Any], bool]] = {
    "forward": (_COMMON | {"retry": QUICK}, True),
    "expire": (_COMMON | {"retry": QUICK | {"maxAttempts": 3}}, True),
    # Longer than the shortest lane, so that a job moves before it is tried again.
    "slow": (
        _COMMON | {"retry": QUICK | {"initialIntervalSeconds": 6.5, "maxIntervalSeconds": 6.5}},
        True,
    ),
    "capture": (_COMMON | {"retry": QUICK}, False),
    "routes": (_COMMON | {"retry": QUICK}, True),
    "limited": (
        _COMMON
        | {"retry": QUICK}
        | {"rateLimits": {"enabled": True, "maxPerHour": 100_000, "globalMaxPerHour": 100_000}},
        True,
    ),
    # The least store: lanes of 12 MB fill up soon.
    "small": (
        _COMMON
        | {"retry": QUICK | {"initialIntervalSeconds": 2, "maxIntervalSeconds": 2}}
        | {"queue": {"storeBytes": 48 * 1024**2, "ackWaitSeconds": 1}, "queueSize": 100_000},
        True,
    ),
}


def _routes(port: int) -> list[dict[str, Any]]:
    """Two routes besides that of all others, each by a name of its own to the one upstream.

    The first smart host of one of them is down for good.
    """
    host = {"host": "127.0.0.1", "tls": "opportunistic"}
    down, there = host | {"port": 1}, host | {"port": port}
    return [
        {"name": "b", "recipientDomains": ["b.test"], "smartHosts": [there]},
        {"name": "c", "recipientDomains": ["c.test"], "smartHosts": [down, there]},
    ]


@contextlib.asynccontextmanager
async def running_rig(folder: Path, kind: str) -> AsyncIterator[Rig]:
    """A rig for a `with` block."""
    changes, forwards = KINDS[kind]
    rig = Rig(folder, kind, changes, forwards=forwards)
    async with rig.upstream:
        try:
            await rig.start()
            await rig.wait_whole()
            yield rig
        finally:
            await rig.stop()
