"""Where a recipient's mail goes next. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from mailrelay.config.model import RelayConfig


@dataclass(frozen=True, slots=True)
class Capture:
    """Keep the mail, to be looked at and released: what happens without an upstream."""

    name: str = "capture"


@dataclass(frozen=True, slots=True)
class SmartHost:
    """Hand the mail to one upstream."""

    host: str
    port: int
    name: str = "smarthost"

    @property
    def next_hop(self) -> str:
        """The upstream as logs and records name it."""
        return f"{self.host}:{self.port}"


Route = Capture | SmartHost


def route_of(config: RelayConfig) -> Route:
    """Return the relay's route; every recipient has the same one until there are more."""
    if config.forward_smtp:
        return SmartHost(config.forward_host, config.forward_port)
    return Capture()
