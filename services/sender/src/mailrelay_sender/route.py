"""Where a recipient's mail goes next. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from mailrelay.config.model import RelayConfig
from mailrelay.mail.job import Job
from mailrelay.mail.next_hop import format_next_hop, parse_next_hop


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
        return format_next_hop(self.host, self.port)


@dataclass(frozen=True, slots=True)
class NamedHop(SmartHost):
    """Hand released mail to the next hop that was named with the release."""

    name: str = "named"


Route = Capture | SmartHost


def route_of_job(job: Job, route: Route) -> Route:
    """Return where a job goes: the relay's own route, unless its release names a next hop."""
    if job.release is None or not job.release.next_hop:
        return route
    return NamedHop(*parse_next_hop(job.release.next_hop))


def route_of(config: RelayConfig) -> Route:
    """Return the relay's route; every recipient has the same one until there are more."""
    if config.forward_smtp:
        return SmartHost(config.forward_host, config.forward_port)
    return Capture()
