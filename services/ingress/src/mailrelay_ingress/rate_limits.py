"""Decide at MAIL whether a message has a place under the rate limits (docs/decisions/0018).

A place is a token of each of four counters: its sender's hour and day, everybody's hour and day
(`mailrelay.mail.limit`). The sender's come first, so that who is over a limit of his own takes
none of everybody's, not even for a moment.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from prometheus_client import Counter

from mailrelay.config.model import RateLimits
from mailrelay.mail.limit import CounterName, Scope, Window, limit_name, sender_of
from mailrelay.mail.reply import Reply
from mailrelay.queue.errors import QueueError
from mailrelay.runtime.clock import Clock
from mailrelay.runtime.logging import Logger
from mailrelay_ingress import replies
from mailrelay_ingress.leases import Account, LeaseBook
from mailrelay_ingress.reservation import Reservation
from mailrelay_ingress.session import Client

_limited = Counter(
    "mailrelay_rate_limited_total",
    "Messages refused at MAIL because a limit is reached.",
    ["limit"],  # sender_hour, sender_day, global_hour, global_day
)
for _scope in Scope:
    for _window in Window:
        _limited.labels(limit_name(_scope, _window))  # 0: the first one is an increase, too

_MOST_KNOWN = 4096

_BY_SCOPE = {Scope.SENDER: replies.SENDER_OVER_LIMIT, Scope.GLOBAL: replies.RELAY_OVER_LIMIT}


@dataclass(frozen=True, slots=True)
class _Known:
    """Where a sender's next message is counted, up to the end of the hour."""

    accounts: tuple[Account, ...]
    until: float

    def holds(self, now: float) -> bool:
        """Whether these are still the ones: a clock that is set back finds others, too."""
        if now >= self.until or now < self.until - Window.HOUR.seconds:
            return False
        return not any(account.is_dropped for account in self.accounts)


class RateLimiter:
    """The rate limits of one relay, as one process keeps them."""

    def __init__(self, limits: RateLimits, book: LeaseBook, clock: Clock, log: Logger) -> None:
        self._limits = limits
        self._book = book
        self._clock = clock
        self._log = log
        # By sender, None being everybody: most messages come from one that was just here.
        self._known: dict[str | None, _Known] = {}

    def use(self, limits: RateLimits) -> None:
        """Go by other limits from the next MAIL on; what was counted stays counted."""
        self._limits = limits
        self._known.clear()

    async def reserve(self, reverse_path: str, client: Client) -> Reservation | Reply:
        """Reserve a place for a message, or say why there is none."""
        if not self._limits.enabled:
            return Reservation()
        reservation = Reservation(self._book)
        now = self._clock()
        try:
            for whose in (sender_of(reverse_path), None):
                over = await self._take(reservation, self._accounts(whose, now))
                if over is not None:
                    reservation.release()
                    return self._refuse(over, reverse_path, client)
        except QueueError as error:
            reservation.release()
            self._log.warning("limits.unavailable", error=str(error), client=client.address)
            return replies.QUEUE_UNREACHABLE
        except BaseException:  # above all a cancellation: the client is gone
            reservation.release()
            raise
        return reservation

    def _accounts(self, whose: str | None, now: float) -> tuple[Account, ...]:
        """Return the accounts of a sender, or of everybody (None), in this hour and day."""
        known = self._known.get(whose)
        if known is not None and known.holds(now):
            return known.accounts
        scope = Scope.GLOBAL if whose is None else Scope.SENDER
        accounts = tuple(
            self._book.account(
                CounterName(scope, window, window.number(now), whose or ""),
                self._limits.most(scope, window),
            )
            for window in Window
        )
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        # A day ends with one of its hours.
        self._known[whose] = _Known(accounts, min(account.name.ends_at for account in accounts))
        return accounts

    async def _take(
        self, reservation: Reservation, accounts: tuple[Account, ...]
    ) -> Account | None:
        """Take a token of each; return the account that has none left. Raises QueueError."""
        missing = []
        for account in accounts:
            if self._book.take_nowait(account):
                reservation.hold(account)
            else:
                missing.append(account)
        if not missing:
            return None
        if len(missing) == 1:
            return await self._take_one(reservation, missing[0])
        answers = await asyncio.gather(
            *(self._take_one(reservation, account) for account in missing), return_exceptions=True
        )
        over: Account | None = None
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            over = over or answer
        return over

    async def _take_one(self, reservation: Reservation, account: Account) -> Account | None:
        if await self._book.take(account):
            reservation.hold(account)
            return None
        return account

    def _refuse(self, account: Account, reverse_path: str, client: Client) -> Reply:
        name = account.name
        _limited.labels(name.limit_name).inc()
        reply = _BY_SCOPE[name.scope]
        self._log.warning(
            "mail.rate_limited",
            limit=name.limit_name,
            most=account.limit,
            resets_in_seconds=round(max(0.0, name.ends_at - self._clock())),
            sender=reverse_path,
            client=client.address,
            user=client.user,
            reply=str(reply),
        )
        return reply
