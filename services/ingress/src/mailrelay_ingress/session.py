"""What is known of a client, and of the transaction under way."""

from __future__ import annotations

from dataclasses import dataclass, field

from mailrelay.config.networks import is_loopback
from mailrelay.mail.address import same_mailbox
from mailrelay_ingress.reservation import Reservation


@dataclass(frozen=True, slots=True)
class Client:
    """A client's session so far, as policy sees it."""

    address: str
    is_local: bool
    helo: str = ""
    esmtp: bool = False
    tls: str = ""  # version and cipher, empty without TLS
    user: str = ""  # authenticated as


@dataclass(slots=True)
class Transaction:
    """One MAIL … DATA under way. Recipients keep their order; exact repeats count once."""

    reverse_path: str
    smtputf8: bool = False
    body_8bitmime: bool = False
    declared_bytes: int = 0  # by SIZE=, 0 when the client did not say
    recipients: list[str] = field(default_factory=list)
    # Its place under the rate limits; what ends the transaction gives it back.
    reservation: Reservation = field(default_factory=Reservation, compare=False)
    _seen: set[str] = field(default_factory=set)

    def add(self, address: str) -> None:
        """Add a recipient; the same mailbox again is the same recipient.

        RFC 5321 leaves repeats to the server; delivering one copy is what every peer does.
        """
        key = same_mailbox(address)
        if key not in self._seen:
            self._seen.add(key)
            self.recipients.append(address)


def is_local_address(address: str) -> bool:
    """Tell whether a peer's address is loopback, also when IPv4 comes mapped into IPv6."""
    return is_loopback(address)
