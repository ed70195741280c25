"""Follow all objects of one kind: list them, watch from there, and list again from time to time.

Whoever follows is told of each object that is there, and of each that is gone: also of those that
went while no watch was open. A watch that says nothing is closed and opened anew; that the list is
read again finds what a watch failed to tell, and proves that this task is alive (`heard_at`).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from mailrelay_operator.child_kinds import Kind
from mailrelay_operator.cluster.api import Cluster, Manifest
from mailrelay_operator.cluster.errors import ClusterError, GoneError, NotFoundError

RELIST_SECONDS: Final = 600.0
_WATCH_SECONDS = 300
_FIRST_PAUSE_SECONDS = 0.2
_MOST_PAUSE_SECONDS = 10.0
# A list from the server's memory may be this much older than what the watch told last.
_ABSENT_PAUSE_SECONDS = 300.0  # how often to look whether an add-on's kind has come

Place = tuple[str, str]  # namespace, name


class Follower(Protocol):
    """Who is told."""

    def is_there(self, kind: Kind, found: Manifest) -> None:
        """Take note of an object: a new one, a new version, or again the same."""

    def is_gone(self, kind: Kind, place: Place) -> None:
        """Take note that an object is no more."""


class WatchCounts(Protocol):
    """Who counts what goes wrong with watches."""

    def restarted(self, kind: Kind, why: str) -> None:
        """Count a watch that had to begin anew: `silent`, `gone`, `failed`."""


class Watch:
    """Follows one kind in one namespace, or in all."""

    def __init__(  # noqa: PLR0913 — a task's collaborators
        self,
        cluster: Cluster,
        kind: Kind,
        namespace: str | None,
        follower: Follower,
        counts: WatchCounts,
        *,
        selector: str = "",
        relist_seconds: float = RELIST_SECONDS,
        absent: Callable[[bool], Awaitable[None]] | None = None,
    ) -> None:
        """`absent` is told of an optional kind whether the API server lacks it."""
        self._cluster = cluster
        self.kind = kind
        self._namespace = namespace
        self._follower = follower
        self._counts = counts
        self._selector = selector
        self._relist_seconds = relist_seconds
        self._absent = absent
        self._known: dict[Place, str] = {}  # to the resourceVersion
        self._listed = asyncio.Event()
        self.heard_at = time.monotonic()  # when the server last said anything, an error included

    @property
    def is_listed(self) -> bool:
        """Whether all objects have been told of once."""
        return self._listed.is_set()

    async def wait_listed(self) -> None:
        """Wait until all objects have been told of once."""
        await self._listed.wait()

    async def run(self) -> None:
        """Follow until cancelled."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                async with self._cluster.listing:
                    since = await self._list()
                pause = _FIRST_PAUSE_SECONDS
                await self._watch(since)
            except GoneError:
                self._counts.restarted(self.kind, "gone")
            except NotFoundError:
                await self._wait_served()
            except ClusterError:
                self._heard()
                self._counts.restarted(self.kind, "failed")
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 — spreads load
                pause = min(pause * 2, _MOST_PAUSE_SECONDS)

    def _heard(self) -> None:
        self.heard_at = time.monotonic()

    async def _list(self) -> str:
        """Tell of all objects and of those that are gone; return where the watch begins."""
        found: set[Place] = set()
        version = ""
        async for page in self._cluster.pages(self.kind, self._namespace, self._selector):
            self._heard()
            for item in page.items:
                found.add(self._note(item))
            version = page.resource_version
            await asyncio.sleep(0)  # a list may be long: others get their turn
        for place in self._known.keys() - found:
            self._gone(place)
        if self._absent is not None:
            await self._absent(False)  # noqa: FBT003 — a callable's only argument
        self._listed.set()
        return version

    async def _watch(self, since: str) -> None:
        """Tell of changes until the list is to be read again. Raises ClusterError."""
        loop = asyncio.get_running_loop()
        relist_at = loop.time() + self._relist_seconds * random.uniform(0.8, 1.2)  # noqa: S311 — spreads load
        pause = _FIRST_PAUSE_SECONDS
        while (left := relist_at - loop.time()) > 0:
            try:
                events = self._cluster.events(
                    self.kind,
                    self._namespace,
                    since,
                    selector=self._selector,
                    seconds=max(1, min(_WATCH_SECONDS, int(left))),
                )
                async for what, item in events:
                    self._heard()
                    pause = _FIRST_PAUSE_SECONDS
                    since = item["metadata"]["resourceVersion"]
                    if what == "DELETED":
                        self._gone(_place(item))
                    elif what != "BOOKMARK":
                        self._note(item)
            except (GoneError, NotFoundError):
                raise
            except ClusterError:
                # Goes on from where it was: nothing is missed, and no list is needed.
                self._heard()
                self._counts.restarted(self.kind, "failed")
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 — spreads load
                pause = min(pause * 2, _MOST_PAUSE_SECONDS)
            else:
                self._heard()
                await asyncio.sleep(0)

    def _note(self, item: Manifest) -> Place:
        place = _place(item)
        version = item["metadata"]["resourceVersion"]
        if self._known.get(place) != version:
            self._known[place] = version
            self._follower.is_there(self.kind, item)
        return place

    def _gone(self, place: Place) -> None:
        if self._known.pop(place, None) is not None:
            self._follower.is_gone(self.kind, place)

    async def _wait_served(self) -> None:
        """Wait until an add-on's kind may be there; all that was known of it is gone."""
        self._heard()
        for place in list(self._known):
            self._gone(place)
        if self._absent is not None:
            await self._absent(True)  # noqa: FBT003 — a callable's only argument
        if self.kind.optional:
            self._listed.set()
        else:
            self._counts.restarted(self.kind, "failed")
        deadline = time.monotonic() + _ABSENT_PAUSE_SECONDS
        while time.monotonic() < deadline:
            self._heard()
            await asyncio.sleep(5.0 if self.kind.optional else _MOST_PAUSE_SECONDS)
            if not self.kind.optional:
                return


def _place(item: Manifest) -> Place:
    metadata = item["metadata"]
    return metadata["namespace"], metadata["name"]
