"""Hold a message's place under the rate limits from MAIL to the answer to its content.

It is reserved at MAIL, given back when the transaction ends without a 250, and spent with the 250.
"""

from __future__ import annotations

from enum import Enum

from mailrelay_ingress.leases import Account, LeaseBook


class _State(Enum):
    OPEN = "open"  # up to the end of the content
    STORING = "storing"  # it may be in the queue: only `settle` gives back now
    ENDED = "ended"


class Reservation:
    """One transaction's tokens."""

    __slots__ = ("_book", "_held", "_state")

    def __init__(self, book: LeaseBook | None = None) -> None:
        self._book = book  # None: nothing is counted
        self._held: list[Account] = []
        self._state = _State.OPEN

    def hold(self, account: Account) -> None:
        """Keep a token that was taken."""
        self._held.append(account)
        if self._state is _State.ENDED:  # the client went meanwhile
            self._give_back()

    def storing(self) -> None:
        """The content is complete and goes to the queue: a client that leaves now has used it.

        Its message may be queued and delivered all the same.
        """
        self._state = _State.STORING

    def settle(self, *, accepted: bool) -> None:
        """The queue's word is there."""
        self._state = _State.ENDED
        if accepted:
            self._held.clear()
        else:
            self._give_back()

    def release(self) -> None:
        """The transaction is over: RSET, a refusal, a client that went. Once is enough."""
        if self._state is _State.OPEN:
            self._state = _State.ENDED
            self._give_back()

    def _give_back(self) -> None:
        while self._held and self._book is not None:
            self._book.put_back(self._held.pop())
