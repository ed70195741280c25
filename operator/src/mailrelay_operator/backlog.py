"""Ask the relays' monitors, over HTTP, what waits and what is wrong; what is not known stays so.

In its own time: a monitor that does not answer must not keep a worker from other relays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import msgspec

from mailrelay.runtime.clock import Clock
from mailrelay_operator.autoscale import Ready
from mailrelay_operator.child import RelayKey
from mailrelay_operator.work_queue import WorkQueue
from mailrelay_operator.workers import Workers

RARELY_SECONDS: Final = 60.0
# Less than the 30 s within which deferred mail counts as ready: none becomes due unseen.
OFTEN_SECONDS: Final = 12.0
_TIMEOUT = aiohttp.ClientTimeout(total=5.0)
_AT_ONCE = 16
_ANSWER_LIMIT = 1_000_000  # octets


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a monitor said. `ready` None: it was not to be had."""

    at: float
    jobs: int | None = None
    ready: Ready | None = None
    failed: int | None = None
    captured: int | None = None
    missing: tuple[str, ...] = ()  # streams and consumers that the queue has not
    reasons: tuple[str, ...] = ()  # why its health is not ok
    is_unavailable: bool = False
    fault: str = ""  # why nothing was had

    @property
    def is_told(self) -> bool:
        """Whether the queue itself answered, so that an empty `missing` means something."""
        return self.ready is not None


@dataclass(frozen=True, slots=True)
class Question:
    """Which relay is asked, how often, and by what token."""

    url: str
    token: str
    interval_seconds: float


class Backlogs:
    """Asks each relay that it was told of, again and again."""

    def __init__(self, concerns: Callable[[RelayKey], None], *, clock: Clock) -> None:
        """`concerns` is called when a relay's numbers call for a look at it."""
        self._concerns = concerns
        self._clock = clock
        self._questions: dict[RelayKey, Question] = {}
        self._numbers: dict[RelayKey, Numbers] = {}
        self._queue: WorkQueue[RelayKey] = WorkQueue()
        self._workers = Workers(self._queue, self._ask, failed=lambda *_: None, count=_AT_ONCE)
        self._session: aiohttp.ClientSession | None = None

    def numbers(self, key: RelayKey) -> Numbers | None:
        """Return what was last said; None when nobody was asked yet."""
        return self._numbers.get(key)

    def follow(self, key: RelayKey, question: Question | None) -> None:
        """Ask a relay from now on, or no longer."""
        if question is None:
            self._questions.pop(key, None)
            self._numbers.pop(key, None)
        elif self._questions.get(key) != question:
            self._questions[key] = question
            self._queue.add(key, asyncio.get_running_loop().time())

    async def run(self) -> None:
        """Ask until cancelled."""
        connector = aiohttp.TCPConnector(limit=_AT_ONCE, force_close=True)
        async with aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT) as session:
            self._session = session
            await self._workers.run()

    async def _ask(self, key: RelayKey) -> float | None:
        question = self._questions.get(key)
        if question is None:
            return None
        before = self._numbers.get(key)
        numbers = await self._numbers_of(question)
        if key not in self._questions:
            return None
        self._numbers[key] = numbers
        if question.interval_seconds <= OFTEN_SECONDS or _differ(before, numbers):
            self._concerns(key)
        return question.interval_seconds

    async def _numbers_of(self, question: Question) -> Numbers:
        now = self._clock()
        try:
            health = await self._get(question, "/health")
            backlog = await self._get(question, "/api/backlog")
            missing = tuple(str(part) for part in backlog.get("missing", ()))
            reasons = tuple(str(reason) for reason in health.get("reasons", ()))
            is_unavailable = health.get("status") == "unavailable"
            if "ready" not in backlog:  # the monitor is there, and its queue is not
                return Numbers(now, missing=missing, reasons=reasons, is_unavailable=is_unavailable)
            ready = backlog["ready"]
            return Numbers(
                now,
                jobs=int(backlog["jobs"]),
                ready=Ready(int(ready["new"]), int(ready["soon"])),
                failed=int(backlog["failed"]),
                captured=int(backlog["captured"]),
                missing=missing,
                reasons=reasons,
                is_unavailable=is_unavailable,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return Numbers(now, fault=str(error) or type(error).__name__)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return Numbers(now, fault=f"the monitor's answer cannot be read: {error!r}")

    async def _get(self, question: Question, path: str) -> dict[str, Any]:
        assert self._session is not None  # noqa: S101 — `run` made it before any worker began
        headers = {"Authorization": f"Bearer {question.token}"} if question.token else {}
        async with self._session.get(
            question.url + path, headers=headers, allow_redirects=False
        ) as response:
            body = await response.content.read(_ANSWER_LIMIT)
            # With 503 both say that the queue does not answer, and what is known all the same.
            if response.status not in {200, 503}:
                raise ValueError(f"{path}: HTTP status {response.status}")
        answer: dict[str, Any] = msgspec.json.decode(body)
        return answer


def _differ(before: Numbers | None, now: Numbers) -> bool:
    """Tell whether a relay's conditions may be others."""
    if before is None:
        return True
    return (before.reasons, before.is_unavailable, before.missing, bool(before.fault)) != (
        now.reasons,
        now.is_unavailable,
        now.missing,
        bool(now.fault),
    )
