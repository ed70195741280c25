"""Which of the operator's replicas acts: the one that holds the Lease.

The holder renews it. The others act only once they have seen it unchanged for its whole duration by
their own clock, so clocks that differ do no harm. A holder that could not renew stops well before
that, and ends its process: whatever it had under way ends with it. In an orderly end it gives the
Lease up, so that the next one need not wait.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from mailrelay.runtime.logging import Logger
from mailrelay_operator.child_kinds import LEASE
from mailrelay_operator.cluster.api import Cluster
from mailrelay_operator.cluster.errors import ClusterError, ConflictError

DURATION_SECONDS: Final = 15
RENEW_SECONDS: Final = 4.0  # and how often the others look
# A holder that has not renewed for so long stops: 5 s before anybody else may begin.
DEADLINE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Sight:
    """The Lease as it was last seen to change."""

    holder: str = ""
    renewed: str = ""
    at: float = 0.0  # by our own clock


def look(lease: dict[str, Any], before: Sight, now: float) -> Sight:
    """Take note of the Lease (pure)."""
    spec = lease.get("spec", {})
    holder, renewed = spec.get("holderIdentity") or "", spec.get("renewTime") or ""
    if (holder, renewed) == (before.holder, before.renewed):
        return before
    return Sight(holder, renewed, now)


def may_take(lease: dict[str, Any], sight: Sight, me: str, now: float) -> bool:
    """Tell whether the Lease may be taken or renewed by `me` (pure)."""
    duration = lease.get("spec", {}).get("leaseDurationSeconds") or DURATION_SECONDS
    return sight.holder in {"", me} or now - sight.at > duration


def taken(lease: dict[str, Any], me: str, now: str) -> dict[str, Any]:
    """Return the Lease as `me` holds it (pure); `now` in RFC 3339 with microseconds."""
    spec = dict(lease.get("spec", {}))
    if spec.get("holderIdentity") != me:
        spec["acquireTime"] = now
        spec["leaseTransitions"] = int(spec.get("leaseTransitions", 0)) + 1
    spec |= {"holderIdentity": me, "renewTime": now, "leaseDurationSeconds": DURATION_SECONDS}
    return {**lease, "spec": spec}


class Leadership:
    """Holds the Lease, or waits for it."""

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        name: str,
        me: str,
        *,
        log: Logger,
        now: Callable[[], str] | None = None,
    ) -> None:
        """`me` must be another for each process that ever runs: a pod's name and a random part."""
        self._cluster = cluster
        self._namespace = namespace
        self._name = name
        self._me = me
        self._log = log
        self._now = now or _rfc3339
        self._sight = Sight()
        self._acquired = asyncio.Event()
        self._lease: dict[str, Any] = {}
        self.fault = ""  # why the Lease could be neither read nor written when last tried

    @property
    def is_held(self) -> bool:
        """Whether this process acts."""
        return self._acquired.is_set()

    async def wait_held(self) -> None:
        """Wait until this process acts."""
        await self._acquired.wait()

    async def run(self) -> None:
        """Get the Lease and keep it; returns when it was lost, after which nothing may be done."""
        while True:
            if await self._try():
                break
            await asyncio.sleep(RENEW_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311 — parts replicas
        self._log.info("operator.leads", lease=f"{self._namespace}/{self._name}", me=self._me)
        self._acquired.set()
        try:
            await self._keep()
        finally:
            self._acquired.clear()
        self._log.error("operator.lost_lease", reason=f"not renewed for {DEADLINE_SECONDS:.0f} s")

    async def give_up(self) -> None:
        """Let another one have it at once, if we hold it."""
        if self._sight.holder != self._me:
            return
        lease = {**self._lease, "spec": {**self._lease["spec"], "holderIdentity": ""}}
        try:
            async with asyncio.timeout(2.0):
                await self._cluster.replace(LEASE, self._namespace, lease)
        except (ClusterError, TimeoutError) as error:
            self._log.warning("operator.lease_kept", reason=str(error))

    async def _keep(self) -> None:
        clock = asyncio.get_running_loop().time
        renewed_at = clock()
        while clock() - renewed_at < DEADLINE_SECONDS:
            await asyncio.sleep(RENEW_SECONDS)
            began = clock()
            try:
                # Counted from before the request: the server's answer may be long on its way.
                async with asyncio.timeout(renewed_at + DEADLINE_SECONDS - began):
                    if await self._try():
                        renewed_at = began
                    elif self._sight.holder != self._me:
                        return
            except TimeoutError:
                return

    async def _try(self) -> bool:
        try:
            is_ours = await self._take()
        except ClusterError as error:
            self.fault = str(error)
            self._log.warning("operator.lease_unreachable", reason=str(error))
            return False
        self.fault = ""
        return is_ours

    async def _take(self) -> bool:
        """Take or renew the Lease; tell whether it is ours now. Raises ClusterError."""
        clock = asyncio.get_running_loop().time
        try:
            lease = await self._cluster.find(LEASE, self._namespace, self._name)
            if lease is None:
                lease = {
                    "apiVersion": LEASE.api_version,
                    "kind": LEASE.kind,
                    "metadata": {"name": self._name, "namespace": self._namespace},
                }
                mine = taken(lease, self._me, self._now())
                self._take_note(await self._cluster.create(LEASE, self._namespace, mine))
                return True
            self._sight = look(lease, self._sight, clock())
            if not may_take(lease, self._sight, self._me, clock()):
                return False
            mine = taken(lease, self._me, self._now())
            # The version in it lets one of two win.
            self._take_note(await self._cluster.replace(LEASE, self._namespace, mine))
        except ConflictError:
            return False
        return True

    def _take_note(self, lease: dict[str, Any]) -> None:
        self._lease = lease
        self._sight = replace(
            look(lease, self._sight, asyncio.get_running_loop().time()), holder=self._me
        )


def _rfc3339() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
