"""The upstreams that mail goes to now, and whether they can be used.

When the configuration names others, deliveries under way end on the connections that they have, and
everything after them goes the new way. A smart host to which no connection can be had (unreachable,
a bad certificate, credentials refused) is told loudly and once, and tried every `PROBE_SECONDS`
without mail, so that it is known to be back before mail is due.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from prometheus_client import Gauge

from mailrelay.config.model import RelayConfig
from mailrelay.config.smart_hosts import ConfiguredHost, ConfiguredRoute
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
from mailrelay_sender.plan import Hosts, Plan
from mailrelay_sender.report import begin_counting
from mailrelay_sender.route import Capture, NamedHop, Route

PROBE_SECONDS = 15.0
FOLLOWS = (
    *("forwardSMTP", "forwardHost", "forwardPort", "forwardUsername", "forwardPassword"),
    *("forwardSSL", "forwardVerifyTLS", "forwardCAFile", "heloName", "routes"),
)

_is_up = Gauge(
    "mailrelay_upstream_up",
    "1 when the last connection to a smart host could be used, or none was tried; 0 otherwise.",
    ["route", "next_hop"],  # smarthost: that of the forward options; host:port
)


class UpstreamState:
    """Whether one smart host can be used."""

    def __init__(self, route: ConfiguredRoute, host: ConfiguredHost, log: Logger) -> None:
        self._route = route.name
        self._next_hop = host.next_hop
        self._log = log
        self._meaning = (
            "mail goes to another smart host of its route, or waits in the queue and is tried again"
            if len(route.hosts) > 1
            else "mail waits in the queue and is tried again"
        )
        self.reason = ""  # why it cannot be used
        self.changed: Callable[[], None] = lambda: None

    def begin(self, changed: Callable[[], None]) -> None:
        """Count from now on; `changed` is called when `reason` is another one."""
        self.changed = changed
        _is_up.labels(self._route, self._next_hop).set(1)

    def failed(self, reply: Reply) -> None:
        """Note that no connection could be had."""
        if not self.reason:
            self._log.error(
                "upstream.down",
                route=self._route,
                next_hop=self._next_hop,
                reply=str(reply),
                meaning=self._meaning,
            )
        self.reason = reply.text
        _is_up.labels(self._route, self._next_hop).set(0)
        self.changed()

    def worked(self) -> None:
        """Note that there is a connection that can be used."""
        if self.reason:
            self._log.info("upstream.up", route=self._route, next_hop=self._next_hop)
            self.reason = ""
            _is_up.labels(self._route, self._next_hop).set(1)
            self.changed()


class Upstream:
    """Where mail goes, as the configuration in force says."""

    def __init__(
        self, config: RelayConfig, host_name: str, tell: Callable[[str], None], log: Logger
    ) -> None:
        """`tell` is told which upstreams are down and why, and an empty text when none is.

        Raises ConfigError when a file of a smart host cannot be used.
        """
        self._host_name = host_name
        self._tell = tell
        self._log = log
        self.verdicts = Verdicts()
        self._closing: set[asyncio.Task[None]] = set()
        self._states: list[UpstreamState] = []
        settings = UpstreamSettings.from_config(config, host_name)
        self.named_hops = NamedHops(settings, self.verdicts)
        self.plan: Plan
        self.prepare(config)()

    def prepare(self, config: RelayConfig) -> Callable[[], None]:
        """Make ready for other upstreams; what is returned goes over. Raises ConfigError."""
        states: list[UpstreamState] = []

        def watch(route: ConfiguredRoute, host: ConfiguredHost) -> UpstreamState:
            states.append(UpstreamState(route, host, self._log))
            return states[-1]

        settings = UpstreamSettings.from_config(config, self._host_name)
        plan = Plan.of(config, self._host_name, self.verdicts, watch)

        def take() -> None:
            ending = self.named_hops.use(settings)
            if self._states:
                ending += self.plan.pools
            for pool in ending:
                pool.retire()
            self.plan, self._states = plan, states
            begin_counting(plan.routing.names)
            _is_up.clear()
            for state in states:
                state.begin(self._tell_all)
            self._tell_all()
            for pool in ending:
                task = asyncio.create_task(pool.close_idle())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

        return take

    def _tell_all(self) -> None:
        reasons = dict.fromkeys(state.reason for state in self._states if state.reason)
        self._tell("; ".join(f"upstream down: {reason}" for reason in reasons))

    async def hosts(self, route: Route, plan: Plan) -> Hosts | None:
        """Return where a route of a plan leads to; None: nowhere, it captures."""
        if isinstance(route, Capture):
            return None
        if isinstance(route, NamedHop):
            return Hosts((await self.named_hops.pool(route),))
        return plan.hosts[route.name]

    async def run(self) -> None:
        """Close idle connections, and look after upstreams that are down, until cancelled."""
        loop = asyncio.get_running_loop()
        probed_at = loop.time()
        while True:
            await asyncio.sleep(IDLE_SECONDS / 5)
            await self.named_hops.close_idle(older_than_seconds=IDLE_SECONDS)
            for pool in self.plan.pools:
                await pool.close_idle(older_than_seconds=IDLE_SECONDS)
            down = [pool for pool in self.plan.pools if pool.down is not None]
            if down and loop.time() - probed_at >= PROBE_SECONDS:
                await asyncio.gather(*map(self._probe, down))
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
        for pool in self.plan.pools:
            await pool.close_idle()
        await self.named_hops.close_idle()
        await asyncio.gather(*self._closing, return_exceptions=True)
