"""What every session of a listener shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from mailrelay.runtime.certificate import ServerCertificate
from mailrelay.runtime.logging import Logger
from mailrelay_ingress.authentication import Authenticator
from mailrelay_ingress.enqueue import Enqueuer
from mailrelay_ingress.memory import MemoryBudget
from mailrelay_ingress.policy import Policy
from mailrelay_ingress.rate_limits import RateLimiter


@dataclass(frozen=True, slots=True)
class ListenerParts:
    """The collaborators, and the few facts that a session needs itself."""

    policy: Policy
    authenticator: Authenticator
    enqueuer: Enqueuer
    rate_limiter: RateLimiter
    budget: MemoryBudget
    log: Logger
    host_name: str
    max_message_bytes: int
    certificate: ServerCertificate | None  # None: no TLS


class Sessions(Protocol):
    """Where sessions are counted; what a session sees of its listener."""

    is_stopping: bool

    @property
    def connections(self) -> int:
        """How many clients are connected."""

    def opened(self, session: OpenSession) -> None:
        """Count a session in."""

    def closed(self, session: OpenSession) -> None:
        """Count a session out."""


class OpenSession(Protocol):
    """What a listener sees of a session."""

    in_data: bool

    def say_shutting_down(self) -> None:
        """Tell the client to come again, and close the connection."""
