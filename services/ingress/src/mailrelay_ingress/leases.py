"""Lease tokens of the rate limits' counters, spend them here, and give back what is not used.

A counter at the queue holds how many tokens are spent or leased, by all processes together
(`mailrelay.queue.counters`). Far from its limit a process leases several at once, so that most
messages cost no round trip; near it one at a time. A token is granted only when the total that
the queue answered says so, and every failure on the way leaves the counter too high and never too
low: more than the limit is never granted.

Nobody is refused while tokens lie unused. What is not taken for `IDLE_SECONDS` goes back by
itself; who finds a counter used up asks the other processes for what they hold (a recall), and
waits `PATIENCE_SECONDS` for it before it refuses.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client import Counter

from mailrelay.mail.limit import CounterName
from mailrelay.queue.counters import Addition, CounterStore
from mailrelay.queue.errors import QueueError, QueueUnavailableError
from mailrelay.runtime.clock import Clock
from mailrelay.runtime.lifecycle import wait_first
from mailrelay.runtime.logging import Logger
from mailrelay.runtime.steps import passed
from mailrelay.runtime.tasks import BoundedTasks

MOST_LEASED = 50
# With this one and the sweep's pause unused tokens are back at the queue within a second.
IDLE_SECONDS = 0.4
_SWEEP_SECONDS = 0.2
# Recalled tokens are back within milliseconds, on a busy machine a little later.
PATIENCE_SECONDS = 0.5
_POLL_SECONDS = 0.05
# A lease is at most this part of what is left, so that near the limit nobody holds a spare token.
_PART_OF_REST = 16
_ACCOUNTS = 16_384  # of some 600 octets each
_GROWTH = 4  # of the next lease, while tokens are taken as fast as they are leased
_ASK_SECONDS = 5.0  # a client waits for it at MAIL
# Repeating is safe while the queue knows the addition's id (queue.publish's duplicate window).
_REPEAT_SECONDS = 100.0
_RETURNS_AT_ONCE = 32
_MOST_UNKNOWN = 10_000  # beyond, the tokens of additions without an answer count as spent

_leased = Counter("mailrelay_limit_tokens_leased_total", "Rate limit tokens leased.")
_returned = Counter("mailrelay_limit_tokens_returned_total", "Leased tokens given back unused.")
_lost = Counter(
    "mailrelay_limit_tokens_lost_total",
    "Unused tokens that could not be given back: they count as messages in their window.",
)


def lease_cap(limit: int, total: int) -> int:
    """Return how many tokens a process may hold that nobody has asked for yet; at least one."""
    return max(1, min(limit // 100, MOST_LEASED, (limit - total) // _PART_OF_REST))


def granted(limit: int, total: int, asked: int) -> int:
    """Return how many of the `asked` tokens are ours when the counter is at `total` with them."""
    return max(0, min(asked, limit - (total - asked)))


def _is_granted(waiter: asyncio.Future[bool]) -> bool:
    failed = not waiter.done() or waiter.cancelled() or waiter.exception() is not None
    return not failed and waiter.result()


@dataclass(slots=True, eq=False)
class Account:
    """One counter, as this process sees it."""

    name: CounterName
    subject: str
    limit: int
    free: int = 0  # leased, and nobody's yet
    total: int | None = None  # the counter when last heard
    stride: int = 1  # how many to lease next; grows while they are used up
    taken_at: float = 0.0  # when a token was last taken, by the loop's clock
    waiting: list[asyncio.Future[bool]] = field(default_factory=list)
    refill: asyncio.Task[None] | None = None
    used_up_at: float | None = None  # since when those who wait find it used up
    is_dropped: bool = False  # forgotten for want of room: what comes back goes on to the queue

    @property
    def cap(self) -> int:
        """How many spare tokens may be held here, by what is known."""
        return 1 if self.total is None else lease_cap(self.limit, self.total)

    @property
    def is_used_up(self) -> bool:
        """Whether the counter had reached its limit when last heard."""
        return self.total is not None and self.total >= self.limit


class LeaseBook:
    """All accounts of one process; run it beside the process's work."""

    def __init__(
        self, counters: CounterStore, clock: Clock, log: Logger, *, accounts: int = _ACCOUNTS
    ) -> None:
        self._counters = counters
        self._clock = clock
        self._log = log
        self._most_accounts = accounts
        self._now: Callable[[], float] = asyncio.get_running_loop().time
        self._accounts: OrderedDict[str, Account] = OrderedDict()
        self._with_free: set[Account] = set()
        self._owed: dict[str, tuple[CounterName, int]] = {}
        self._unknown: list[Addition] = []  # whether they were done
        self._owes = asyncio.Event()
        self._returning = 0
        self._returns = BoundedTasks(_RETURNS_AT_ONCE)

    def account(self, name: CounterName, limit: int) -> Account:
        """Return a counter's account; `limit` holds from now on."""
        subject = self._counters.subject(name)
        account = self._accounts.get(subject)
        if account is None:
            account = self._accounts[subject] = Account(name, subject, limit)
            self._make_room()
            return account
        self._accounts.move_to_end(subject)
        account.limit = limit
        return account

    def take_nowait(self, account: Account) -> bool:
        """Take a token that is here; whether there was one."""
        if not account.free or account.waiting:
            return False
        account.free -= 1
        account.taken_at = self._now()
        return True

    async def take(self, account: Account) -> bool:
        """Take a token; False when the limit is reached. Raises QueueError."""
        if self.take_nowait(account):
            return True
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        account.waiting.append(waiter)
        if account.refill is None:
            account.refill = asyncio.create_task(self._refill(account))
        try:
            return await waiter
        except asyncio.CancelledError:
            if _is_granted(waiter):
                self.put_back(account)
            raise

    def put_back(self, account: Account) -> None:
        """Return a token that was not spent."""
        account.free += 1
        self._hand_out(account)
        if account.free and (account.cap == 1 or account.is_dropped):
            self._give_back(account, account.free)
        elif account.free:
            self._with_free.add(account)

    async def hear_recalls(self) -> None:
        """Give back what others ask for, from now on."""
        await self._counters.hear_recalls(self._recalled)

    async def run(self) -> None:
        """Give back what is not used until cancelled."""
        try:
            await wait_first(self._sweep(), self._return_owed())
        finally:
            await self._returns.cancel()

    async def give_all_back(self, limit_seconds: float) -> None:
        """Give every unused token back, and wait until that is done, `limit_seconds` at most."""
        for account in list(self._with_free):
            self._give_back(account, account.free)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_seconds):
                while self._owed or self._unknown or self._returning:  # noqa: ASYNC110 — at the end
                    await asyncio.sleep(_POLL_SECONDS / 5)

    # Leasing.
    async def _refill(self, account: Account) -> None:
        """Serve those who wait at an account; one task at a time."""
        try:
            while self._is_waited_for(account):
                if account.is_used_up:
                    account.total = await self._counters.total(
                        account.name, deadline_seconds=_ASK_SECONDS
                    )
                if account.is_used_up:
                    await self._wait_or_refuse(account)
                else:
                    await self._lease(account)
        except Exception as error:  # noqa: BLE001 — whoever waits must be told, whatever it was
            for waiter in account.waiting:
                if not waiter.done():
                    waiter.set_exception(error)
            account.waiting.clear()
        finally:
            account.refill = None
            account.used_up_at = None

    async def _lease(self, account: Account) -> None:
        """Lease once: for those who wait, and some to spare while the limit is far."""
        cap = account.cap
        if self._now() - account.taken_at > IDLE_SECONDS:
            account.stride = 1
        else:
            account.stride = min(account.stride * _GROWTH, cap)
        rest = 1 if account.total is None else account.limit - account.total
        asked = max(min(account.stride, cap), min(len(account.waiting), rest, MOST_LEASED))
        addition = self._counters.addition(account.name, asked)
        try:
            total = await self._counters.add(addition, deadline_seconds=_ASK_SECONDS)
        except QueueUnavailableError:
            account.total = None
            self._find_out(addition)
            raise
        passed("limits.leased")
        if total is None:  # done by a try whose answer was lost: whether they are ours is not known
            self._owe(account.name, asked)
            account.total = None
            return
        got = granted(account.limit, total, asked)
        account.total = total - (asked - got)
        if asked > got:
            self._owe(account.name, asked - got)
        if got:
            _leased.inc(got)
            account.used_up_at = None
            account.free += got
            self._hand_out(account)
        if account.free:
            self._with_free.add(account)

    async def _wait_or_refuse(self, account: Account) -> None:
        """The counter is used up: see whether others hold unused tokens before saying so."""
        now = self._now()
        if account.used_up_at is None:
            account.used_up_at = now
            await self._counters.recall(account.subject)
        if now - account.used_up_at < PATIENCE_SECONDS:
            await asyncio.sleep(_POLL_SECONDS)
            return
        account.used_up_at = None
        for waiter in account.waiting:
            if not waiter.done():
                waiter.set_result(False)
        account.waiting.clear()

    def _is_waited_for(self, account: Account) -> bool:
        account.waiting = [waiter for waiter in account.waiting if not waiter.done()]
        return bool(account.waiting)

    def _hand_out(self, account: Account) -> None:
        """Give free tokens to those who wait, first come first served."""
        served = 0
        for waiter in account.waiting:
            if not account.free:
                break
            served += 1
            if not waiter.done():
                waiter.set_result(True)
                account.free -= 1
                account.taken_at = self._now()
        del account.waiting[:served]

    # Giving back.
    def _give_back(self, account: Account, tokens: int) -> None:
        account.free -= tokens
        if not account.free:
            self._with_free.discard(account)
        if account.total is not None:
            account.total -= tokens
        self._owe(account.name, tokens)

    def _owe(self, name: CounterName, tokens: int) -> None:
        if not tokens or name.ends_at <= self._clock():
            return  # nobody counts in that window any more
        subject = self._counters.subject(name)
        self._owed[subject] = (name, self._owed.get(subject, (name, 0))[1] + tokens)
        self._owes.set()

    def _find_out(self, addition: Addition) -> None:
        """Remember an addition that may have been done: its tokens are nobody's."""
        if len(self._unknown) < _MOST_UNKNOWN:
            self._unknown.append(addition)
            self._owes.set()

    async def _sweep(self) -> None:
        """Give back what nobody took for a while."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            idle_since = self._now() - IDLE_SECONDS
            for account in list(self._with_free):
                if not account.free:
                    self._with_free.discard(account)
                elif account.taken_at < idle_since:
                    self._give_back(account, account.free)

    async def _recalled(self, subject: str) -> None:
        """Another process found this counter used up."""
        account = self._accounts.get(subject)
        if account is None:
            return
        if account.free:
            self._give_back(account, account.free)
        account.total = max(account.total or 0, account.limit)  # read again before the next lease

    async def _return_owed(self) -> None:
        while True:
            await self._owes.wait()
            self._owes.clear()
            while self._unknown:
                self._returning += 1
                await self._returns.start(self._undo(self._unknown.pop()))
            while self._owed:
                _, (name, tokens) = self._owed.popitem()
                self._returning += 1
                await self._returns.start(self._return(self._counters.addition(name, -tokens)))

    async def _return(self, addition: Addition) -> None:
        if await self._add_in_the_end(addition):
            passed("limits.returned")
            _returned.inc(-addition.amount)
        self._returning -= 1

    async def _undo(self, addition: Addition) -> None:
        """Do an addition for certain (under its id it is done once), then give it back."""
        if await self._add_in_the_end(addition):
            self._owe(addition.name, addition.amount)
        self._returning -= 1

    async def _add_in_the_end(self, addition: Addition) -> bool:
        while not self._counters.is_reachable:  # noqa: ASYNC110 — many wait, none is in a hurry
            await asyncio.sleep(_SWEEP_SECONDS)
        try:
            await self._counters.add(addition, deadline_seconds=_REPEAT_SECONDS)
        except QueueError as error:
            _lost.inc(abs(addition.amount))
            self._log.warning(
                "limits.tokens_lost",
                limit=addition.name.limit_name,
                tokens=abs(addition.amount),
                error=str(error),
            )
            return False
        return True

    def _make_room(self) -> None:
        """Forget the accounts that were not asked for longest."""
        for _ in range(2):  # a busy one is passed over, so the surplus shrinks again afterwards
            if len(self._accounts) <= self._most_accounts:
                return
            subject, account = next(iter(self._accounts.items()))
            if account.refill is not None:
                self._accounts.move_to_end(subject)
                continue
            del self._accounts[subject]
            account.is_dropped = True
            if account.free:
                self._give_back(account, account.free)
