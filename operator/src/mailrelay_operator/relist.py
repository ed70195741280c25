"""Read the list of relays from time to time, and see what kopf's watch did not tell."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

from mailrelay.runtime.logging import Logger
from mailrelay_operator.child import RelayKey
from mailrelay_operator.child_kinds import RELAY
from mailrelay_operator.cluster.api import Cluster
from mailrelay_operator.cluster.errors import ClusterError
from mailrelay_operator.known import Known

_FIRST_PAUSE_SECONDS = 0.5
_MOST_PAUSE_SECONDS = 15.0
# kopf gives up a watch that says nothing for 70 s, and reads its list again: by then it has told.
_UNTOLD_SECONDS = 120.0


class Relist:
    """Lists all relays: at the start, and then every so often."""

    def __init__(
        self,
        cluster: Cluster,
        known: Known,
        namespaces: tuple[str, ...],
        *,
        seconds: float,
        missed: Callable[[], None],
        listed: Callable[[tuple[RelayKey, ...]], None],
        log: Logger,
    ) -> None:
        """`listed` is told of all relays after each list; `missed` of each untold change."""
        self._cluster = cluster
        self._known = known
        self._namespaces: tuple[str | None, ...] = namespaces or (None,)
        self._seconds = seconds
        self._missed = missed
        self._listed = listed
        self._log = log
        self._once = asyncio.Event()
        self._untold: dict[RelayKey, float] = {}  # since when: found here, and not told by kopf
        self.heard_at = time.monotonic()

    @property
    def is_listed(self) -> bool:
        """Whether all relays are known."""
        return self._once.is_set()

    def note_told(self, key: RelayKey) -> None:
        """Take note that kopf's watch told something of a relay."""
        self._untold.pop(key, None)

    def untold(self) -> tuple[RelayKey, float] | None:
        """Return a relay whose change kopf does not tell of, and for how many seconds.

        None while there is none, or not for so long that its watch must be silent. With lists that
        are read more often that is as long as from one to the next.
        """
        now = time.monotonic()
        for key, since in self._untold.items():
            if now - since > min(_UNTOLD_SECONDS, self._seconds):
                return key, now - since
        return None

    async def wait_listed(self) -> None:
        """Wait until all relays are known."""
        await self._once.wait()

    async def run(self) -> None:
        """List until cancelled."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                async with self._cluster.listing:
                    await self._list()
            except ClusterError as error:
                self._log.warning("operator.relist_failed", reason=str(error))
                await self._sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 — spreads load
                pause = min(pause * 2, _MOST_PAUSE_SECONDS)
            else:
                pause = _FIRST_PAUSE_SECONDS
                self._once.set()
                self._listed(tuple(self._known.relays()))
                await self._sleep(self._seconds * random.uniform(0.8, 1.2))  # noqa: S311 — as above

    async def _list(self) -> None:
        before = set(self._known.relays())
        found: dict[RelayKey, str] = {}
        unknown: list[RelayKey] = []
        for namespace in self._namespaces:
            async for page in self._cluster.pages(RELAY, namespace):
                for item in page.items:
                    metadata = item["metadata"]
                    key = (metadata["namespace"], metadata["name"])
                    found[key] = metadata["resourceVersion"]
                    item.setdefault("apiVersion", RELAY.api_version)
                    item.setdefault("kind", RELAY.kind)
                    if self._is_news(key, metadata["resourceVersion"]):
                        unknown.append(key)
                        self._known.note_relay(item)
        # One that came while the list was read is not in `before`, and stays.
        gone = before - found.keys()
        for key in gone:
            self._known.forget_relay(key)
        if self.is_listed:
            # A change that is on its way in the watch, too, is counted with the others: what
            # matters is that the number does not grow by itself.
            for _ in (*unknown, *gone):
                self._missed()
            for key in unknown:
                self._untold.setdefault(key, time.monotonic())
        # Of a relay that is gone kopf may rightly say nothing: it does not know that it was there.
        self._untold = {key: at for key, at in self._untold.items() if key in found}
        self.heard_at = time.monotonic()

    def _is_news(self, key: RelayKey, version: str) -> bool:
        known = self._known.relay(key)
        return known is None or known["metadata"]["resourceVersion"] != version

    async def _sleep(self, seconds: float) -> None:
        """Sleep, and show meanwhile that this task is alive."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.heard_at = time.monotonic()
            await asyncio.sleep(min(left, 30.0))
