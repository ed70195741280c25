"""Connections to next hops that were named with a release, a pool for each.

They never see the configured credentials. Few are kept, as somebody named each of them by hand.
"""

from __future__ import annotations

import asyncio

from mailrelay_sender.connection import ConnectionPool, UpstreamSettings
from mailrelay_sender.route import NamedHop

MAX_POOLS = 16


class NamedHops:
    """The pools, by next hop; the one used longest ago goes first."""

    def __init__(self, upstream: UpstreamSettings) -> None:
        self._upstream = upstream
        self._pools: dict[str, ConnectionPool] = {}

    async def pool(self, hop: NamedHop) -> ConnectionPool:
        """Return the pool of a next hop."""
        found = self._pools.pop(hop.next_hop, None)
        if found is None:
            found = ConnectionPool(hop, self._upstream.for_named_hop(hop.port))
        self._pools[hop.next_hop] = found
        if len(self._pools) > MAX_POOLS:
            # Attempts under way keep their pool; what they put back ends with its last message.
            oldest = self._pools.pop(next(iter(self._pools)))
            await oldest.close_idle()
        return found

    async def wait_verdicts(self, limit_seconds: float) -> None:
        """Wait until every final dot is answered, `limit_seconds` at most."""
        pools = list(self._pools.values())
        await asyncio.gather(*(pool.wait_verdicts(limit_seconds) for pool in pools))

    async def close_idle(self, *, older_than_seconds: float = 0.0) -> None:
        """End the connections that were idle for that long."""
        for pool in list(self._pools.values()):
            await pool.close_idle(older_than_seconds=older_than_seconds)
