"""The upstream that mail goes to now, and whether it can be used.

When the configuration names another one, deliveries under way end on the connections that they
have, and everything after them goes the new way. An upstream to which no connection can be had
(unreachable, a bad certificate, credentials refused) is told loudly and once, and tried every
`PROBE_SECONDS` without mail, so that it is known to be back before mail is due.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from prometheus_client import Gauge

from mailrelay.config.model import RelayConfig
from mailrelay.mail.reply import Reply
from mailrelay.runtime.logging import Logger
from mailrelay_sender.connection import (
    IDLE_SECONDS,
    ConnectError,
    ConnectionPool,
    UpstreamSettings,
    Verdicts,
)
from mailrelay_sender.named_hops import NamedHops
from mailrelay_sender.route import Route, SmartHost, route_of

PROBE_SECONDS = 15.0
FOLLOWS = (
    *("forwardSMTP", "forwardHost", "forwardPort", "forwardUsername", "forwardPassword"),
    *("forwardSSL", "forwardVerifyTLS", "forwardCAFile", "heloName"),
)

_is_up = Gauge(
    "mailrelay_upstream_up",
    "1 when the last connection to the upstream could be used, or none was tried; 0 otherwise.",
)


class UpstreamState:
    """Whether one upstream can be used."""

    def __init__(self, next_hop: str, tell: Callable[[str], None], log: Logger) -> None:
        self._next_hop = next_hop
        self._tell = tell
        self._log = log
        self.is_down = False
        _is_up.set(1)
        tell("")

    def failed(self, reply: Reply) -> None:
        """Note that no connection could be had."""
        if not self.is_down:
            self._log.error(
                "upstream.down",
                next_hop=self._next_hop,
                reply=str(reply),
                meaning="mail waits in the queue and is tried again",
            )
        self.is_down = True
        _is_up.set(0)
        self._tell(f"upstream down: {reply.text}")

    def worked(self) -> None:
        """Note that there is a connection that can be used."""
        if self.is_down:
            self._log.info("upstream.up", next_hop=self._next_hop)
            self.is_down = False
            _is_up.set(1)
            self._tell("")


class Upstream:
    """Where mail goes, as the configuration in force says."""

    def __init__(
        self, config: RelayConfig, host_name: str, tell: Callable[[str], None], log: Logger
    ) -> None:
        """`tell` is told why the upstream is down, and an empty text when it is not.

        Raises ConfigError when the authorities cannot be read.
        """
        self._host_name = host_name
        self._tell = tell
        self._log = log
        self.verdicts = Verdicts()
        self._closing: set[asyncio.Task[None]] = set()
        self.route: Route = route_of(config)
        self.pool: ConnectionPool | None = None  # none when mail is captured
        settings = UpstreamSettings.from_config(config, host_name)
        self.named_hops = NamedHops(settings, self.verdicts)
        self.prepare(config)()

    def prepare(self, config: RelayConfig) -> Callable[[], None]:
        """Make ready for another upstream; what is returned goes over to it. Raises ConfigError."""
        settings = UpstreamSettings.from_config(config, self._host_name)
        route = route_of(config)

        def take() -> None:
            ending = self.named_hops.use(settings)
            if self.pool is not None:
                self.pool.retire()
                ending.append(self.pool)
            self.pool = self._pool(route, settings)
            self.route = route
            for pool in ending:
                task = asyncio.create_task(pool.close_idle())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

        return take

    def _pool(self, route: Route, settings: UpstreamSettings) -> ConnectionPool | None:
        if not isinstance(route, SmartHost):
            self._tell("")
            return None
        state = UpstreamState(route.next_hop, self._tell, self._log)
        return ConnectionPool(route, settings, verdicts=self.verdicts, watch=state)

    async def run(self) -> None:
        """Close idle connections, and look after an upstream that is down, until cancelled."""
        loop = asyncio.get_running_loop()
        probed_at = loop.time()
        while True:
            await asyncio.sleep(IDLE_SECONDS / 5)
            await self.named_hops.close_idle(older_than_seconds=IDLE_SECONDS)
            pool = self.pool
            if pool is None:
                continue
            await pool.close_idle(older_than_seconds=IDLE_SECONDS)
            if pool.is_down and loop.time() - probed_at >= PROBE_SECONDS:
                await self._probe(pool)
                probed_at = loop.time()

    async def _probe(self, pool: ConnectionPool) -> None:
        try:
            await pool.put_back(await pool.get(fresh=True))
        except ConnectError:
            return  # noted by the pool

    async def wait_verdicts(self, limit_seconds: float) -> None:
        """Wait until every final dot is answered, whoever it went to, `limit_seconds` at most.

        No other one goes out: what has not come so far can be cut off without repeating it.
        """
        self.verdicts.close()
        await self.verdicts.wait_none(limit_seconds)

    async def close(self) -> None:
        """End what is idle."""
        if self.pool is not None:
            await self.pool.close_idle()
        await self.named_hops.close_idle()
        await asyncio.gather(*self._closing, return_exceptions=True)
