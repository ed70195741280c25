"""Connections to next hops that were named with a release, a pool for each.

They never see the configured credentials. Few are kept, as somebody named each of them by hand.
"""

from __future__ import annotations

from mailrelay_sender.connection import ConnectionPool, UpstreamSettings, Verdicts
from mailrelay_sender.route import NamedHop

MAX_POOLS = 16


class NamedHops:
    """The pools, by next hop; the one used longest ago goes first."""

    def __init__(self, upstream: UpstreamSettings, verdicts: Verdicts) -> None:
        """`upstream` is that of the `forward…` options.

        `verdicts` counts the final dots of all pools that share it.
        """
        self._upstream = upstream
        self._verdicts = verdicts
        self._pools: dict[str, ConnectionPool] = {}

    def use(self, upstream: UpstreamSettings) -> list[ConnectionPool]:
        """Take other settings for the pools made from now on; return those that end."""
        self._upstream = upstream
        ending = list(self._pools.values())
        self._pools.clear()
        for pool in ending:
            pool.retire()
        return ending

    async def pool(self, hop: NamedHop) -> ConnectionPool:
        """Return the pool of a next hop."""
        found = self._pools.pop(hop.next_hop, None)
        if found is None:
            settings = self._upstream.for_named_hop(hop.port)
            found = ConnectionPool(hop, settings, verdicts=self._verdicts)
        self._pools[hop.next_hop] = found
        if len(self._pools) > MAX_POOLS:
            # Attempts under way keep their pool; what they put back ends there.
            oldest = self._pools.pop(next(iter(self._pools)))
            oldest.retire()
            await oldest.close_idle()
        return found

    async def close_idle(self, *, older_than_seconds: float = 0.0) -> None:
        """End the connections that were idle for that long."""
        for pool in list(self._pools.values()):
            await pool.close_idle(older_than_seconds=older_than_seconds)
