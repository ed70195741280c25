"""Where mail goes by one configuration, with the connections to get there.

An attempt takes the plan that is there when it begins, and ends by it, whatever the configuration
says by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from mailrelay.config.model import RelayConfig
from mailrelay.config.smart_hosts import ConfiguredHost, ConfiguredRoute, configured_routes
from mailrelay.mail.reply import Reply
from mailrelay_sender.classify import CAPTURED, CAPTURED_BY_DOMAIN
from mailrelay_sender.connection import (
    CONNECT_SECONDS,
    ConnectionPool,
    ConnectWatch,
    UpstreamSettings,
    Verdicts,
)
from mailrelay_sender.route import Routing, SmartHost

Watch = Callable[[ConfiguredRoute, ConfiguredHost], ConnectWatch | None]


@dataclass(frozen=True, slots=True)
class Hosts:
    """The smart hosts of a route, in the order in which they are tried."""

    pools: tuple[ConnectionPool, ...]

    @property
    def next_hop(self) -> str:
        """All of them, with commas between."""
        return ", ".join(pool.next_hop for pool in self.pools)

    def in_turn(self) -> tuple[list[ConnectionPool], list[Reply]]:
        """Return those that an attempt tries, and why it does without the others.

        One that is known to be down is passed over as long as another one is not: each attempt
        would wait for it in vain. It is looked after without mail (`upstream`). When all are down,
        each is tried, for one may be back.
        """
        trying = [pool for pool in self.pools if pool.down is None]
        if not trying:
            return list(self.pools), []
        return trying, [pool.down for pool in self.pools if pool.down is not None]

    def connect_seconds(self, limit_seconds: float) -> float:
        """Return how long one of them may take to be connected to in an attempt of that limit.

        With several, one that does not answer must leave time for the others and for the mail.
        """
        if len(self.pools) == 1:
            return CONNECT_SECONDS
        return min(CONNECT_SECONDS, limit_seconds / (len(self.pools) + 1))


@dataclass(frozen=True, slots=True)
class Plan:
    """The routes of a configuration, and the smart hosts of each."""

    routing: Routing
    hosts: Mapping[str, Hosts] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        config: RelayConfig,
        host_name: str,
        verdicts: Verdicts,
        watch: Watch = lambda _route, _host: None,
    ) -> Plan:
        """Make the plan of a configuration; nothing is connected to yet.

        `host_name` is ours unless there is a `heloName`. Raises ConfigError when a file of a smart
        host cannot be used.
        """
        routes = configured_routes(config)
        hosts: dict[str, Hosts] = {}
        for route in routes:
            pools = []
            for host in route.hosts:
                settings = UpstreamSettings.of(host, config.helo_name or host_name)
                hop = SmartHost(host.section.host, host.section.port)
                seen_by = watch(route, host)
                pools.append(ConnectionPool(hop, settings, verdicts=verdicts, watch=seen_by))
            hosts[route.name] = Hosts(tuple(pools))
        return cls(Routing.of(routes), hosts)

    @property
    def captured(self) -> Reply:
        """Why mail is captured."""
        return CAPTURED if self.routing.captures_all else CAPTURED_BY_DOMAIN

    @property
    def pools(self) -> Iterator[ConnectionPool]:
        """Every smart host's connections."""
        for hosts in self.hosts.values():
            yield from hosts.pools
